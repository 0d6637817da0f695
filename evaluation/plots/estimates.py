"""Estimates with their intervals as the figures show them; the statistics are those of `aggregate` and `times`.

Values that are NaN (a run without this measurement) must be left out before, and infinite ones are censored times.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from evaluation.analysis.stats import aggregate
from evaluation.analysis.stats import censored as times
from evaluation.analysis.stats.aggregate import Array, Interval, Statistic

LEVEL = 0.95


class Bootstrap(Protocol):
    """How intervals are made: `seed` and number of `repetitions`."""

    @property
    def seed(self) -> int:
        """Of the generator."""

    @property
    def repetitions(self) -> int:
        """Resamples."""


class Band(NamedTuple):
    """A curve and its pointwise interval, (N,) each."""

    middle: Array
    low: Array
    high: Array


def words(how: Bootstrap) -> str:
    """How the intervals of a figure were made."""
    return f"{LEVEL:.0%} interval ({how.repetitions:,} bootstrap repetitions, seed {how.seed})"


def point(statistic: Statistic, values: ArrayLike, how: Bootstrap) -> tuple[float, Interval]:
    """A statistic of runs (R,) with its interval; of a single run there is none (NaN)."""
    interval = aggregate.bootstrap_interval(statistic, values, seed=how.seed, repetitions=how.repetitions, level=LEVEL)
    return statistic(values), interval


def difference(statistic: Statistic, x: ArrayLike, y: ArrayLike, how: Bootstrap) -> tuple[float, Interval]:
    """A statistic of runs x (R,) less that of runs y (R',), with its interval; NaN where either is a single run."""
    interval = aggregate.difference_interval(statistic, x, y, seed=how.seed, repetitions=how.repetitions, level=LEVEL)
    return statistic(x) - statistic(y), interval


def iqm_curve(scores: ArrayLike, how: Bootstrap) -> Band:
    """Interquartile mean over runs at each step of learning curves (R, E)."""
    band = aggregate.curve_band(scores, seed=how.seed, repetitions=how.repetitions, level=LEVEL)
    return _band(aggregate.curve(scores), band, scores)


def profile(scores: ArrayLike, at: ArrayLike, how: Bootstrap) -> Band:
    """Share of runs (R,) or (R, T) above each of `at` (N,)."""
    band = aggregate.performance_profile_band(scores, at, seed=how.seed, repetitions=how.repetitions, level=LEVEL)
    return _band(aggregate.performance_profile(scores, at), band, scores)


def time_profile(reached: ArrayLike, at: ArrayLike, how: Bootstrap) -> Band:
    """Share of runs, of times to the target (R,), that have met it by each of `at` (N,)."""
    band = times.reached_by_band(reached, at, seed=how.seed, repetitions=how.repetitions, level=LEVEL)
    return _band(times.reached_by(reached, at), band, reached)


def _band(middle: Array, band: tuple[Array, Array], runs: ArrayLike) -> Band:
    single = np.shape(runs)[0] < 2
    low, high = (np.full_like(middle, np.nan), np.full_like(middle, np.nan)) if single else band
    return Band(middle, low, high)
