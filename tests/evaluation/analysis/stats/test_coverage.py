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
    probability_of_improvement,
    statistic,
)
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.analysis.stats.multiple import simultaneous_estimates

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


@pytest.mark.slow
def test_the_table_of_coverage():
    """Cases that lie below 0.93: what no interval can cover (`possible`), the median over tasks of two kinds of runs,
    and a mean of bounded scores, each by how much."""
    below = {("bimodal", "median", 3): 0.89, ("unlike", "median", 3): 0.89, ("bounded", "mean", 1): 0.91}
    print("\ntasks kind     runs    IQM  mean  median   (middle 95 % of the draws: IQM)")
    for tasks in TASKS:
        for kind in KINDS:
            for runs in RUNS:
                found = {name: covered(kind, name, runs, tasks) for name in STATISTICS}
                plain = covered(kind, "IQM", runs, tasks, studies=500, plain=True)
                print(
                    f"{tasks:5d} {kind:8s} {runs:4d}", *(f"{share:6.3f}" for share in found.values()), f"({plain:.3f})"
                )
                for name, share in found.items():
                    least = min(below.get((kind, name, tasks), NEEDED), possible(kind, runs, tasks))
                    assert share >= least - 0.012, (tasks, kind, runs, name)  # two errors of 2,000 studies


def differences(rng, kind, runs, tasks, studies):
    """Coverage of the difference of two methods with equal scores, of a probability of improvement of 1/2 and of a
    single simultaneous interval among five."""
    hits = np.zeros(3)
    for _ in range(studies):
        x, y = (KINDS[kind](rng, (runs, tasks)) for _ in range(2))
        one = HOW.difference(interquartile_mean, x, y)
        p = HOW.estimate(probability_of_improvement, x, y)
        others = [KINDS[kind](rng, (runs, tasks)) for _ in range(5)]
        draws = [HOW.difference_draws(interquartile_mean, other, y) for other in others]
        values = [interquartile_mean(other) - interquartile_mean(y) for other in others]
        all_five = simultaneous_estimates(values, draws)
        hits += one.low <= 0 <= one.high, p.low <= 0.5 <= p.high, all(e.low <= 0 <= e.high for e in all_five)
    return hits / studies


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded", "bimodal"])
def test_differences_and_simultaneous_intervals(kind):
    for tasks in (1, 3):
        for runs in (3, 5, 10):
            found = differences(np.random.default_rng([runs, tasks]), kind, runs, tasks, 300)
            print(f"{tasks} tasks, {kind}, {runs} runs: difference, improvement, all of five:", found)
            least = NEEDED if (kind, tasks) != ("bimodal", 1) or runs > 4 else 0.8  # both methods of one kind
            assert (found >= least - 0.03).all()


def test_a_difference_of_equal_methods_holds_zero():
    assert (differences(np.random.default_rng(0), "normal", 3, 2, 40) >= 0.85).all()
