"""A ceiling on a layer's step: that it holds, for whom, and that nothing else changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asgc import ASGC, functional
from asgc.ceiling import LEFT, SINGULAR, UPDATE

SGD = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.5},
    {"mode": "value"},
)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def bursts(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    """Gradients of which every fifth is a million times larger."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (1e6 if k % 5 == 4 else 1.0) for k in range(steps)]


def shares(grads: list[Tensor], weights: Tensor, floor: float = 1e-3, **options: Any) -> list[float]:
    """Of each step: its root mean square over that of the weights, or over the floor."""
    param, found = weights.clone(), []
    opt = ASGC([param], exclude_head=False, weight_floor=floor, **options)
    for grad in grads:
        before = param.clone()
        param.grad = grad.clone()
        opt.step()
        found.append(rms(param - before) / max(rms(before), floor))
    return found


@pytest.mark.parametrize("options", SGD, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(1e-4, 1e4), ceiling=st.sampled_from([1e-4, 1e-2, 0.3]))
def test_no_step_of_sgd_is_larger_whatever_the_gradients_do(
    options: dict[str, Any], seed: int, scale: float, ceiling: float
) -> None:
    weights = scale * torch.randn(6, 50, generator=torch.Generator().manual_seed(seed + 1))
    found = shares(bursts((6, 50), 12, seed), weights, lr=1e7, rule="sgd", ceiling=ceiling, **options)
    assert max(found) <= ceiling * 1.05  # noise and gradient are not quite uncorrelated
    assert max(found) > ceiling / 4


@pytest.mark.parametrize("rule", ["adam", "adamw", "rmsprop", "adagrad"])
def test_behind_rules_that_divide_it_holds_but_for_growth_within_a_step(rule: str) -> None:
    weights = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    found = shares(bursts((6, 50), 40), weights, lr=10.0, rule=rule, ceiling=1e-3, weight_decay=0.0)
    assert max(found) <= (1.5e-3 if "adam" in rule else 3e-3)
    assert sorted(found)[20] == pytest.approx(1e-3, rel=0.3)
    free = shares(bursts((6, 50), 40), weights, lr=10.0, rule=rule, weight_decay=0.0)
    assert min(free) > 5e-3


def test_below_the_ceiling_the_steps_are_the_same() -> None:
    grads, weights = bursts((4, 4), 10), torch.ones(4, 4)
    for rule in ("sgd", "adam"):
        ends = []
        for ceiling in (None, 1e9):
            param = weights.clone()
            opt = ASGC([param], lr=0.01, rule=rule, ceiling=ceiling, exclude_head=False, implementation="reference")
            for grad in grads:
                param.grad = grad.clone()
                opt.step()
            ends.append(param)
            assert opt.diagnostics()[0]["step_left"] == 1.0
        assert torch.equal(*ends)


def test_the_head_is_free_and_who_asks_has_it_bounded() -> None:
    def model() -> list[Tensor]:
        return [torch.ones(3, 3), torch.ones(3), torch.ones(2, 3), torch.ones(2)]

    def left(**options: Any) -> list[float]:
        params = model()
        opt = ASGC(params, lr=1.0, ceiling=1e-3, **options)
        for param in params:
            param.grad = torch.ones_like(param)
        opt.step()
        return [layer["step_left"] for layer in opt.diagnostics()]

    assert [one < 1 for one in left()] == [True, True, False, False]
    assert all(one < 1 for one in left(exclude_head=False))


def test_weights_that_are_zero_grow_from_the_floor() -> None:
    found = shares([torch.ones(5)] * 3, torch.zeros(5), floor=0.5, lr=1.0, rule="sgd", ceiling=0.01, noise_scale=0.0)
    assert found == pytest.approx([0.01] * 3, rel=1e-5)


def test_units_share_the_ceiling_of_their_layer() -> None:
    weights = torch.ones(3, 4)
    options: dict[str, Any] = {"lr": 1.0, "rule": "sgd", "ceiling": 0.01, "noise_scale": 0.0, "granularity": "unit"}
    grad = torch.tensor([[1.0], [10.0], [100.0]]).expand(3, 4)
    param = weights.clone()
    opt = ASGC([param], exclude_head=False, **options)
    param.grad = grad.clone()
    opt.step()
    moved = weights - param
    assert rms(moved) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moved / moved[0, 0], grad, rtol=1e-3, atol=0.0)  # the direction stays


def test_the_spectral_norm_follows_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(8, 30, generator=generator)
    opt = ASGC([param], lr=1.0, ceiling=0.02, ceiling_norm="spectral", exclude_head=False)
    for _ in range(60):
        before = param.clone()
        size = float(torch.linalg.matrix_norm(before, 2))
        param.grad = torch.randn(8, 30, generator=generator)
        opt.step()
        step = float(torch.linalg.matrix_norm(param - before, 2))
        assert step <= 0.02 * size * 1.3
    vector = opt.state[param][SINGULAR]
    assert float(torch.linalg.vector_norm(before @ vector)) == pytest.approx(size, rel=1e-3)
    bias = torch.ones(5)
    bias.grad = torch.ones(5)
    ASGC([bias], lr=1.0, rule="sgd", ceiling=0.02, ceiling_norm="spectral", exclude_head=False, noise_scale=0.0).step()
    assert rms(bias - 1) == pytest.approx(0.02, rel=1e-5)


def test_after_a_reset_the_first_step_is_bounded_as_a_first_one() -> None:
    param = torch.ones(4, 50)
    opt = ASGC([param], lr=10.0, ceiling=1e-3, exclude_head=False, on_shift="reset", noise_scale=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        param.grad = torch.randn(4, 50, generator=generator)
        opt.step()
    assert float(opt.state[param][UPDATE]) < 0.5
    opt.shift()
    before = param.clone()
    param.grad = torch.randn(4, 50, generator=generator)
    opt.step()
    assert rms(param - before) <= 1.01e-3


@pytest.mark.parametrize("mode", ["norm", "value"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "rmsprop"])
def test_it_is_differentiable_in_itself_and_through_all_that_it_is_made_of(rule: str, mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(5)]
    momentum = {"momentum": 0.9} if rule == "sgd" else {}

    def end(values: Tensor) -> Tensor:
        given = dict(zip(("ceiling", "clip_factor", "noise_scale"), values, strict=True))
        options = functional.options(rule, lr=1.0, mode=mode, **momentum, **given)
        param = torch.ones(3, 5, dtype=torch.float64)
        state = functional.init(param, 0, options)
        state["stats"] = state["stats"].double()
        for grad in grads:
            param, state = functional.step(param, grad * param, state, options)
        return param.square().sum()

    values = torch.tensor([0.03, 1.0, 0.2], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(end(values), values)
    for k, slope in enumerate(slopes):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 1e-6
        numeric = (end(values.detach() + step) - end(values.detach() - step)) / 2e-6
        assert float(slope) == pytest.approx(float(numeric), rel=1e-4, abs=1e-7)
    assert slopes.abs().min() > 1e-5


def test_a_step_count_that_restarts_does_not_loosen_it() -> None:
    for rule, options in (("sgd", {"momentum": 0.9}), ("adam", {}), ("rmsprop", {}), ("adagrad", {})):
        param = torch.ones(4, 50)
        opt = ASGC(
            [param], 10.0, rule, ceiling=1e-3, exclude_head=False, on_shift="adam-rel", noise_scale=0.0, **options
        )
        for _ in range(30):
            param.grad = torch.ones(4, 50)
            opt.step()
        opt.shift()
        before = param.clone()
        param.grad = torch.ones(4, 50)
        opt.step()
        most = 1.01e-3 if rule == "sgd" else 2e-3  # Adam's u grows by what its bias corrections make of old moments
        assert 1e-4 < rms(param - before) < most * rms(before), rule


def test_steps_too_small_to_be_seen_in_the_weights_are_known() -> None:
    """A warm-up from nothing: the bound holds when the learning rate has come."""
    param = torch.ones(4, 50)
    opt = ASGC([param], lr=1e-12, ceiling=1e-3, exclude_head=False)
    for step in range(6):
        if step == 5:
            opt.param_groups[0]["lr"] = 10.0
        before = param.clone()
        param.grad = torch.ones(4, 50)
        opt.step()
    assert rms(param - before) == pytest.approx(1e-3, rel=0.3)


def test_weights_that_were_all_zero_have_a_singular_value_once_they_are_not() -> None:
    param = torch.zeros(4, 6)
    opt = ASGC([param], lr=1.0, ceiling=0.1, ceiling_norm="spectral", exclude_head=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        param.grad = torch.randn(4, 6, generator=generator)
        opt.step()
    vector = opt.state[param][SINGULAR]
    assert float(vector.norm()) == pytest.approx(1, rel=1e-5)
    assert float(torch.linalg.vector_norm(param @ vector)) > 0.5 * float(torch.linalg.matrix_norm(param, 2))


def test_layers_without_elements_and_rmsprop_that_keeps_its_average_do_not_fail() -> None:
    for options in ({"granularity": "unit"}, {"rule": "rmsprop", "alpha": 1.0}):
        params = [torch.zeros(0, 5), torch.ones(3)]
        opt = ASGC(params, lr=0.1, ceiling=0.1, exclude_head=False, **options)
        for param in params:
            param.grad = torch.ones_like(param)
        opt.step()
        assert torch.isfinite(params[1]).all()


def test_where_biases_have_a_group_of_their_own_they_are_no_head() -> None:
    matrices, vectors = (
        [torch.ones(3, 3), torch.ones(3, 3), torch.ones(2, 3)],
        [torch.ones(3), torch.ones(3), torch.ones(2)],
    )
    opt = ASGC([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=1.0, ceiling=1e-3)
    for param in (*matrices, *vectors):
        param.grad = torch.ones_like(param)
    opt.step()
    assert [layer["step_left"] < 1 for layer in opt.diagnostics()] == [True, True, False, True, True, True]


def test_a_saved_state_goes_on_the_same() -> None:
    grads = bursts((4, 6), 8)

    def started() -> tuple[Tensor, ASGC]:
        param = torch.ones(4, 6)
        return param, ASGC([param], lr=1.0, ceiling=1e-2, ceiling_norm="spectral", exclude_head=False)

    whole, opt = started()
    for k, grad in enumerate(grads):
        if k == 4:
            saved, weights = opt.state_dict(), whole.clone()
            saved = {**saved, "state": {n: {**own} for n, own in saved["state"].items()}}
            again, resumed = started()
            again.copy_(weights)
            resumed.load_state_dict(saved)
        whole.grad = grad.clone()
        opt.step()
    for grad in grads[4:]:
        again.grad = grad.clone()
        resumed.step()
    assert torch.equal(whole, again)
    assert math.isclose(float(opt.state[whole][LEFT]), float(resumed.state[again][LEFT]))


def test_an_unbounded_gradient_has_no_ceiling_in_value_mode() -> None:
    with pytest.raises(ValueError, match="ceiling needs a bound on the gradient"):
        ASGC([torch.ones(2)], lr=0.1, rule="sgd", mode="value", clip_factor=math.inf, ceiling=0.1)
