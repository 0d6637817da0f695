"""The stratified bootstrap: statistics with confidence intervals, from an explicit seed.

    how = Bootstrap(seed=0, repetitions=5_000)
    how.estimate(interquartile_mean, scores)                       # Estimate(value, low, high)
    how.estimate(probability_of_improvement, scores_x, scores_y)
    how.difference(interquartile_mean, scores_x, scores_y)
    how.band(curves)                                               # Band(middle, low, high), one number a point

Shapes as in `aggregate`: scores (R, T) or (R,), R runs of each of T tasks; curves (R, T, E) or (R, E).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.analysis.stats.aggregate import Array, Statistic, as_curves, as_scores, batched, interquartile_mean

CHUNK = 1 << 21  # numbers resampled at once: 16 MB


class Estimate(NamedTuple):
    """A number with its confidence interval. Ends that are NaN: there is none, as of a single run, whose resamples are
    itself; all NaN: there is no number, either."""

    value: float
    low: float = math.nan
    high: float = math.nan


UNKNOWN = Estimate(math.nan)


class Band(NamedTuple):
    """A curve and its pointwise confidence interval, (E,) each."""

    middle: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: the middle `level` of a statistic over `repetitions` resamples.

    Each repetition draws, for every task on its own and for every array of scores on its own, R runs with replacement
    (rliable's ``StratifiedBootstrap``, and ``StratifiedIndependentBootstrap`` for two). The same `seed` gives the same
    interval. NaN where an array holds a single run of each task and only runs are drawn.

    Args:
        paired: draw the same runs of all arrays (R, T), whose run r of task t belongs together (a seed's).
        tasks: draw tasks with replacement as well, for claims about tasks like these; needs many of them.
    """

    seed: int = 0
    level: float = 0.95
    repetitions: int = 5_000
    paired: bool = False
    tasks: bool = False

    def __str__(self) -> str:
        return f"{self.repetitions:,} repetitions, seed {self.seed}"

    @property
    def words(self) -> str:
        """The interval in words."""
        return f"{self.level:.0%} interval ({self.repetitions:,} bootstrap repetitions, seed {self.seed})"

    def estimate(self, statistic: Statistic, *scores: ArrayLike) -> Estimate:
        """``statistic(*scores)`` with its percentile interval."""
        return self.around(statistic(*scores), self.draws(statistic, *scores))

    def difference(self, statistic: Statistic, scores_x: ArrayLike, scores_y: ArrayLike) -> Estimate:
        """``statistic(scores_x) - statistic(scores_y)`` with its interval; raises as `difference_draws`."""
        value = statistic(scores_x) - statistic(scores_y)
        return self.around(value, self.difference_draws(statistic, scores_x, scores_y))

    def around(self, value: float, draws: Array) -> Estimate:
        """`value` with the percentile interval of its `draws` (repetitions,)."""
        return Estimate(float(value), *map(float, percentiles(draws, self.level)))

    def band(self, curves: ArrayLike, statistic: Statistic = interquartile_mean) -> Band:
        """A statistic of the runs at each of E points of learning curves, (R, T, E) or (R, E), with its pointwise
        interval; runs are drawn as wholes.

        With the IQM over evaluation steps this is rliable's sample-efficiency curve, with the mean over `above` its
        performance profile.
        """
        array = as_curves(curves)
        of_points = batched(statistic)
        middle = of_points(np.moveaxis(array, -1, 0))
        draws = self._drawn(lambda drawn: of_points(np.moveaxis(drawn, -1, 1)), array)
        low, high = (np.broadcast_to(end, middle.shape) for end in percentiles(draws, self.level))
        return Band(middle, low, high)

    def draws(self, statistic: Statistic, *scores: ArrayLike) -> Array:
        """The statistic of each resample, (repetitions,)."""
        return self._drawn(batched(statistic), *map(as_scores, scores))

    def difference_draws(self, statistic: Statistic, scores_x: ArrayLike, scores_y: ArrayLike) -> Array:
        """The difference of the statistic of each resample, (repetitions,).

        ValueError where a draw of the statistic is infinite: two infinite numbers have no difference.
        """
        of_scores = batched(statistic)

        def difference(x: Array, y: Array) -> Array:
            both = np.stack([of_scores(x), of_scores(y)])
            if not np.isfinite(both).all():
                raise ValueError("the difference of infinite statistics is not defined: use a restricted mean time")
            return np.asarray(both[0] - both[1])

        return self._drawn(difference, as_scores(scores_x), as_scores(scores_y))

    def _drawn(self, of_resamples: Callable[..., Array], *arrays: Array) -> Array:
        """`of_resamples` of each resample of the arrays, (repetitions, ...)."""
        if not self.tasks and min(array.shape[0] for array in arrays) < 2:  # its only run can only be drawn again
            return np.full(self.repetitions, np.nan)
        return np.concatenate([of_resamples(*drawn) for drawn in self._resamples(*arrays)])

    def _resamples(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """Resamples (B, R, T, ...) of each array (R, T, ...), `repetitions` in all, a handful B of them at a time."""
        if self.paired and len({array.shape for array in arrays}) > 1:
            raise ValueError(f"paired scores must have one shape, not {[array.shape for array in arrays]}")
        generator = np.random.default_rng(self.seed)
        runs = max(array.shape[0] for array in arrays)  # statistics of two arrays look at every pair of runs
        at_once = max(1, CHUNK // (sum(array.size for array in arrays) * (runs if len(arrays) > 1 else 1)))
        for start in range(0, self.repetitions, at_once):
            count = min(at_once, self.repetitions - start)
            shapes = [(count, *array.shape[:2]) for array in arrays]
            picks = [generator.integers(shape[1], size=shape) for shape in shapes[: 1 if self.paired else None]]
            of_task = [np.broadcast_to(np.arange(shape[2]), shape) for shape in shapes]
            if self.tasks:
                drawn = generator.integers(shapes[0][2], size=(count, 1, shapes[0][2]))
                of_task = [np.broadcast_to(drawn, shape) for shape in shapes]
            yield tuple(array[picks[0 if self.paired else i], of_task[i]] for i, array in enumerate(arrays))


DEFAULT = Bootstrap()


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
