"""Statistics across runs: pure functions, array -> number; `bootstrap` gives them confidence intervals.

Formulas of Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (NeurIPS 2021) and its library rliable.
Shapes: scores are (R, T), R runs (seeds) of each of T tasks, normalized where tasks are to be compared; (R,) is one
task. NaN is an error, since dropping a diverged run would flatter the method: give it the task's worst score.

Times to a target (steps, seconds or samples) are censored where a run ended before it got there: infinite
(`run_metrics.time_to_threshold`), "not reached" at any time. All runs of a study end at the same step, so shares of all
runs are what the Kaplan-Meier estimator gives as well (seen in the tests).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.stats.exact import Ends, improvement_ends, median_ends, share_ends

Array = NDArray[np.float64]
Statistic = Callable[..., float]
Exact = Callable[[Array, Sequence[Array], float], Ends]  # values (..), arrays (R, T, ..), level -> ends


def statistic(over_runs_and_tasks: Callable[..., Array], exact: Exact | None = None) -> Statistic:
    """Make a statistic, scores (R, T) -> number, from one over the last two axes of arrays (..., R, T).

    That one is kept as the attribute `batched`: the bootstrap calls it for thousands of resamples at once. Arguments
    whose names begin with "scores" are arrays. `exact` are the ends of its interval where these are known without a
    bootstrap.
    """
    arrays = sum(name.startswith("scores") for name in inspect.signature(over_runs_and_tasks).parameters)

    @functools.wraps(over_runs_and_tasks)
    def of_scores(*values: Any, **options: Any) -> float:
        return float(over_runs_and_tasks(*map(as_scores, values[:arrays]), *values[arrays:], **options))

    of_scores.batched, of_scores.exact = over_runs_and_tasks, exact  # type: ignore[attr-defined]
    return of_scores


def counted(of_shares: Callable[..., Array]) -> Statistic:
    """A `statistic` that is a share of the R T runs."""
    return statistic(of_shares, lambda share, arrays, level: share_ends(share, _runs(arrays), level))


def _runs(arrays: Sequence[Array]) -> int:
    """Runs of all tasks; of several arrays those of the smallest."""
    return min(array.shape[0] * array.shape[1] for array in arrays)


@statistic
def mean(scores: Array) -> Array:
    """Mean over all runs and tasks (R, T)."""
    return np.asarray(scores.mean(axis=(-2, -1)))


@statistic
def median(scores: Array) -> Array:
    """Median over tasks of each task's mean over its runs (R, T)."""
    return np.asarray(np.median(scores.mean(axis=-2), axis=-1))


@statistic
def interquartile_mean(scores: Array) -> Array:
    """Mean of the middle half of all R * T scores; int(R * T / 4) are cut at each end, as scipy's ``trim_mean(..,
    0.25)``."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    size = ordered.shape[-1]
    return np.asarray(ordered[..., size // 4 : size - size // 4].mean(axis=-1))


@statistic
def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """How far scores (R, T) fall short of `target` on average; what lies above it counts as `target`. Lower is
    better."""
    return np.asarray(target - np.minimum(scores, target).mean(axis=(-2, -1)))


@functools.partial(statistic, exact=lambda value, arrays, level: improvement_ends(value, _runs(arrays), level))
def probability_of_improvement(scores_x: Array, scores_y: Array) -> Array:
    """Probability that a run of X beats one of Y on a random task: P(X > Y) + P(X = Y) / 2, mean over tasks.

    (R, T) and (R', T): the same tasks. This is Mann and Whitney's U over R R' of each task.
    """
    if scores_x.shape[-1] != scores_y.shape[-1]:
        raise ValueError(f"X has {scores_x.shape[-1]} tasks, Y has {scores_y.shape[-1]}")
    x, y = scores_x[..., :, None, :], scores_y[..., None, :, :]
    return np.asarray(((x > y).mean(axis=(-3, -2, -1)) + (x >= y).mean(axis=(-3, -2, -1))) / 2)


@counted
def share(scores: Array) -> Array:
    """Share of ones among zeros and ones (R, T), as `above` and `reached_by` give them."""
    return np.asarray(scores.mean(axis=(-2, -1)))


@functools.partial(
    statistic, exact=lambda value, arrays, level: median_ends(arrays[0].reshape(-1, *arrays[0].shape[2:]), level)
)
def median_time(scores: Array) -> Array:
    """First time by which half of all runs have reached the target; infinite where fewer than half ever do.

    The smallest t with P(time <= t) >= 1/2, the inverse of the Kaplan-Meier curve at 1/2: never a mean of two.
    """
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    return np.asarray(ordered[..., (ordered.shape[-1] + 1) // 2 - 1])


@statistic
def restricted_mean_time(scores: Array, horizon: float) -> Array:
    """Mean of min(time, horizon): the area above the time-to-target profile up to `horizon` (Royston & Parmar 2013).

    Finite even where runs are censored, if `horizon` is at most the length of the runs.
    """
    return np.asarray(np.minimum(scores, horizon).mean(axis=(-2, -1)))


def above(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """1 where a score (R, T) is above a threshold (N,), else 0: (R, T, N). Its mean over runs and tasks is rliable's
    performance profile, the run-score distribution: ``Bootstrap(...).band(above(scores, thresholds), share)``."""
    return np.asarray(as_scores(scores)[..., None] > np.asarray(thresholds, dtype=np.float64), dtype=np.float64)


def reached_by(times: ArrayLike, at: ArrayLike) -> Array:
    """1 where a run (R, T) has reached the target by a time of `at` (N,), else 0: (R, T, N). Its mean over runs and
    tasks is the time-to-target profile."""
    reached = as_scores(times)[..., None] <= np.asarray(at, dtype=np.float64)
    # Runs that never do have not at infinity, either.
    return np.asarray(reached & np.isfinite(as_scores(times))[..., None], dtype=np.float64)


def as_scores(scores: ArrayLike) -> Array:
    """Scores as an array (R, T); (R,) is one task. ValueError for other shapes, none at all, and NaN."""
    return _with_tasks(scores, 2, "scores must be (runs, tasks) or (runs,)")


def as_curves(scores: ArrayLike) -> Array:
    """Curves as an array (R, T, E); (R, E) is one task. ValueError as `as_scores`."""
    return _with_tasks(scores, 3, "curves must be (runs, tasks, points) or (runs, points)")


def _with_tasks(scores: ArrayLike, axes: int, expected: str) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == axes - 1:
        array = array[:, None]
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{expected}, not empty; got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError("scores hold NaN: give a diverged run its task's worst score, do not drop it")
    return array


def batched(statistic: Statistic) -> Callable[..., Array]:
    """The form of a statistic that takes many resamples (B, R, T) at once -> (B,)."""
    given = statistic if isinstance(statistic, functools.partial) else functools.partial(statistic)
    if hasattr(given.func, "batched") and not given.args:
        return functools.partial(given.func.batched, **given.keywords)
    return lambda *drawn: np.array([statistic(*one) for one in zip(*drawn, strict=True)])


def exact_ends(statistic: Statistic) -> Exact | None:
    """The ends of a statistic's interval where these are known without a bootstrap."""
    of: Any = statistic.func if isinstance(statistic, functools.partial) else statistic
    return getattr(of, "exact", None)
