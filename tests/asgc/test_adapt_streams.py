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


def track(rule: str, lr: float, mode: str, adapt: str | None, seed: int) -> Tracking:
    """Parameters follow targets that walk at random, seen through noise: Gaussian, then with tails of density 1/x^2
    (cut off at a hundred deviations), then Gaussian again, `PHASE` steps each."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(LAYERS, SIZE)
    params = [torch.nn.Parameter(torch.zeros(SIZE)) for _ in range(LAYERS)]
    opt = ASGC(params, lr, rule=rule, mode=mode, noise_scale=0.0, adapt=adapt)
    run = Tracking([], [])
    for step in range(1, 3 * PHASE + 1):
        target += 0.02 * torch.randn(LAYERS, SIZE, generator=generator)
        noise = torch.randn(LAYERS, SIZE, generator=generator)
        if PHASE < step <= 2 * PHASE:
            noise = 0.5 * noise / (torch.rand(LAYERS, SIZE, generator=generator) + 0.01)
        for param, goal, error in zip(params, target, noise, strict=True):
            param.grad = param.detach() - goal + error
        opt.step()
        run.errors.append(float((torch.stack([param.detach() for param in params]) - target).square().mean()))
        if step % 50 == 0:
            logs = [math.log(layer["clip_factor"]) for layer in opt.diagnostics()]
            run.factors.append(math.exp(sum(logs) / LAYERS))
    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["norm", "value"])
def test_it_re_tunes_within_500_steps_when_the_tails_change(mode: str, seed: int) -> None:
    """Under heavy tails clip_factor falls, and from 500 steps after the change on the error is well below that with the
    given one; 500 steps after the change back it is most of the way back. (Seen with seeds 0 to 3: errors of 0.55 to
    0.74 in norm and 0.75 to 0.82 in value mode; 0.78 to 0.96 of the start after the change back.)"""
    run, fixed = (track("sgd", 0.05, mode, adapt, seed) for adapt in ("hypergradient", None))
    start = fixed.factors[0]
    assert fixed.factors == pytest.approx([start] * len(fixed.factors))
    assert run.error(PHASE + 500, 2 * PHASE) < 0.88 * fixed.error(PHASE + 500, 2 * PHASE)
    assert min(run.factor(step) for step in range(PHASE + 50, PHASE + 501, 50)) < 0.95 * run.factor(PHASE)
    assert run.factor(2 * PHASE + 500) > max(1.1 * run.factor(2 * PHASE), 0.7 * start)
    for first in (500, 2 * PHASE + 500):  # under Gaussian noise nothing is lost
        assert run.error(first, first + 500) < 1.03 * fixed.error(first, first + 500)


def test_behind_adam_it_gains_under_heavy_tails_and_stays_at_its_start_before() -> None:
    """(Seen with seeds 0 to 3: errors of 0.88 to 0.98 under heavy tails, 0.99 to 1.00 else.)"""
    run, fixed = (track("adam", 0.03, "value", adapt, 0) for adapt in ("hypergradient", None))
    assert all(3 / 1.1 < factor < 3 * 1.1 for factor in run.factors[: PHASE // 50])
    assert run.error(PHASE + 500, 2 * PHASE) < 0.95 * fixed.error(PHASE + 500, 2 * PHASE)
    assert run.error(2 * PHASE + 500, 3 * PHASE) < 1.03 * fixed.error(2 * PHASE + 500, 3 * PHASE)


@pytest.mark.parametrize("mode", ["norm", "value"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_in_pure_noise_it_stays_near_its_start(rule: str, mode: str) -> None:
    """Gradients that no step changes, with heavy tails: whatever is clipped, nothing is gained."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(SIZE)) for _ in range(LAYERS)]
    opt = ASGC(params, 0.01, rule=rule, mode=mode, noise_scale=0.0, adapt="hypergradient")
    start = opt.param_groups[0]["clip_factor"]
    for _ in range(1500):
        for param in params:
            param.grad = torch.randn(SIZE, generator=generator) / (torch.rand(SIZE, generator=generator) + 0.01)
        opt.step()
        logs = [math.log(layer["clip_factor"] / start) for layer in opt.diagnostics()]
        assert abs(sum(logs)) / LAYERS < math.log(1.3)
        assert max(map(abs, logs)) < math.log(2)
