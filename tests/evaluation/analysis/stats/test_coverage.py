"""How often intervals cover the truth, simulated with scores as runs of DQN give them.

    python -m pytest -m slow -s tests/evaluation/analysis/stats/test_coverage.py       # prints the whole table

A point of a band is one simulated study, so thousands of studies cost a single bootstrap.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.analysis.stats.aggregate import (
    interquartile_mean,
    mean,
    median,
    statistic,
)
from evaluation.analysis.stats.bootstrap import Bootstrap

NEEDED = 0.93  # of 0.95
STUDIES = 2_000
HOW = Bootstrap(repetitions=600)


@statistic
def run_median(scores):
    """Median over the runs of one task."""
    return np.median(scores, axis=(-2, -1))


def bimodal(rng, shape):
    """Half of the seeds collapse."""
    return 10.0 * (rng.random(shape) < 0.5) + rng.normal(size=shape)


def unlike(rng, shape):
    """Tasks of all four kinds, with scores of their own, in turn."""
    kinds = (KINDS["normal"], KINDS["skewed"], KINDS["bounded"], lambda rng, shape: bimodal(rng, shape) / 3)
    scores = [kinds[task % 4](rng, (shape[0], 1, *shape[2:])) + 5 * math.sin(task) for task in range(shape[1])]
    return np.concatenate(scores, axis=1)


KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: -rng.gamma(2.0, size=shape),  # skewness -1.4; of what was measured half is within 0.6
    "bounded": lambda rng, shape: np.minimum(0.5, rng.normal(size=shape)),  # 31 % reach all there is, as in CartPole
    "bimodal": bimodal,
    "unlike": unlike,
}
TASKS, RUNS = (1, 2, 3, 6, 26), (3, 4, 5, 10)
STATISTICS = {"IQM": interquartile_mean, "mean": mean, "median": median}


def of_name(name, tasks):
    return run_median if name == "median" and tasks == 1 else STATISTICS[name]


def covered(kind, name, runs, tasks, studies=STUDIES, plain=False):
    """The share of studies whose interval covers the truth, among those with any spread.

    `plain`: of the middle 95 % of the bootstrap's draws instead."""
    rng, of = np.random.default_rng([runs, tasks]), of_name(name, tasks)
    truth = of(KINDS[kind](rng, (40_000, tasks)))
    scores = KINDS[kind](rng, (runs, tasks, studies))
    if plain:
        draws = HOW._drawn(lambda drawn: of.batched(np.moveaxis(drawn, -1, 1)), scores).values
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    else:
        _, low, high = HOW.band(scores, of)
    spread = low < high
    return float(((low <= truth) & (truth <= high))[spread].mean())


def possible(kind, runs, tasks):
    """The most that any interval can cover: where one task decides and half of its seeds collapse, all runs may be of
    one kind."""
    decides = (kind == "bimodal" and tasks == 1) or (kind == "unlike" and 4 <= tasks <= 6)
    return 1 - 2.0 ** (1 - runs) if decides else 1.0


@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded", "bimodal"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_intervals_cover_at_few_runs(kind, tasks):
    for runs in (3, 5, 10):
        for name in ("IQM", "mean"):
            least = min(NEEDED, possible(kind, runs, tasks)) - 0.02  # the error of 1,000 studies, twice
            assert covered(kind, name, runs, tasks, studies=1_000) >= least, (name, runs)


def test_the_middle_of_the_draws_did_not():
    assert covered("normal", "IQM", 3, 1, studies=1_000, plain=True) < 0.8
    assert covered("normal", "IQM", 3, 3, studies=1_000, plain=True) < 0.9
