"""Intervals of what is counted: no resampling, and none too narrow where all or none of the runs did it.

Each takes values (...), one a point, and returns the lower and the upper ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]
SHORT = 0.02  # an interval that covers this much less than its level is still given: [first, last] of five runs


def share_ends(share: ArrayLike, trials: int, level: float) -> Ends:
    """Of a share of `trials` runs: Clopper and Pearson (1934), which covers at least `level`.

    Of runs of several tasks, whose probabilities differ, it covers more (Hoeffding 1956).
    """
    from scipy import special

    count, tail = np.round(np.asarray(share, dtype=np.float64) * trials), (1 - level) / 2
    low = special.betaincinv(np.maximum(count, 1), trials - count + 1, tail)
    high = special.betaincinv(count + 1, np.maximum(trials - count, 1), 1 - tail)
    return np.where(count > 0, low, 0.0), np.where(count < trials, high, 1.0)


def improvement_ends(probability: ArrayLike, trials: int, level: float) -> Ends:
    """Of a probability of improvement P over T tasks with at least R runs of both sides each, `trials` = R T: Wilson
    (1927).

    The variance of Mann and Whitney's estimator is at most P (1 - P) / R in a task, whatever the distributions
    (Birnbaum & Klose 1957), and over tasks at most that of T equal ones.
    """
    from scipy import special

    p, z = np.asarray(probability, dtype=np.float64), float(special.ndtri((1 + level) / 2))
    middle = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    return np.asarray(np.maximum(middle - reach, 0.0)), np.asarray(np.minimum(middle + reach, 1.0))


def median_ends(values: ArrayLike, level: float) -> Ends:
    """Of the median of runs (N, ...): the order statistics between which it lies with probability `level` whatever the
    distribution, censored ones included. NaN where too few runs have such: below five for a level of 0.95."""
    from scipy import special

    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=0)
    n, tail = ordered.shape[0], (1 - level) / 2
    outside = special.bdtr(np.arange(n // 2 + 1), n, 0.5)  # that the median lies below order statistic 1, 2, ..
    if 2 * outside[0] > 1 - level + SHORT:
        return np.full(ordered.shape[1:], np.nan), np.full(ordered.shape[1:], np.nan)
    place = max(0, int(np.searchsorted(outside, tail, side="right")) - 1)
    return ordered[place], ordered[n - 1 - place]
