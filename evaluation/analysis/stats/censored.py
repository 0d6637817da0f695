"""Statistics of times to a target (steps, seconds or samples), censored where a run ended before it got there.

A censored time is infinite (`metrics.time_to_threshold`): it counts as "not reached", at any time. All runs of a study
end at the same step, so shares of all runs are what the Kaplan-Meier estimator gives as well (seen in the tests).
Shapes as in `aggregate`: times (R, T) or (R,); both statistics go into `aggregate.bootstrap_interval`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.analysis.stats.aggregate import Array, as_scores, curve_band, mean, statistic


@statistic
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


def reached_by(times: ArrayLike, at: ArrayLike) -> Array:
    """Time-to-target profile: the share of all runs (R, T) that have reached the target by each time of `at` (N,)."""
    return np.asarray(_reached(times, at).mean(axis=(0, 1)))


def reached_by_band(
    times: ArrayLike, at: ArrayLike, *, seed: int, level: float = 0.95, repetitions: int = 2_000
) -> tuple[Array, Array]:
    """Pointwise bootstrap interval of `reached_by`: the lower and the upper curve, (N,) each."""
    return curve_band(_reached(times, at), mean, seed=seed, level=level, repetitions=repetitions)


def _reached(times: ArrayLike, at: ArrayLike) -> Array:
    reached = as_scores(times)[..., None] <= np.asarray(at, dtype=np.float64)
    # Runs that never do have not at infinity, either.
    return np.asarray(reached & np.isfinite(as_scores(times))[..., None], dtype=np.float64)
