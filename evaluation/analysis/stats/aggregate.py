"""Statistics across runs: pure functions, array -> number, and stratified bootstrap confidence intervals.

Formulas of Agarwal et al., "Deep RL at the Edge of the Statistical Precipice" (NeurIPS 2021) and its library rliable.
Shapes: scores are (R, T), R runs (seeds) of each of T tasks, normalized where tasks are to be compared; (R,) is one
task. NaN is an error, since dropping a diverged run would flatter the method: give it the task's worst score.
Infinite scores (censored times) are taken as they are. `times` has the statistics of times to a target, which are used
in the same way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., float]
CHUNK = 1 << 21  # numbers resampled at once: 16 MB


class Interval(NamedTuple):
    """A confidence interval; NaN where there is none, as of a single run, whose resamples are itself."""

    low: float
    high: float


def statistic(over_runs_and_tasks: Callable[..., Array]) -> Statistic:
    """Make a statistic, scores (R, T) -> number, from one over the last two axes of arrays (..., R, T).

    That one is kept as the attribute `batched`: the bootstrap calls it for thousands of resamples at once. Arguments
    whose names begin with "scores" are arrays.
    """
    arrays = sum(name.startswith("scores") for name in inspect.signature(over_runs_and_tasks).parameters)

    @functools.wraps(over_runs_and_tasks)
    def of_scores(*values: Any, **options: Any) -> float:
        return float(over_runs_and_tasks(*map(as_scores, values[:arrays]), *values[arrays:], **options))

    of_scores.batched = over_runs_and_tasks  # type: ignore[attr-defined]
    return of_scores


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


@statistic
def probability_of_improvement(scores_x: Array, scores_y: Array) -> Array:
    """Probability that a run of X beats one of Y on a random task: P(X > Y) + P(X = Y) / 2, mean over tasks.

    (R, T) and (R', T): the same tasks. This is Mann and Whitney's U over R R' of each task.
    """
    if scores_x.shape[-1] != scores_y.shape[-1]:
        raise ValueError(f"X has {scores_x.shape[-1]} tasks, Y has {scores_y.shape[-1]}")
    x, y = scores_x[..., :, None, :], scores_y[..., None, :, :]
    return np.asarray(((x > y).mean(axis=(-3, -2, -1)) + (x >= y).mean(axis=(-3, -2, -1))) / 2)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of all runs (R, T) whose score is above each of `thresholds` (N,): the run-score distribution, (N,)."""
    return np.asarray(_above(scores, thresholds).mean(axis=(0, 1)))


def performance_profile_band(
    scores: ArrayLike, thresholds: ArrayLike, *, seed: int, level: float = 0.95, repetitions: int = 2_000
) -> tuple[Array, Array]:
    """Pointwise bootstrap interval of `performance_profile`: the lower and the upper curve, (N,) each."""
    return curve_band(_above(scores, thresholds), mean, seed=seed, level=level, repetitions=repetitions)


def curve(scores: ArrayLike, statistic: Statistic = interquartile_mean) -> Array:
    """A statistic of the runs at each of E points of a learning curve: scores (R, T, E) or (R, E) -> (E,).

    With the IQM over evaluation steps this is rliable's sample-efficiency curve.
    """
    return _batched(statistic)(np.moveaxis(_curves(scores), -1, 0))


def curve_band(
    scores: ArrayLike,
    statistic: Statistic = interquartile_mean,
    *,
    seed: int,
    level: float = 0.95,
    repetitions: int = 2_000,
) -> tuple[Array, Array]:
    """Pointwise bootstrap interval of `curve`: the lower and the upper curve, (E,) each. Runs are drawn as wholes."""
    batched, curves = _batched(statistic), _curves(scores)
    draws = [
        batched(np.moveaxis(drawn, -1, 1))
        for (drawn,) in _resamples((curves,), seed, repetitions, paired=False, tasks=False)
    ]
    return percentiles(np.concatenate(draws), level)


def bootstrap_interval(
    statistic: Statistic,
    *scores: ArrayLike,
    seed: int,
    level: float = 0.95,
    repetitions: int = 10_000,
    paired: bool = False,
    tasks: bool = False,
) -> Interval:
    """Percentile interval of ``statistic(*scores)`` by the stratified bootstrap.

    Each repetition draws, for every task on its own and for every array of `scores` on its own, R runs with replacement
    (rliable's ``StratifiedBootstrap``, and ``StratifiedIndependentBootstrap`` for two). The same `seed` gives the same
    interval. NaN where an array holds a single run of each task and only runs are drawn.

    Args:
        paired: draw the same runs of all arrays (R, T), whose run r of task t belongs together (a seed's).
        tasks: draw tasks with replacement as well, for claims about tasks like these; needs many of them.

    >>> bootstrap_interval(interquartile_mean, scores, seed=0)
    >>> bootstrap_interval(probability_of_improvement, scores_x, scores_y, seed=0)
    """
    draws = bootstrap(statistic, *scores, seed=seed, repetitions=repetitions, paired=paired, tasks=tasks)
    low, high = percentiles(draws, level)
    return Interval(float(low), float(high))


def difference_interval(
    statistic: Statistic,
    scores_x: ArrayLike,
    scores_y: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    repetitions: int = 10_000,
    paired: bool = False,
    tasks: bool = False,
) -> Interval:
    """Interval of ``statistic(scores_x) - statistic(scores_y)``; arguments as `bootstrap_interval`.

    ValueError where a draw of the statistic is infinite: two infinite numbers have no difference.
    """
    draws = difference_draws(
        statistic, scores_x, scores_y, seed=seed, repetitions=repetitions, paired=paired, tasks=tasks
    )
    low, high = percentiles(draws, level)
    return Interval(float(low), float(high))


def bootstrap(
    statistic: Statistic,
    *scores: ArrayLike,
    seed: int,
    repetitions: int = 10_000,
    paired: bool = False,
    tasks: bool = False,
) -> Array:
    """The draws (repetitions,) behind `bootstrap_interval`."""
    batched, arrays = _batched(statistic), tuple(map(as_scores, scores))
    if _single(arrays, tasks):
        return np.full(repetitions, np.nan)
    return np.concatenate([batched(*drawn) for drawn in _resamples(arrays, seed, repetitions, paired, tasks)])


def difference_draws(
    statistic: Statistic,
    scores_x: ArrayLike,
    scores_y: ArrayLike,
    *,
    seed: int,
    repetitions: int = 10_000,
    paired: bool = False,
    tasks: bool = False,
) -> Array:
    """The draws (repetitions,) behind `difference_interval`."""
    batched, arrays = _batched(statistic), (as_scores(scores_x), as_scores(scores_y))
    if _single(arrays, tasks):
        return np.full(repetitions, np.nan)
    draws = []
    for x, y in _resamples(arrays, seed, repetitions, paired, tasks):
        of_x, of_y = batched(x), batched(y)
        if not (np.isfinite(of_x).all() and np.isfinite(of_y).all()):
            raise ValueError("the difference of infinite statistics is not defined: use a restricted mean time")
        draws.append(of_x - of_y)
    return np.concatenate(draws)


def percentiles(draws: Array, level: float) -> tuple[Array, Array]:
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


def as_scores(scores: ArrayLike) -> Array:
    """Scores as an array (R, T); (R,) is one task. ValueError for other shapes, none at all, and NaN."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"scores must be (runs, tasks) or (runs,), not empty; got shape {array.shape}")
    return _not_nan(array)


def _curves(scores: ArrayLike) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 2:
        array = array[:, None, :]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"curves must be (runs, tasks, points) or (runs, points), not empty; got shape {array.shape}")
    return _not_nan(array)


def _not_nan(array: Array) -> Array:
    if np.isnan(array).any():
        raise ValueError("scores hold NaN: give a diverged run its task's worst score, do not drop it")
    return array


def _above(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """1 where a score (R, T) is above a threshold (N,), else 0: (R, T, N)."""
    return np.asarray(as_scores(scores)[..., None] > np.asarray(thresholds, dtype=np.float64), dtype=np.float64)


def _single(arrays: tuple[Array, ...], tasks: bool) -> bool:
    """Whether resampling says nothing: the only run of a task can only be drawn again."""
    return not tasks and min(array.shape[0] for array in arrays) < 2


def _batched(statistic: Statistic) -> Callable[..., Array]:
    """The form of a statistic that takes many resamples (B, R, T) at once -> (B,)."""
    function, options = statistic, {}
    if isinstance(statistic, functools.partial) and not statistic.args:
        function, options = statistic.func, statistic.keywords
    batched: Callable[..., Array] | None = getattr(function, "batched", None)
    if batched is not None:
        return functools.partial(batched, **options)
    return lambda *drawn: np.array([statistic(*one) for one in zip(*drawn, strict=True)])


def _resamples(
    arrays: tuple[Array, ...], seed: int, repetitions: int, paired: bool, tasks: bool
) -> Iterator[tuple[Array, ...]]:
    """Resamples (B, R, T, ...) of each array (R, T, ...), `repetitions` in all, a handful B of them at a time."""
    if paired and len({array.shape for array in arrays}) > 1:
        raise ValueError(f"paired scores must have one shape, not {[array.shape for array in arrays]}")
    generator = np.random.default_rng(seed)
    runs = max(array.shape[0] for array in arrays)  # statistics of two arrays look at every pair of runs
    at_once = max(1, CHUNK // (sum(array.size for array in arrays) * (runs if len(arrays) > 1 else 1)))
    for start in range(0, repetitions, at_once):
        count = min(at_once, repetitions - start)
        shapes = [(count, *array.shape[:2]) for array in arrays]
        picks = [generator.integers(shape[1], size=shape) for shape in shapes[: 1 if paired else None]]
        of_task = [np.broadcast_to(np.arange(shape[2]), shape) for shape in shapes]
        if tasks:
            drawn = generator.integers(shapes[0][2], size=(count, 1, shapes[0][2]))
            of_task = [np.broadcast_to(drawn, shape) for shape in shapes]
        yield tuple(array[picks[0 if paired else i], of_task[i]] for i, array in enumerate(arrays))
