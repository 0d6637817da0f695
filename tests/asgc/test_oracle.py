"""The whole ASGC step, noise included, against the float64 formula oracle."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from asgc import ASGC
from tests.asgc.oracle import Array, Oracle

RULE_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01},
    "adam": {"amsgrad": True, "weight_decay": 0.01, "betas": (0.8, 0.95), "eps": 1e-6},
    "adamw": {"weight_decay": 0.1, "maximize": True},
    "rmsprop": {"centered": True, "momentum": 0.5, "alpha": 0.9, "eps": 1e-3},
    "adagrad": {"lr_decay": 0.05, "initial_accumulator_value": 0.1},
}
SHAPES = [(6, 4), (5,), (), (3, 2, 2, 2)]
STEPS = 40


def gradients(seed: int) -> list[list[Array]]:
    """Steps of one gradient a shape: a wrong first scale, zeros, bursts, a shifted mean."""
    rng = np.random.default_rng(seed)
    steps = []
    for t in range(STEPS):
        grads = []
        for i, shape in enumerate(SHAPES):
            g = (0.5 * i + rng.standard_normal(shape)) * 10.0 ** (-i)
            g = np.where(rng.random(shape) < 0.1, 0.0, g)
            if t == 0:
                g = g * 1e4 ** (-1) ** i
            if t in (5, 12, 13, 30):
                g = g * 1000
            if t == 20:
                g = np.zeros_like(g)
            grads.append(np.asarray(g))
        steps.append(grads)
    return steps


def compare(steps: list[list[Array]], dtype: torch.dtype, tolerance: float, **options: Any) -> ASGC:
    rng = np.random.default_rng(9)
    start = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
    params = [torch.tensor(p, dtype=dtype) for p in start]
    opt = ASGC(params, implementation="reference", **options)
    oracles = [Oracle(p, layer, opt.param_groups[0]) for layer, p in enumerate(start)]
    for t, grads in enumerate(steps):
        for param, oracle, grad in zip(params, oracles, grads, strict=True):
            param.grad = torch.tensor(grad, dtype=dtype)
            oracle.step(grad if dtype == torch.float64 else grad.astype(np.float32).astype(np.float64))
        opt.step()
        for param, oracle in zip(params, oracles, strict=True):
            scale = max(1.0, float(np.abs(oracle.p).max()))
            error = np.abs(param.double().numpy() - oracle.p).max()
            assert error <= tolerance * scale, (t, oracle.layer)
    for param, oracle in zip(params, oracles, strict=True):
        stats = opt.state[param]["stats"].double()
        for i, unit in enumerate(oracle.units):
            expected = [unit.n, unit.mu, unit.var, unit.age, float(unit.was_high), unit.nonfinite]
            assert stats[:6, i].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6 * math.sqrt(unit.var))
            assert stats[9:, i].tolist() == pytest.approx([unit.noise, unit.streak], rel=1e-4)
    return opt


@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize("rule", RULE_OPTIONS)
def test_every_rule_mode_granularity_and_noise_place(rule: str, mode: str, granularity: str, noise_at: str) -> None:
    options = {"mode": mode, "granularity": granularity, "noise_at": noise_at, **RULE_OPTIONS[rule]}
    compare(gradients(1), torch.float64, 3e-6, lr=0.01, rule=rule, noise_scale=0.2, noise_decay=0.5, seed=17, **options)


@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize(
    "options",
    [
        {"clip_factor": 0.5, "clip_sharpness": 1.5},
        {"clip_factor": math.inf, "noise_zeros": True},
        {"threshold": 0.3, "clip_sharpness": math.inf, "noise_at": "update"},
        {"threshold": math.inf},
        {"stats_decay": 0.9, "outlier_share": 0.5, "noise_zeros": True, "noise_at": "update"},
        {"noise_scale": 0.0},
    ],
    ids=lambda o: "-".join(o),
)
def test_options(options: dict[str, Any], mode: str) -> None:
    compare(gradients(2), torch.float64, 3e-6, lr=0.05, rule="adam", mode=mode, eps=1e-3, **options)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("mode", ["value", "norm"])
def test_in_fp32(mode: str, rule: str) -> None:
    compare(gradients(3), torch.float32, 3e-5, lr=0.01, rule=rule, mode=mode)


@pytest.mark.parametrize(
    ("mode", "granularity", "clip_factor"),
    [*itertools.product(["value", "norm"], ["layer", "unit"], [None]), ("value", "layer", math.inf)],
)
def test_nonfinite_gradients(mode: str, granularity: str, clip_factor: float | None) -> None:
    """inf, -inf and NaN in the very first and in later steps."""
    steps = gradients(4)
    for t, value in ((0, math.nan), (1, math.inf), (7, math.inf), (8, -math.inf), (25, math.nan)):
        for grad in steps[t]:
            grad.flat[0] = value
            if t == 25:
                grad.flat[-1] = math.inf
    options = {"mode": mode, "granularity": granularity, "clip_factor": clip_factor, "noise_zeros": True}
    opt = compare(steps, torch.float64, 3e-6, lr=0.01, rule="sgd", noise_scale=0.3, **options)
    assert all(layer["nonfinite"] >= 5 for layer in opt.diagnostics())


@pytest.mark.parametrize("mode", ["value", "norm"])
def test_nonfinite_gradients_under_a_fixed_threshold(mode: str) -> None:
    steps = gradients(4)
    for t, value in ((0, math.inf), (1, math.nan), (9, -math.inf)):
        for grad in steps[t]:
            grad.flat[0] = value
    compare(steps, torch.float64, 3e-6, lr=0.01, rule="sgd", mode=mode, threshold=0.5, noise_scale=0.3)


def test_noise_really_changes_the_step() -> None:
    runs = []
    for seed, scale in ((0, 0.0), (0, 0.1), (1, 0.1)):
        p = torch.zeros(50)
        opt = ASGC([p], 1.0, rule="sgd", noise_scale=scale, seed=seed, implementation="reference")
        p.grad = torch.linspace(-1, 1, 50)
        opt.step()
        runs.append(p)
    assert not torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[1], runs[2])
    sigma = torch.linspace(-1, 1, 50).square().mean().sqrt()
    assert (runs[1] - runs[0]).std().item() == pytest.approx(0.1 * sigma.item(), rel=0.4)
