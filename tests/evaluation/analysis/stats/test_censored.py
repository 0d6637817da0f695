"""Times to a target with censored runs, against Kaplan and Meier's estimator and by hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.analysis.stats.aggregate import median_time, reached_by, restricted_mean_time, share
from evaluation.analysis.stats.bootstrap import Bootstrap

HORIZON = 100.0
TIMES = st.lists(st.sampled_from([10.0, 20.0, 20.0, 50.0, 90.0, math.inf]), min_size=1, max_size=12)


def profile(times, at):
    """The time-to-target profile."""
    return reached_by(times, at).mean(axis=(0, 1))


def kaplan_meier(times):
    known = [time for time in times if math.isfinite(time)]
    return stats.ecdf(stats.CensoredData(uncensored=known, right=[HORIZON] * (len(times) - len(known))))


@given(TIMES)
def test_profile_and_means_are_kaplan_and_meiers(times):
    at = np.array([0.0, 10.0, 15.0, 20.0, 50.0, 89.0, 90.0, 99.0])
    if all(math.isinf(time) for time in times):
        assert profile(times, at).tolist() == [0.0] * 8
        assert median_time(times) == math.inf
        assert restricted_mean_time(times, HORIZON) == HORIZON
        return
    theirs = kaplan_meier(times)
    assert profile(times, at) == pytest.approx(theirs.cdf.evaluate(at))
    assert median_time(times) == next(
        (t for t in (10.0, 20.0, 50.0, 90.0) if theirs.cdf.evaluate(t) >= 0.5 - 1e-9), math.inf
    )
    grid = np.linspace(0, HORIZON, 10_000, endpoint=False)
    area = theirs.sf.evaluate(grid).mean() * HORIZON  # under the survival curve
    assert restricted_mean_time(times, HORIZON) == pytest.approx(area, abs=0.02)


def test_by_hand():
    times = [30.0, 10.0, math.inf, 20.0]
    assert median_time(times) == 20.0
    assert median_time([30.0, 10.0, math.inf]) == 30.0
    assert median_time([10.0, math.inf, math.inf]) == math.inf
    assert median_time([[10.0, 40.0], [20.0, math.inf]]) == 20.0  # over all runs of both tasks
    assert restricted_mean_time(times, 40.0) == 25.0
    assert restricted_mean_time(times, 15.0) == 13.75  # 15, 10, 15, 15
    assert profile(times, [9.0, 10.0, 25.0, math.inf]).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_censored_runs_are_never_dropped_from_an_interval():
    times = np.array([10.0, 20.0, 30.0, 40.0, 50.0, math.inf, math.inf, math.inf])
    low, high = Bootstrap(repetitions=1000).estimate(median_time, times)[1:]
    assert low == 10.0  # the first and the last of 8: 0.992; the second and the seventh: 0.93
    assert high == math.inf
    low, high = Bootstrap().estimate(functools.partial(restricted_mean_time, horizon=100.0), times)[1:]
    assert 20 < low < restricted_mean_time(times, 100.0) < high < 95


def test_the_band_of_a_profile():
    times = np.array([[10.0, 30.0], [20.0, math.inf], [30.0, math.inf]])
    at = [5.0, 20.0, 40.0]
    low, high = Bootstrap(repetitions=2_000).band(reached_by(times, at), share)[1:]
    assert (low <= profile(times, at)).all()
    assert (profile(times, at) <= high).all()
    assert (low[0], high[0]) == (0.0, pytest.approx(1 - 0.025 ** (1 / 6)))  # none of six
    theirs = stats.binomtest(4, 6).proportion_ci(method="exact")
    assert (low[2], high[2]) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_order_statistics_hold_the_median_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), {}
    for runs in (5, 6, 10, 15):
        times = rng.exponential(size=(4000, runs))
        times[times > 1.2] = math.inf  # 30 % are censored
        ends = np.array([Bootstrap().estimate(median_time, one)[1:] for one in times])
        hits[runs] = ((ends[:, 0] <= math.log(2)) & (math.log(2) <= ends[:, 1])).mean()
    assert hits[5] == pytest.approx(1 - 2**-4, abs=0.01)  # all that five can give
    assert all(0.945 <= hits[runs] <= 0.98 for runs in (6, 10, 15))
    assert np.isnan(Bootstrap().estimate(median_time, [1.0, 2.0, 3.0, 4.0])[1:]).all()
