"""How large the noise is: never larger than the gradient it is added to, never larger than the step after the rule."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asgc import ASGC, functional, wrap
from asgc.gradient_statistics import MEAN, NOISE, VAR, measure, noise_level, start
from asgc.implementations.cpu import build
from asgc.noise import noise
from asgc.preview import preview

LARGEST = 4.9  # |eps| stays below
IMPLEMENTATIONS = [
    "reference",
    "foreach",
    pytest.param("cpu", marks=pytest.mark.skipif(build.unavailable() is not None, reason="no C++ compiler")),
]
EVERYWHERE = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
MODES = pytest.mark.parametrize("mode", ["value", "norm"])
RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {},
    "adamw": {"amsgrad": True, "weight_decay": 0.0},
    "rmsprop": {"centered": True, "momentum": 0.9},
    "adagrad": {"lr_decay": 0.01},
}


def gaussian(step: int, shape: tuple[int, ...] = (40, 50)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


@EVERYWHERE
@MODES
@pytest.mark.parametrize("granularity", ["layer", "unit"])
def test_a_gradient_that_falls_after_warm_up_is_not_buried(implementation: str, mode: str, granularity: str) -> None:
    if (implementation, granularity) == ("foreach", "unit"):
        pytest.skip("not served")
    p = torch.zeros(40, 50)
    opt = ASGC([p], 1.0, rule="sgd", mode=mode, granularity=granularity, implementation=implementation)
    for step in range(120):  # the warm-up is 100
        p.grad = gaussian(step)
        opt.step()
    for step in range(120, 140):
        p.grad = gaussian(step) * 1e-4
        layer = preview(opt)[0]
        p.zero_()
        opt.step()
        ratio = float((p + p.grad).norm() / p.grad.norm())
        assert 0.05 < ratio < 0.15
        assert torch.equal(layer.seen, -p)
        assert layer.noise_std == opt.diagnostics()[0]["noise_std"]
        assert layer.noise_std == pytest.approx(0.1e-4, rel=0.15)


@MODES
def test_nor_is_one_behind_wrap(mode: str) -> None:
    p = torch.zeros(2000)
    opt = wrap(torch.optim.SGD([p], lr=1.0), mode=mode)
    for step in range(130):
        p.zero_()
        p.grad = gaussian(step, (2000,)) * (1.0 if step < 120 else 1e-4)
        opt.step()
    assert 0.05 < float((p + p.grad).norm() / p.grad.norm()) < 0.15
    assert opt.diagnostics()[0]["noise_std"] == pytest.approx(0.1e-4, rel=0.15)


SCALES = st.lists(st.sampled_from([0.0, 1e-19, 1e-9, 1e-4, 1.0, 30.0, 1e6]), min_size=1, max_size=8)


@EVERYWHERE
@MODES
@pytest.mark.parametrize("noise_zeros", [False, True])
@given(scales=SCALES, kept=st.floats(0.05, 1.0))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_it_is_the_smaller_of_sigma_and_the_gradients_root_mean_square(
    implementation: str, mode: str, noise_zeros: bool, scales: list[float], kept: float
) -> None:
    """To the bit of the hash, whatever came before; zeros of the gradient count in its root mean square."""
    p = torch.zeros(300)
    given = {"noise_scale": 0.5, "noise_decay": 0.3, "noise_zeros": noise_zeros, "clip_factor": math.inf, "mode": mode}
    opt = ASGC([p], 1.0, rule="sgd", implementation=implementation, **given)
    for t, scale in enumerate(scales):
        generator = torch.Generator().manual_seed(t)
        g = torch.randn(300, generator=generator) * scale * (torch.rand(300, generator=generator) < kept)
        p.grad = g
        stats = opt.layer_state(p, opt.param_groups[0])["stats"].clone()
        stats, _ = start(stats, measure(g, stats[MEAN]))
        rms, sigma = float(g.double().square().mean().sqrt()), float(stats[VAR].double().sqrt())
        level = min(rms, sigma) if rms > 0 or not noise_zeros else sigma
        p.zero_()
        opt.step()
        std = 0.5 * (1 + t) ** -0.15 * level
        assert float(opt.state[p]["stats"][NOISE]) == pytest.approx(std, rel=1e-5)
        eps = noise(0, t, 0, 0, 300)
        expected = g + torch.where((g != 0) | torch.tensor(noise_zeros), eps * std, 0.0)
        torch.testing.assert_close(-p, expected, rtol=1e-5, atol=1e-5 * std)


@EVERYWHERE
@MODES
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
def test_a_gradient_that_is_not_finite_gets_none(implementation: str, mode: str, noise_at: str) -> None:
    runs = []
    for scale in (0.0, 0.5):
        p = torch.zeros(100)
        options = {"mode": mode, "noise_at": noise_at, "noise_zeros": True, "noise_scale": scale}
        opt = ASGC([p], 1.0, rule="sgd", implementation=implementation, **options)
        for step in range(3):
            p.zero_()
            p.grad = gaussian(step, (100,))
            p.grad[step] = math.inf if step == 2 else 0.0
            opt.step()
        assert opt.diagnostics()[0]["noise_std"] == 0
        runs.append(p.clone())
    assert torch.equal(*runs)


def test_units_that_are_zero_throughout_get_sigma_where_zeros_are_to_get_noise() -> None:
    stats = torch.zeros(11, 3)
    stats[0], stats[VAR] = 5, torch.tensor([4.0, 4.0, 4.0])
    sums = measure(torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]), stats[MEAN])
    assert noise_level(stats, sums, noise_zeros=False).tolist() == [0, 1, 2]
    assert noise_level(stats, sums, noise_zeros=True).tolist() == [2, 1, 2]


# Noise after the rule


def pair_after_the_rule(implementation: str, rule: str, **options: Any) -> list[tuple[Tensor, ASGC]]:
    """Without noise and with: the same gradients and so the same moments."""
    result = []
    for scale in (0.0, 0.3):
        p = torch.zeros(20, 30)
        given = {"noise_at": "update", "noise_scale": scale, **RULES[rule], **options}
        result.append((p, ASGC([p], 0.1, rule=rule, implementation=implementation, **given)))
    return result


@EVERYWHERE
@MODES
@pytest.mark.parametrize("rule", RULES)
@given(scales=SCALES, spread=st.floats(0.0, 20.0))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_after_the_rule_it_is_at_most_a_step_of_one(
    implementation: str, mode: str, rule: str, scales: list[float], spread: float
) -> None:
    """Also where elements' own denominators are tiny, and where the gradient grows or falls by any factor."""
    runs = pair_after_the_rule(implementation, rule, mode=mode)
    sizes = torch.exp(gaussian(99, (20, 30)) * spread).clamp(1e-15, 1.0)
    for t, scale in enumerate(scales):
        for p, opt in runs:
            p.zero_()
            p.grad = gaussian(t, (20, 30)) * scale * sizes
            opt.step()
        (silent, _), (noisy, opt) = runs
        added = (noisy.double() - silent.double()).abs()
        limit = 0.3 * LARGEST * (opt.diagnostics()[0]["noise_std"] / 0.3 if rule == "sgd" else 1.0)
        assert bool((added <= 0.1 * limit * 1.0001 + 1e-6 * silent.double().abs()).all())


@EVERYWHERE
@pytest.mark.parametrize("rule", ["adam", "adamw", "rmsprop", "adagrad"])
def test_weights_do_not_grow_by_it(implementation: str, rule: str) -> None:
    """A layer whose elements' gradients differ by orders of magnitude, as behind dying units: each element's own
    denominator made steps of 1e9 and weights of 1e10 here."""
    sizes = torch.exp(6 * gaussian(1000)) * 1e-3
    largest, moved = [], []
    for scale in (0.0, 0.1):
        p = gaussian(1001) * 0.05
        options = {**RULES[rule], "noise_at": "update", "noise_scale": scale}
        opt = ASGC([p], 1e-3, rule=rule, implementation=implementation, **options)
        total = 0.0
        for step in range(60):
            before = p.clone()
            p.grad = gaussian(step) * sizes
            opt.step()
            total += float((p - before).norm())
        largest.append(float(p.abs().max()))
        moved.append(total)
    assert largest[1] < 1.1 * largest[0]
    assert 0.99 < moved[1] / moved[0] < 1.2


@EVERYWHERE
@pytest.mark.parametrize("rule", ["adam", "adagrad", "rmsprop"])
def test_after_the_rule_it_follows_the_denominators_of_the_steps_before(implementation: str, rule: str) -> None:
    """Standard deviation lr c_t level / max(level, D), D from the state before the step."""
    runs = pair_after_the_rule(implementation, rule, eps=1e-3)
    for step in range(12):
        (silent, _), (noisy, opt) = runs
        state = opt.layer_state(noisy, opt.param_groups[0])
        name, correction = {"adam": ("exp_avg_sq", 1 - 0.999 ** (step + 1)), "adagrad": ("sum", 1.0)}.get(
            rule, ("square_avg", 1.0)
        )
        mean = state[name].double()
        if rule == "rmsprop":
            mean = mean - state["grad_avg"].double().square()
        root = math.sqrt(max(0.0, float(mean.mean())) / correction) + 1e-3
        for p, opt in runs:
            p.zero_()
            p.grad = gaussian(step, (20, 30)) * (0.1 if step > 6 else 1.0)
            opt.step()
        level = opt.diagnostics()[0]["noise_std"] / 0.3
        lr = 0.1 / (1 + 0.01 * step) if rule == "adagrad" else 0.1
        expected = lr * 0.3 * level / max(level, root) * noise(0, step, 0, 0, 600).view(20, 30)
        torch.testing.assert_close(silent - noisy, expected, rtol=1e-3, atol=2e-6)


def test_in_units_of_the_update_it_is_zero_without_a_gradient() -> None:
    level, root = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 3.0, 0.5, 8.0])
    assert functional.relative(level, root).tolist() == [0, 0, 1, 0.25]
