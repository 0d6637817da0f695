"""Statistics with confidence intervals that hold at few runs, from an explicit seed.

    how = Bootstrap(seed=0, repetitions=5_000)
    how.estimate(interquartile_mean, scores)                       # Estimate(value, low, high)
    how.estimate(probability_of_improvement, scores_x, scores_y)
    how.difference(interquartile_mean, scores_x, scores_y)
    how.band(curves)                                               # Band(middle, low, high), one number a point

Shapes as in `aggregate`: scores (R, T) or (R,), R runs of each of T tasks; curves (R, T, E) or (R, E).

The middle 95 % of a bootstrap's draws cover too little at few runs (the IQM of one task: 0.74 at 3, 0.92 at 10). So the
bootstrap gives the standard error and the shape only, and Student's t how far to go (`Draws.ends`). Simulated coverage
of the IQM, mean and median is 0.93 or more from `MIN_RUNS` on, but for the cases below; fewer runs have no interval.
``pytest -m slow -s tests/evaluation/analysis/stats/test_coverage.py`` prints the table.

What no run shows, no interval can cover. Where half of the seeds collapse, all of R runs are of one kind in 2^(1-R) of
all cases: of a single task 0.75 is the most at 3 runs, 0.88 at 4. If a fifth collapses, the mean of one task is covered
in 0.7 at 5 runs. The mean of one task whose scores mostly stand at a bound is covered in 0.87 to 0.9, the median over a
few tasks of unlike runs in 0.9. The IQM has none of these: prefer it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.stats.aggregate import (
    Array,
    Statistic,
    as_curves,
    as_scores,
    batched,
    exact_ends,
    interquartile_mean,
)
from evaluation.analysis.stats.exact import Ends

Picks = NDArray[np.int64]
CHUNK = 1 << 21  # numbers resampled at once: 16 MB
MIN_RUNS = 3  # fewer give no interval
TOO_FEW = "too few runs"  # what every output then says instead
SHOWING_TWO_KINDS = 5  # runs of a task that show both, where half of its seeds collapse, in 0.94 of all cases


class Estimate(NamedTuple):
    """A number with its confidence interval. Ends that are NaN: too few runs for one; all NaN: there is no number,
    either. Ends that are the number: all runs are alike, so nothing is known of their spread."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def within(self, low: float, high: float) -> Estimate:
        """The same of a number that cannot lie outside of [low, high]."""
        ends = (min(max(end, low), high) for end in (self.low, self.high))
        return self if math.isnan(self.low) else Estimate(self.value, *ends)


UNKNOWN = Estimate(math.nan)


class Band(NamedTuple):
    """A curve and its pointwise confidence interval, (E,) each."""

    middle: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Draws:
    """A statistic of each resample, and what a bootstrap of few runs leaves out.

    Attributes:
        values: (repetitions,), or (repetitions, E) of E points.
        inflation: the standard error over that of the draws, sqrt(R / (R - 1)) of R runs.
        freedom: degrees of freedom of the error, R - 1 of one task, of several by Welch and Satterthwaite.
        runs: the fewest runs of a task.
    """

    values: Array
    inflation: ArrayLike = 1.0
    freedom: ArrayLike = math.inf
    runs: float = math.inf

    @property
    def _tails(self) -> float:
        """The tails of an interval as a share of those of its level."""
        return 1 - 1.5 / self.runs

    def error(self, value: ArrayLike) -> Array:
        """The standard error of `value`, its bias included."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.inflation * np.sqrt(np.mean((self.values - np.asarray(value)) ** 2, axis=0)))

    def ends(self, value: ArrayLike, level: float) -> Ends:
        """The ends of the interval of `value`: value +- t s, and out to the draws where these lie farther.

        s is the standard error, t Student's quantile. Skewed draws, as where one run of five collapsed, reach farther
        on one side: to their quantiles at the level that t s / (inflation) is of a normal distribution (Hesterberg
        2015, the expanded percentile interval). The tails are taken as (1 - 1.5 / R) of the level's, since skewed and
        bounded scores need that at three to six runs. Draws with infinite ones (censored) have their quantiles only.
        """
        from scipy import special

        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, not {level}")
        reach = -special.stdtrit(self.freedom, (1 - level) / 2 * self._tails)
        beyond = special.ndtr(-reach * self.inflation)
        ordered, last = np.sort(self.values, axis=0), self.values.shape[0] - 1  # NaN comes last
        place = np.broadcast_to(np.floor(beyond * last).astype(int), ordered.shape[1:])[None]
        low, high = (np.take_along_axis(ordered, at, axis=0)[0] for at in (place, last - place))
        finite = np.isfinite(self.values).all(axis=0)
        step = np.where(finite, reach * self.error(value), 0.0)
        with np.errstate(invalid="ignore"):
            low, high = (
                np.where(finite, end, of)
                for end, of in ((np.minimum(low, value - step), low), (np.maximum(high, value + step), high))
            )
        unknown = np.isnan(self.values).any(axis=0)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def p_value(self, value: float) -> float:
        """Two-sided p value of the hypothesis that the estimated number is 0: `ends` at the level 1 - p touch it. 1
        where nothing is known of the spread."""
        from scipy import special

        error = float(self.error(value))
        if not error > 0:
            return 1.0
        return min(1.0, float(2 * special.stdtr(self.freedom, -abs(value) / error)) / self._tails)


def as_draws(draws: Draws | Array) -> Draws:
    """A plain array (repetitions,) as draws without what few runs need."""
    return draws if isinstance(draws, Draws) else Draws(draws)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: at which `level`, from how many `repetitions`.

    Each repetition draws, for every task on its own and for every array of scores on its own, R runs with replacement
    (rliable's ``StratifiedBootstrap``, and ``StratifiedIndependentBootstrap`` for two). The same `seed` gives the same
    interval. What is counted (shares of runs, probabilities of improvement, median times) needs none: `exact`.

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
        return f"{self.level:.0%} interval (bootstrap t, {self.repetitions:,} repetitions, seed {self.seed})"

    def estimate(self, statistic: Statistic, *scores: ArrayLike) -> Estimate:
        """``statistic(*scores)`` with its interval."""
        value, exact = statistic(*scores), exact_ends(statistic)
        if exact is None:
            return self.around(value, self.draws(statistic, *scores))
        arrays = [as_scores(array) for array in scores]
        low, high = exact(np.asarray(value), arrays, self.level) if self._enough(*arrays) else (math.nan, math.nan)
        return Estimate(value, float(low), float(high))

    def difference(self, statistic: Statistic, scores_x: ArrayLike, scores_y: ArrayLike) -> Estimate:
        """``statistic(scores_x) - statistic(scores_y)`` with its interval; raises as `difference_draws`."""
        value = statistic(scores_x) - statistic(scores_y)
        return self.around(value, self.difference_draws(statistic, scores_x, scores_y))

    def around(self, value: float, draws: Draws | Array) -> Estimate:
        """`value` with the interval of its `draws`; of a plain array (repetitions,) without what few runs need."""
        return Estimate(float(value), *map(float, as_draws(draws).ends(value, self.level)))

    def band(self, curves: ArrayLike, statistic: Statistic = interquartile_mean) -> Band:
        """A statistic of the runs at each of E points of learning curves, (R, T, E) or (R, E), with its pointwise
        interval; runs are drawn as wholes.

        With the IQM over evaluation steps this is rliable's sample-efficiency curve, with the share of `above` its
        performance profile.
        """
        array, exact = as_curves(curves), exact_ends(statistic)
        of_points = batched(statistic)
        middle = of_points(np.moveaxis(array, -1, 0))
        if not self._enough(array):
            return Band(middle, *np.full((2, *middle.shape), np.nan))
        if exact is not None:
            return Band(middle, *exact(middle, [array], self.level))
        draws = self._drawn(lambda drawn: of_points(np.moveaxis(drawn, -1, 1)), array)
        return Band(middle, *draws.ends(middle, self.level))

    def draws(self, statistic: Statistic, *scores: ArrayLike) -> Draws:
        """The statistic of each resample."""
        return self._drawn(batched(statistic), *map(as_scores, scores))

    def difference_draws(self, statistic: Statistic, scores_x: ArrayLike, scores_y: ArrayLike) -> Draws:
        """The difference of the statistic of each resample.

        ValueError where a draw of the statistic is infinite: two infinite numbers have no difference.
        """
        of_scores = batched(statistic)

        def difference(x: Array, y: Array) -> Array:
            both = np.stack([of_scores(x), of_scores(y)])
            if not np.isfinite(both).all():
                raise ValueError("the difference of infinite statistics is not defined: use a restricted mean time")
            return np.asarray(both[0] - both[1])

        return self._drawn(difference, as_scores(scores_x), as_scores(scores_y))

    def _enough(self, *arrays: Array) -> bool:
        """Whether there are `MIN_RUNS` of what is drawn."""
        return min(array.shape[1 if self.tasks else 0] for array in arrays) >= MIN_RUNS

    def _drawn(self, of_resamples: Callable[..., Array], *arrays: Array) -> Draws:
        """`of_resamples` of each resample of the arrays; NaN where there are too few runs."""
        if not self._enough(*arrays):
            return Draws(np.full(self.repetitions, np.nan))
        values: list[Array] = []
        counts: list[list[Array]] = []  # how often each run is in each resample, of each array
        for drawn, picks in self._resamples(*arrays):
            values.append(of_resamples(*drawn))
            counts.append([] if self.tasks else [_counts(one) for one in picks])
        found = np.concatenate(values)
        if self.tasks:
            n = arrays[0].shape[1]
            return Draws(found, math.sqrt(n / (n - 1)), n - 1, n)
        return _with_freedom(found, [np.concatenate(of) for of in zip(*counts, strict=True)])

    def _resamples(self, *arrays: Array) -> Iterator[tuple[tuple[Array, ...], list[Picks]]]:
        """Resamples (B, R, T, ...) of each array (R, T, ...) with the numbers (B, R, T) of the runs drawn,
        `repetitions` in all, a handful B of them at a time."""
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
            yield tuple(array[picks[0 if self.paired else i], of_task[i]] for i, array in enumerate(arrays)), picks


DEFAULT = Bootstrap()


def _counts(picks: Picks) -> Array:
    """How often each run was drawn, of the numbers (B, R, T) of those that were: (B, R, T)."""
    resamples, runs, tasks = picks.shape
    place = (np.arange(resamples)[:, None, None] * runs + picks) * tasks + np.arange(tasks)
    return np.bincount(place.ravel(), minlength=picks.size).reshape(picks.shape).astype(np.float64)


def _with_freedom(values: Array, counts: list[Array]) -> Draws:
    """Draws (B,) or (B, E) with their inflation and degrees of freedom, from how often each run was in each resample.

    What one run does to the statistic is the covariance of its count with the draws (the infinitesimal jackknife of
    Efron 2014; less its own noise, Wager et al. 2014). The variance that a task's R runs give is the sum of their
    squares; Welch (1947) and Satterthwaite (1946) put the tasks together.
    """
    with np.errstate(invalid="ignore"):  # infinite draws, of which no more is asked than their quantiles
        centred = values - values.mean(axis=0)
    total, fewest = centred.var(axis=0), min(of.shape[1] for of in counts)
    parts, sizes = [], []
    for of in counts:  # (B, R, T)
        runs = of.shape[1]
        with np.errstate(invalid="ignore"):
            moves = np.tensordot(of - 1.0, centred, axes=(0, 0)) / len(values)  # (R, T) or (R, T, E)
            parts.append(np.maximum((moves**2).sum(axis=0) - (runs - 1) * total / len(values), 0.0))
        sizes.append(np.full(of.shape[2], runs))
    by_task, runs_of = np.concatenate(parts), np.concatenate(sizes).reshape(-1, *(1,) * (values.ndim - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        inflation = np.sqrt((by_task * runs_of / (runs_of - 1)).sum(axis=0) / by_task.sum(axis=0))
        freedom = by_task.sum(axis=0) ** 2 / (by_task**2 / (runs_of - 1)).sum(axis=0)
    inflation = np.nan_to_num(inflation, nan=math.sqrt(fewest / (fewest - 1)))
    freedom = np.clip(np.nan_to_num(freedom, nan=fewest - 1), fewest - 1, (runs_of - 1).sum())
    return Draws(values, inflation, freedom, fewest)
