"""Evolution strategies against optima that are known, and a truncated run whose first steps mislead."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asgc.meta.evolution import EvolutionStrategy, centered_ranks

OPTIMUM = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def quadratics(particles: Tensor, generator: torch.Generator, noise: float) -> Tensor:
    """Returns of two tasks with one optimum, one a million times larger than the other, with noise in each."""
    loss = ((particles - OPTIMUM) ** 2 * torch.tensor([1.0, 3.0, 0.3])).sum(1)
    found = torch.stack([-loss, -1e6 * loss])
    scale = torch.tensor([[1.0], [1e6]], dtype=torch.float64)
    return found + noise * scale * torch.randn(found.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_it_finds_the_optimum_of_noisy_quadratics(noise: float) -> None:
    es = EvolutionStrategy(torch.zeros(3), sigma=0.2, pairs=16, lr=0.05, seed=1)
    generator, path = torch.Generator().manual_seed(0), []
    for _ in range(250):
        es.tell(quadratics(es.ask(), generator, noise))
        path.append(es.mean.clone())
    assert float((torch.stack(path[-50:]).mean(0) - OPTIMUM).norm()) < 0.15


def test_it_comes_as_near_as_cma_es_does() -> None:
    """With the same number of evaluations, of noisy returns; CMA-ES adapts its sigma, this one does not."""
    cmaes = pytest.importorskip("cmaes")
    generator = torch.Generator().manual_seed(0)
    other = cmaes.CMA(mean=np.zeros(3), sigma=0.5, seed=1, population_size=32)
    for _ in range(60):
        particles = [other.ask() for _ in range(other.population_size)]
        returns = quadratics(torch.tensor(np.array(particles)), generator, 0.1)[0]
        other.tell(list(zip(particles, (-returns).tolist(), strict=True)))
    es = EvolutionStrategy(torch.zeros(3), sigma=0.2, pairs=16, lr=0.15, seed=1)
    for _ in range(60):
        es.tell(quadratics(es.ask(), generator, 0.1))
    theirs, ours = (float(np.linalg.norm(mean - OPTIMUM.numpy())) for mean in (other._mean, es.mean.numpy()))
    assert theirs < 0.3
    assert ours < 0.4


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_ranks_are_numpys_and_centered(values: list[float]) -> None:
    scipy = pytest.importorskip("scipy.stats")
    found = centered_ranks(torch.tensor([values], dtype=torch.float64))[0]
    expected = (scipy.rankdata(values) - 1) / (len(values) - 1) - 0.5
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert float(found.sum()) == pytest.approx(0, abs=1e-9)


def test_a_return_that_is_no_number_is_the_worst() -> None:
    assert centered_ranks(torch.tensor([3.0, math.nan, 1.0])).tolist() == [0.5, -0.5, 0.0]


def misleading(persistent: bool) -> float:
    """Runs of four truncations: x grows by theta in each, and what pays is -x now, but 3 x in the last one, so that
    over the whole run theta ought to rise: (-1 - 2 - 3 + 3 * 4) theta, less theta^2 in each: to 3/4."""
    es = EvolutionStrategy(torch.zeros(1), sigma=0.3, pairs=64, lr=0.05, seed=3, persistent=persistent)
    x = torch.zeros(2 * es.pairs, dtype=torch.float64)
    for step in range(480):
        theta = es.ask()[:, 0]
        x = x + theta
        last = step % 4 == 3
        returns = (3.0 if last else -1.0) * x - theta**2
        es.tell(returns[None], torch.full((es.pairs,), last))
        if last:
            x = torch.zeros_like(x)
    return float(es.mean)


def test_persistent_estimates_see_past_a_truncation() -> None:
    assert misleading(persistent=True) > 0.1
    assert misleading(persistent=False) < 0


def test_a_saved_state_goes_on_the_same() -> None:
    def run(steps: range, es: EvolutionStrategy) -> None:
        for step in steps:
            es.tell(quadratics(es.ask(), torch.Generator().manual_seed(step), 0.3), torch.arange(4) == step % 4)

    whole = EvolutionStrategy(torch.zeros(3), pairs=4, seed=2, persistent=True)
    run(range(6), whole)
    half = EvolutionStrategy(torch.zeros(3), pairs=4, seed=2, persistent=True)
    run(range(3), half)
    resumed = EvolutionStrategy(torch.ones(3), pairs=4, seed=2, persistent=True)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    run(range(3, 6), resumed)
    assert torch.equal(whole.mean, resumed.mean)


def test_a_run_that_diverges_is_the_worst_and_does_no_harm() -> None:
    es = EvolutionStrategy(torch.zeros(2), pairs=2, persistent=True)
    es.tell(torch.tensor([[1.0, 2.0, -math.inf, 3.0]]))
    es.tell(torch.tensor([[1.0, math.nan, math.inf, 3.0]]))
    es.tell(torch.full((1, 4), math.nan))
    assert torch.isfinite(es.mean).all()
    same = EvolutionStrategy(torch.zeros(2), pairs=2, persistent=True)
    same.tell(torch.tensor([[1.0, 2.0, 1.0, 3.0]]))
    other = EvolutionStrategy(torch.zeros(2), pairs=2, persistent=True)
    other.tell(torch.tensor([[1.0, 2.0, -math.inf, 3.0]]))
    assert torch.equal(same.mean, other.mean)


def test_one_explosion_does_not_silence_a_task_for_long() -> None:
    """Gradients of a steady slope before it, and soon after it, are of one size."""
    es = EvolutionStrategy(torch.zeros(1), sigma=0.1, pairs=4, lr=0.0, persistent=True)

    def estimate(exploded: bool = False) -> float:
        returns = es.ask()[:, 0][None].clone()
        if exploded:
            returns[0, 0] = -1e30
        return float(es.tell(returns, torch.ones(4, dtype=torch.bool)))

    before = sum(estimate() for _ in range(50)) / 50
    assert estimate(exploded=True) < 100 * before
    for _ in range(60):
        estimate()
    assert sum(estimate() for _ in range(50)) / 50 > 0.3 * before > 0


def test_a_state_of_other_settings_is_refused() -> None:
    state = EvolutionStrategy(torch.zeros(2), pairs=3, seed=1).state_dict()
    with pytest.raises(ValueError, match="this state is of a strategy with seed 1, not 0"):
        EvolutionStrategy(torch.zeros(2), pairs=3).load_state_dict(state)


def test_what_does_not_fit_is_said() -> None:
    es = EvolutionStrategy(torch.zeros(2), pairs=3)
    with pytest.raises(ValueError, match=r"returns of shape \(5,\): expected \(tasks, 6\)"):
        es.tell(torch.zeros(5))
    with pytest.raises(ValueError, match="sigma 0"):
        EvolutionStrategy(torch.zeros(2), sigma=0)
