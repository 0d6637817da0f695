"""Online adaptation: the hypergradient is the derivative it says, and following it pays and does no harm."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC, adapt, functional, rules

from .pairs import RULES

KEYS = ("clip_factor", "clip_sharpness")


def warmed_up(options: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """A parameter and its state in fp64 after some steps on gradients with outliers."""
    generator = torch.Generator().manual_seed(3)
    param = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    state = functional.init(param, 2, options)
    for name in ("stats", *adapt.DERIVATIVES):
        state[name] = state[name].double()
    for step in range(7):
        g = torch.randn(5, 7, generator=generator, dtype=torch.float64) * (3.0 if step % 3 == 2 else 1.0) + 0.3
        param, state = functional.step(param, g, state, options)
    for name in adapt.DERIVATIVES:  # what is left of earlier measurements is tested below
        state[name] = torch.zeros_like(state[name])
    state["adapted"][adapt.LENGTH] = 0.0
    return param, state


@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize(("rule", "rule_options"), RULES, ids=lambda x: x if isinstance(x, str) else "")
def test_hypergradient_equals_finite_differences(
    rule: str, rule_options: dict[str, Any], mode: str, noise_at: str, granularity: str
) -> None:
    """d loss(step(theta)) / d theta, with and without the compensation for scale, two real forward steps each."""
    chosen = {"mode": mode, "noise_at": noise_at, "noise_scale": 0.2, "granularity": granularity, **rule_options}
    options = functional.options(rule, lr=0.03, clip_factor=0.9, adapt="hypergradient", adapt_every=1, **chosen)
    param, state = warmed_up(options)
    grad = torch.linspace(-3, 3, 35, dtype=torch.float64).view(5, 7) ** 3 / 9 + 0.2
    curvature = torch.linspace(0.5, 2, 35, dtype=torch.float64).view(5, 7)

    new_param, new_state = functional.step(param, grad, state, options)
    own = adapt.in_use(options, new_state["adapted"])  # what this step used: measured with the values moved before
    weight = state["adapted"][adapt.WEIGHT]
    e = (state["adapted"][adapt.ELASTICITY] / weight).tolist() if weight > 0 else [0.0, 0.0]
    assert (weight > 0) == (rule != "sgd")

    def loss(j: int, delta: float) -> float:
        moved = {**own, KEYS[j]: own[KEYS[j]] * math.exp(delta)}
        x, noise, _, _ = functional.transform(grad, state["stats"], int(state["noise_step"]), state["layer"], moved)
        w, _ = rules.step(param, x * math.exp(-e[j] * delta), dict(state), moved, noise)
        return float((curvature * w**4).sum())

    after = new_state | {"adapted": new_state["adapted"].clone()}
    after["adapted"][adapt.MEAN] = 0.0
    followed = adapt.follow(4 * curvature * new_param**3, after, options)
    found = followed[adapt.MEAN] / (1 - adapt.MEMORY) * after["adapted"][adapt.RELEVANCE]
    for j in range(2):
        width = 1e-5
        expected = (loss(j, width) - loss(j, -width)) / (2 * width)
        assert abs(expected) > 1e-7
        assert float(found[j]) == pytest.approx(expected, rel=2e-6, abs=1e-9)
