"""Statistics of times to a target (steps, seconds or samples), censored where a run ended before it got there.

A censored time is infinite (`run_metrics.time_to_threshold`): it counts as "not reached", at any time. All runs of a
study end at the same step, so shares of all runs are what the Kaplan-Meier estimator gives as well (seen in the tests).
Shapes as in `aggregate`: times (R, T) or (R,); both statistics go into `bootstrap.Bootstrap`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.analysis.stats.aggregate import Array, as_scores, statistic


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
    """1 where a run (R, T) has reached the target by a time of `at` (N,), else 0: (R, T, N). Its mean over runs and
    tasks is the time-to-target profile."""
    reached = as_scores(times)[..., None] <= np.asarray(at, dtype=np.float64)
    # Runs that never do have not at infinity, either.
    return np.asarray(reached & np.isfinite(as_scores(times))[..., None], dtype=np.float64)
