"""Online adaptation on streams of gradients: it re-tunes when tails change, and stays where nothing is to gain."""

import math
from typing import NamedTuple

import pytest
import torch

from asgc import ASGC

LAYERS, SIZE, PHASE = 4, 1024, 1000


class Tracking(NamedTuple):
    """Of one run: geometric mean over the layers of clip_factor, every 50 steps; the squared error of every step."""

    factors: list[float]
    errors: list[float]

    def factor(self, step: int) -> float:
        return self.factors[step // 50 - 1]

    def error(self, first: int, last: int) -> float:
        return sum(self.errors[first:last]) / (last - first)


Case = tuple[str, float, str, str | None, int]  # rule, lr, mode, adapt, seed
ADAPT = ("hypergradient", None)
CASES: list[Case] = [
    *(("sgd", 0.05, mode, adapt, seed) for mode in ("norm", "value") for adapt in ADAPT for seed in (0, 1, 2)),
    *(("adam", 0.03, "value", adapt, 0) for adapt in ADAPT),
]


@pytest.fixture(scope="module")
def tracked() -> dict[Case, Tracking]:
    """Parameters follow targets that walk at random, seen through noise: Gaussian, then with tails of density 1/x^2
    (cut off at a hundred deviations), then Gaussian again, `PHASE` steps each. Each case is a group of one optimizer,
    with layers that no other touches; cases of one seed follow the same targets."""
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1, 2)]
    seeds = [seed for *_, seed in CASES]
    targets = torch.zeros(len(generators), LAYERS, SIZE)
    values, grads = torch.zeros(len(CASES), LAYERS, SIZE), torch.zeros(len(CASES), LAYERS, SIZE)
    groups = []
    for (rule, lr, mode, adapt, _), layers, layer_grads in zip(CASES, values, grads, strict=True):
        params = [torch.nn.Parameter(layer) for layer in layers]
        for param, grad in zip(params, layer_grads, strict=True):
            param.grad = grad
        groups.append({"params": params, "rule": rule, "lr": lr, "mode": mode, "adapt": adapt})
    opt = ASGC(groups, 0.1, noise_scale=0.0)
    runs = [Tracking([], []) for _ in CASES]
    for step in range(1, 3 * PHASE + 1):
        noises = []
        for target, generator in zip(targets, generators, strict=True):
            target += 0.02 * torch.randn(LAYERS, SIZE, generator=generator)
            noise = torch.randn(LAYERS, SIZE, generator=generator)
            if PHASE < step <= 2 * PHASE:
                noise = 0.5 * noise / (torch.rand(LAYERS, SIZE, generator=generator) + 0.01)
            noises.append(noise)
        goals = targets[seeds]
        torch.sub(values, goals, out=grads).add_(torch.stack(noises)[seeds])
        opt.step()
        for run, error in zip(runs, (values - goals).square_().mean((1, 2)).tolist(), strict=True):
            run.errors.append(error)
        if step % 50 == 0:
            logs = torch.tensor([layer["clip_factor"] for layer in opt.diagnostics()]).log()
            for run, factor in zip(runs, logs.view(-1, LAYERS).mean(1).exp().tolist(), strict=True):
                run.factors.append(factor)
    return dict(zip(CASES, runs, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["norm", "value"])
def test_it_re_tunes_within_500_steps_when_the_tails_change(
    tracked: dict[Case, Tracking], mode: str, seed: int
) -> None:
    """Under heavy tails clip_factor falls, and from 500 steps after the change on the error is well below that with the
    given one; 500 steps after the change back it is most of the way back. (Seen with seeds 0 to 3: errors of 0.55 to
    0.74 in norm and 0.75 to 0.82 in value mode; 0.78 to 0.96 of the start after the change back.)"""
    run, fixed = (tracked["sgd", 0.05, mode, adapt, seed] for adapt in ADAPT)
    start = fixed.factors[0]
    assert fixed.factors == pytest.approx([start] * len(fixed.factors))
    assert run.error(PHASE + 500, 2 * PHASE) < 0.88 * fixed.error(PHASE + 500, 2 * PHASE)
    assert min(run.factor(step) for step in range(PHASE + 50, PHASE + 501, 50)) < 0.95 * run.factor(PHASE)
    assert run.factor(2 * PHASE + 500) > max(1.1 * run.factor(2 * PHASE), 0.7 * start)
    for first in (500, 2 * PHASE + 500):  # under Gaussian noise nothing is lost
        assert run.error(first, first + 500) < 1.03 * fixed.error(first, first + 500)


def test_behind_adam_it_gains_under_heavy_tails_and_stays_at_its_start_before(tracked: dict[Case, Tracking]) -> None:
    """(Seen with seeds 0 to 3: errors of 0.88 to 0.98 under heavy tails, 0.99 to 1.00 else.)"""
    run, fixed = (tracked["adam", 0.03, "value", adapt, 0] for adapt in ADAPT)
    assert all(3 / 1.1 < factor < 3 * 1.1 for factor in run.factors[: PHASE // 50])
    assert run.error(PHASE + 500, 2 * PHASE) < 0.95 * fixed.error(PHASE + 500, 2 * PHASE)
    assert run.error(2 * PHASE + 500, 3 * PHASE) < 1.03 * fixed.error(2 * PHASE + 500, 3 * PHASE)


def test_in_pure_noise_it_stays_near_its_start() -> None:
    """Gradients that no step changes, with heavy tails: whatever is clipped, nothing is gained."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(SIZE)) for _ in range(LAYERS)], "rule": rule, "mode": mode}
        for rule in ("sgd", "adam")
        for mode in ("norm", "value")
    ]
    opt = ASGC(groups, 0.01, noise_scale=0.0, adapt="hypergradient")
    start = torch.tensor([[group["clip_factor"]] for group in opt.param_groups])
    for _ in range(1500):
        grads = torch.randn(LAYERS, SIZE, generator=generator) / (torch.rand(LAYERS, SIZE, generator=generator) + 0.01)
        for group in opt.param_groups:
            for param, grad in zip(group["params"], grads, strict=True):
                param.grad = grad
        opt.step()
        factors = torch.tensor([layer["clip_factor"] for layer in opt.diagnostics()]).view(-1, LAYERS)
        logs = (factors / start).log()
        assert (logs.mean(1).abs() < math.log(1.3)).all(), logs
        assert (logs.abs() < math.log(2)).all(), logs
