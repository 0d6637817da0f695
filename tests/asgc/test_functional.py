"""Differentiating through whole ASGC steps, as meta-learning by truncated unrolling does."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import functional

HYPERPARAMETERS = {
    "clip_factor": 1.5,
    "clip_sharpness": 3.0,
    "noise_scale": 0.2,
    "noise_decay": 0.3,
    "stats_decay": 0.3,
    "outlier_share": 0.8,
    "lr": 0.05,
    "weight_decay": 0.01,
}
RULE_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adam": {"amsgrad": True, "eps": 1e-3},
    "adamw": {"eps": 1e-3},
    "rmsprop": {"momentum": 0.9, "centered": True, "eps": 1e-2},
    "adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
}


def unrolled_loss(values: Tensor, start: Tensor, rule: str, fixed: dict[str, Any]) -> Tensor:
    """Loss after three steps on a quartic, as a function of the hyperparameters and the starting point."""
    chosen = dict(zip(HYPERPARAMETERS, values.unbind(), strict=True))
    options = functional.options(rule, **chosen, **RULE_OPTIONS[rule], **fixed)
    state = functional.init(start, 3, options)
    state["stats"] = state["stats"].double()
    curvature = torch.linspace(0.5, 2, start.numel(), dtype=torch.float64).view(start.shape)
    param = start
    for step in range(3):
        grad = curvature * param**3 * (8 if step == 1 else 1) - 0.2
        param, state = functional.step(param, grad, state, options)
    return (curvature * param**4).sum()


@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize("rule", RULE_OPTIONS)
def test_hypergradients_equal_finite_differences(rule: str, mode: str, noise_at: str) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    values = torch.tensor(list(HYPERPARAMETERS.values()), dtype=torch.float64, requires_grad=True)
    fixed = {"mode": mode, "noise_at": noise_at, "granularity": "unit" if rule == "sgd" else "layer"}
    assert torch.autograd.gradcheck(
        lambda v, s: unrolled_loss(v, s, rule, fixed), (values, start), atol=1e-6, rtol=1e-4
    )
    gradient = torch.autograd.grad(unrolled_loss(values, start, rule, fixed), values)[0]
    names = [name for name, g in zip(HYPERPARAMETERS, gradient.tolist(), strict=True) if g == 0]
    assert names == []  # every one of them matters here


def test_threshold_and_betas_get_gradients() -> None:
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, 0.8, 0.9, 1e-2)]
    start = torch.linspace(-2, 2, 7, dtype=torch.float64)

    def loss(threshold: Tensor, beta1: Tensor, beta2: Tensor, eps: Tensor) -> Tensor:
        options = functional.options("adam", lr=0.1, threshold=threshold, betas=(beta1, beta2), eps=eps)
        param, state = start, functional.init(start, 0, options)
        state["stats"] = state["stats"].double()
        for _ in range(3):
            param, state = functional.step(param, 2 * param**3, state, options)
        return param.square().sum()

    assert torch.autograd.gradcheck(loss, tensors, atol=1e-6, rtol=1e-4)


def test_steps_change_nothing_in_place() -> None:
    options = functional.options("adam", lr=0.1)
    param, grad = torch.randn(5), torch.randn(5)
    state = functional.init(param, 0, options)
    inputs = [param, grad, *(v for v in state.values() if isinstance(v, Tensor))]
    copies = [x.clone() for x in inputs]
    new_param, new_state = functional.step(param, grad, state, options)
    assert all(torch.equal(x, y) for x, y in zip(inputs, copies, strict=True))
    assert not torch.equal(new_param, param)
    assert new_state["noise_step"] == 1


def test_gradients_are_finite_without_signal() -> None:
    """Zero gradients, n = 0 and sigma = 0 do not poison the hypergradient with NaN."""
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    start = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for mode in ("value", "norm"):
        options = functional.options("sgd", lr=0.1, clip_factor=factor, mode=mode)
        param, state = start, functional.init(start, 0, options)
        for _ in range(2):
            param, state = functional.step(param, 3 * param, state, options)
        gradients = torch.autograd.grad(param.sum(), (factor, start))
        assert all(torch.isfinite(g).all() for g in gradients)


def test_options_are_complete_and_checked() -> None:
    options = functional.options("sgd", momentum=0.5)
    assert options["clip_factor"] == 2
    assert options["outlier_share"] == 0.9
    assert options["momentum"] == 0.5
    assert functional.options(mode="value")["clip_factor"] == 3
    assert functional.options()["outlier_share"] == 0.25
    with pytest.raises(ValueError, match="clip_factor"):
        functional.options(clip_factor=torch.tensor(-1.0))
    with pytest.raises(ValueError, match="clip_factor must be one number"):
        functional.options(clip_factor=torch.ones(2))


def test_units() -> None:
    assert functional.units(torch.empty(4, 2), "unit") == 4
    assert functional.units(torch.empty(4), "unit") == 1
    assert functional.units(torch.empty(()), "unit") == 1
    assert functional.units(torch.empty(4, 2), "layer") == 1
    assert math.isinf(functional.options(threshold=math.inf)["threshold"])
