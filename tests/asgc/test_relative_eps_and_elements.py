"""Epsilon in standard deviations of the gradient, and thresholds of single elements: what they are for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asgc import ASGC, functional, wrap

RULES_WITH_EPS = ("adam", "adamw", "rmsprop", "adagrad")


def gradients(steps: int, size: int = 64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(steps)]


def path(given: list[Tensor], **options: Any) -> Tensor:
    """Where a parameter ends that is given these gradients."""
    param = torch.zeros_like(given[0])
    opt = ASGC([param], lr=0.01, **options)
    for grad in given:
        param.grad = grad.clone()
        opt.step()
    return param


@pytest.mark.parametrize("rule", RULES_WITH_EPS)
@pytest.mark.parametrize("granularity", ["layer", "unit"])
def test_with_eps_relative_to_sigma_the_scale_of_the_loss_does_not_matter(rule: str, granularity: str) -> None:
    options = {"rule": rule, "granularity": granularity, "eps": 0.0, "weight_decay": 0.0}
    grads = [grad.view(4, 16) for grad in gradients(12)]
    large = [1024.0 * grad for grad in grads]
    relative = [path(some, eps_scale=10.0, **options) for some in (grads, large)]
    torch.testing.assert_close(*relative, rtol=1e-6, atol=1e-9)
    absolute = [path(some, **{**options, "eps": 10.0}) for some in (grads, large)]
    assert (absolute[1] / absolute[0]).abs().median() > 5


@given(scale=st.floats(1e-3, 1e3))
def test_the_step_of_adam_is_that_of_momentum_over_sigma_where_the_scale_is_large(scale: float) -> None:
    """eps_scale >> 1: lr m / (eps_scale sigma), sigma the layer's own, known before each step."""
    grads = [scale * grad for grad in gradients(6)]
    found = path(grads, eps_scale=1e6, noise_scale=0.0, clip_factor=math.inf)
    m, sigma, expected = torch.zeros_like(grads[0]), math.sqrt(float(grads[0].square().mean())), 0.0
    stats = functional.init(grads[0], 0, functional.options())["stats"]
    for t, grad in enumerate(grads, start=1):
        m = 0.9 * m + 0.1 * grad
        if t > 1:
            sigma = math.sqrt(float(stats[2]))
        expected = expected - 0.01 * m / (1 - 0.9**t) / (1e6 * sigma)
        stats = functional.transform(grad, stats, t, 0, functional.options(noise_scale=0.0)).stats
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)


def test_a_layer_without_gradient_keeps_its_own_eps() -> None:
    param = torch.ones(3)
    opt = ASGC([param], lr=0.1, eps_scale=1.0, eps=1e-3)
    param.grad = torch.zeros(3)
    opt.step()
    assert torch.equal(param, torch.ones(3))


@pytest.mark.parametrize("rule", RULES_WITH_EPS)
@pytest.mark.parametrize("first", [0.0, math.inf])
def test_without_an_eps_of_its_own_a_layer_that_begins_without_a_gradient_goes_on(rule: str, first: float) -> None:
    param = torch.zeros(3)
    opt = ASGC([param], lr=0.1, rule=rule, eps_scale=1.0, eps=0.0)
    for value in (first, 0.0, 1.0):
        param.grad = torch.full((3,), value)
        opt.step()
    assert torch.isfinite(param).all()
    assert (param < 0).all()


def test_eps_scale_is_differentiable() -> None:
    grads = gradients(4, size=5)

    def end(eps_scale: Tensor) -> Tensor:
        options = functional.options(lr=0.1, eps_scale=eps_scale, noise_scale=0.0)
        param = torch.zeros_like(grads[0])
        state = functional.init(param, 0, options)
        state["stats"] = state["stats"].double()
        for grad in grads:
            param, state = functional.step(param, grad, state, options)
        return param

    assert torch.autograd.gradcheck(end, (torch.tensor(0.7, dtype=torch.float64, requires_grad=True),))


ELEMENTS: dict[str, Any] = {"granularity": "element", "mode": "value", "noise_scale": 0.0, "clip_sharpness": math.inf}


@pytest.mark.parametrize("rule", ["adam", "adamw", "rmsprop"])
def test_an_element_is_clipped_at_its_own_scale(rule: str) -> None:
    """Two elements of steady gradients, 1 and 100: a burst of the first to 100 is nothing out of the ordinary for the
    layer, and for the element it is."""
    options = functional.options(rule=rule, lr=0.01, clip_factor=3.0, **ELEMENTS)
    layers = functional.options(rule=rule, lr=0.01, clip_factor=3.0, **{**ELEMENTS, "granularity": "layer"})
    param, burst = torch.zeros(2), torch.tensor([100.0, 100.0])
    passed = {}
    for name, chosen in (("element", options), ("layer", layers)):
        state = functional.init(param, 0, chosen)
        for k in range(50):
            _, state = functional.step(param, torch.tensor([1.0, 100.0]) * (-1) ** k, state, chosen)
        moment = "square_avg" if rule == "rmsprop" else "exp_avg_sq"
        before, decay = state[moment][0], 0.99 if rule == "rmsprop" else 0.999
        after = functional.step(param, burst, state, chosen)[1]
        passed[name] = float(((after[moment][0] - decay * before) / (1 - decay)).sqrt())  # what reached the rule
        assert after["stats"].shape[1] == 1
    assert passed["layer"] == pytest.approx(100, rel=1e-3)
    assert passed["element"] == pytest.approx(3.0, rel=1e-2)


def test_an_element_whose_gradient_was_zero_has_its_layers_threshold_and_is_not_stuck() -> None:
    options = functional.options(lr=0.01, clip_factor=3.0, **ELEMENTS)
    param = torch.zeros(4)
    state = functional.init(param, 0, options)
    for k in range(20):
        _, state = functional.step(param, torch.tensor([0.0, 1.0, 1.0, 1.0]) * (-1) ** k, state, options)
    seen = functional.step(param, torch.tensor([2.0, 1.0, 1.0, 1.0]), state, options)[1]
    assert float(seen["exp_avg_sq"][0]) == pytest.approx(0.001 * 4.0, rel=1e-4)  # 2 is within 3 sigma of the layer


def test_the_threshold_of_an_element_rises_as_its_documentation_says() -> None:
    """A gradient that has become far larger for good: (1 - beta2) (clip_factor^2 - 1) a step."""
    options = functional.options(lr=0.01, betas=(0.9, 0.9), clip_factor=2.0, **ELEMENTS)
    param = torch.zeros(1)
    state = functional.init(param, 0, options)
    for k in range(400):
        _, state = functional.step(param, torch.tensor([1.0]) * (-1) ** k, state, options)
    before = float(state["exp_avg_sq"])
    for _ in range(5):
        _, state = functional.step(param, torch.tensor([1e6]), state, options)
    assert float(state["exp_avg_sq"]) / before == pytest.approx((1 + 0.1 * 3) ** 5, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "sgd", "eps_scale": 0.1}, "eps_scale=0.1 needs a rule that has an eps, not 'sgd'"),
        (
            {"eps_scale": 0.1, "adapt": "hypergradient"},
            "adapt='hypergradient' cannot be used together with eps_scale=0.1",
        ),
        ({"granularity": "element"}, "granularity='element' needs mode='value', not 'norm'"),
        ({"granularity": "element", "mode": "value", "rule": "adagrad"}, "adam, adamw, rmsprop"),
        ({"granularity": "element", "mode": "value", "rule": "sgd"}, "running second moment"),
        ({"granularity": "element", "mode": "value", "threshold": 1.0}, "not threshold=1.0"),
        ({"granularity": "element", "mode": "value", "on_shift": "adam-rel"}, "which on_shift='adam-rel' sets to 0"),
        ({"granularity": "element", "mode": "value", "adapt": "hypergradient"}, "together with granularity='element'"),
        ({"eps_scale": 0.1, "implementation": "foreach"}, "eps_scale=0.1 .done by reference and cpu only"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ASGC([torch.zeros(2)], lr=0.1, **options)


def test_wrap_knows_no_second_moment() -> None:
    inner = torch.optim.Adam([torch.zeros(2, requires_grad=True)])
    with pytest.raises(ValueError, match="needs the rule's second moment: use ASGC"):
        wrap(inner, granularity="element", mode="value")


@pytest.mark.parametrize("options", [{"eps_scale": 0.5}, {"granularity": "element", "mode": "value"}])
def test_preview_is_what_the_rule_sees(options: dict[str, Any]) -> None:
    param = torch.zeros(8)
    opt = ASGC([param], lr=0.1, clip_factor=1.2, **options)
    for grad in gradients(5, size=8):
        param.grad = grad.float()
        (shown,) = opt.preview()
        before = opt.state[param]["exp_avg"].clone() if param in opt.state else torch.zeros(8)
        opt.step()
        torch.testing.assert_close((opt.state[param]["exp_avg"] - 0.9 * before) / 0.1, shown.seen, rtol=1e-4, atol=1e-5)
