"""Statistics across runs: pure functions, array -> number, and stratified bootstrap confidence intervals.

Formulas of Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (NeurIPS 2021) and its library rliable.
Shapes: scores are (R, T), R runs (seeds) of each of T tasks, normalized where tasks are to be compared; (R,) is one
task. NaN is an error, since dropping a diverged run would flatter the method: give it the task's worst score.
Infinite scores (censored times) are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def mean(scores: ArrayLike) -> float:
    """Mean over all runs and tasks (R, T)."""
    return float(np.mean(_scores(scores)))


def median(scores: ArrayLike) -> float:
    """Median over tasks of each task's mean over its runs (R, T)."""
    return float(np.median(np.mean(_scores(scores), axis=0)))


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all R * T scores; int(R * T / 4) are cut at each end, as scipy's ``trim_mean(..,
    0.25)``."""
    ordered = np.sort(_scores(scores), axis=None)
    cut = ordered.size // 4
    return float(np.mean(ordered[cut : ordered.size - cut]))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """How far scores (R, T) fall short of `target` on average; what lies above it counts as `target`. Lower is
    better."""
    return float(target - np.mean(np.minimum(_scores(scores), target)))


def probability_of_improvement(scores_x: ArrayLike, scores_y: ArrayLike) -> float:
    """Probability that a run of X beats one of Y on a random task: P(X > Y) + P(X = Y) / 2, mean over tasks.

    (R, T) and (R', T): the same tasks. This is Mann and Whitney's U over R R' of each task.
    """
    x, y = _scores(scores_x), _scores(scores_y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"X has {x.shape[1]} tasks, Y has {y.shape[1]}")
    above = (x[:, None, :] > y[None, :, :]).mean()
    equal = (x[:, None, :] == y[None, :, :]).mean()
    return float(above + equal / 2)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of all runs (R, T) whose score is above each of `thresholds` (N,): the run-score distribution, (N,)."""
    flat, levels = _scores(scores).ravel(), np.asarray(thresholds, dtype=np.float64)
    return np.asarray((flat[None, :] > levels[:, None]).mean(axis=1))


def bootstrap_interval(
    statistic: Callable[..., float], *scores: ArrayLike, seed: int, level: float = 0.95, repetitions: int = 10_000
) -> Interval:
    """Percentile interval of ``statistic(*scores)`` by the stratified bootstrap.

    Each repetition draws, for every task on its own and for every array of `scores` on its own, R runs with replacement
    (rliable's ``StratifiedBootstrap``, and ``StratifiedIndependentBootstrap`` for two). The same `seed` gives the same
    interval.

    >>> bootstrap_interval(interquartile_mean, scores, seed=0)
    >>> bootstrap_interval(probability_of_improvement, scores_x, scores_y, seed=0)
    """
    draws = _bootstrap(lambda *drawn: np.array([statistic(*drawn)]), scores, seed, repetitions)[:, 0]
    low, high = _percentiles(draws, level)
    return Interval(float(low), float(high))


def performance_profile_band(
    scores: ArrayLike, thresholds: ArrayLike, *, seed: int, level: float = 0.95, repetitions: int = 2_000
) -> tuple[Array, Array]:
    """Pointwise bootstrap interval of `performance_profile`: the lower and the upper curve, (N,) each."""
    draws = _bootstrap(lambda drawn: performance_profile(drawn, thresholds), (scores,), seed, repetitions)
    return _percentiles(draws, level)


def _bootstrap(statistic: Callable[..., Array], scores: tuple[ArrayLike, ...], seed: int, repetitions: int) -> Array:
    arrays = [_scores(one) for one in scores]
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(repetitions):
        picks = [generator.integers(array.shape[0], size=array.shape) for array in arrays]
        drawn = [np.take_along_axis(array, pick, axis=0) for array, pick in zip(arrays, picks, strict=True)]
        draws.append(statistic(*drawn))
    return np.stack(draws)


def _percentiles(draws: Array, level: float) -> tuple[Array, Array]:
    """The middle `level` of `draws` (repetitions, ...) along the first axis, interpolated between order statistics."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    tail = (1 - level) / 2
    if np.isfinite(draws).all():
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        return low, high
    # Between a finite and an infinite one there is nothing to interpolate: the next order statistic outwards.
    ordered = np.sort(draws, axis=0)
    last = ordered.shape[0] - 1
    return ordered[int(np.floor(tail * last))], ordered[int(np.ceil((1 - tail) * last))]


def _scores(scores: ArrayLike) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"scores must be (runs, tasks) or (runs,), not empty; got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError("scores hold NaN: give a diverged run its task's worst score, do not drop it")
    return array
