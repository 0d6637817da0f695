"""Intervals by the bootstrap: against rliable and scipy, their coverage, what is drawn and what is not."""

from __future__ import annotations

import functools
import math
import time

import numpy as np
import pytest
from scipy import stats

from evaluation.analysis.stats.aggregate import (
    above,
    interquartile_mean,
    mean,
    median,
    median_time,
    optimality_gap,
    probability_of_improvement,
    share,
)
from evaluation.analysis.stats.bootstrap import Bootstrap

MANY = Bootstrap(repetitions=10_000)


def interval(how, statistic, *scores):
    """The ends of an estimate."""
    return how.estimate(statistic, *scores)[1:]


def middle(how, statistic, *scores):
    """The middle 95 % of the draws, which rliable and scipy take as the interval."""
    return tuple(np.quantile(how.draws(statistic, *scores).values, [0.025, 0.975]))


def t_interval(error, freedom, runs):
    """The length of a 95 % interval."""
    return 2 * stats.t.ppf(1 - 0.025 * (1 - 1.5 / runs), freedom) * error


# Numbers of rliable 1.2.0 (its bootstrap ignores its seed, so intervals agree to the error of 20,000 repetitions):
#   generator = np.random.default_rng(7)
#   x = generator.normal(0.5, 0.3, size=(10, 4)).round(2); y = generator.normal(0.4, 0.3, size=(8, 4)).round(2)
#   metrics.aggregate_iqm(x), aggregate_median(x), aggregate_mean(x), aggregate_optimality_gap(x)
#   metrics.probability_of_improvement(x, y); library.create_performance_profile({"x": x}, levels, reps=2000)
#   library.get_interval_estimates({"x": x}, function, reps=20_000), and for the IQM with task_bootstrap=True
#   frames = generator.normal(0.5, 0.3, size=(10, 4, 3)).round(2), the IQM of each, reps=5000
RLIABLE = np.random.default_rng(7)
X = RLIABLE.normal(0.5, 0.3, size=(10, 4)).round(2)
Y = RLIABLE.normal(0.4, 0.3, size=(8, 4)).round(2)
FRAMES = RLIABLE.normal(0.5, 0.3, size=(10, 4, 3)).round(2)


@pytest.mark.parametrize(
    ("statistic", "scores", "value", "low", "high"),
    [
        (interquartile_mean, (X,), 0.3965, 0.3165, 0.469),
        (median, (X,), 0.382, 0.311, 0.46),
        (mean, (X,), 0.3815, 0.308, 0.455),
        (optimality_gap, (X,), 0.6185, 0.545, 0.692),
        (probability_of_improvement, (X, Y), 0.503125, 0.365625, 0.6375),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_against_rliable(statistic, scores, value, low, high):
    assert statistic(*scores) == pytest.approx(value, abs=1e-12)
    assert middle(MANY, statistic, *scores) == (pytest.approx(low, abs=0.005), pytest.approx(high, abs=0.005))


def test_profile_curve_and_task_bootstrap_against_rliable():
    levels = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert above(X, levels).mean(axis=(0, 1)).tolist() == pytest.approx([0.925, 0.725, 0.3, 0.075, 0.0])
    profile = np.moveaxis(above(X, levels), -1, 0)
    low, high = np.transpose([middle(Bootstrap(repetitions=2_000), mean, at) for at in profile])
    assert low.tolist() == pytest.approx([0.85, 0.575, 0.174, 0.0, 0.0], abs=0.026)  # one run is 0.025
    assert high.tolist() == pytest.approx([1.0, 0.85, 0.425, 0.175, 0.0], abs=0.026)
    assert MANY.band(FRAMES).middle.tolist() == pytest.approx([0.4145, 0.4005, 0.5405])
    frames = np.moveaxis(FRAMES, -1, 0)
    low, high = np.transpose([middle(Bootstrap(repetitions=5000), interquartile_mean, at) for at in frames])
    assert low.tolist() == pytest.approx([0.359, 0.309, 0.469], abs=0.006)
    assert high.tolist() == pytest.approx([0.479, 0.4965, 0.612], abs=0.006)
    low, high = middle(Bootstrap(tasks=True, repetitions=10_000), interquartile_mean, X)
    assert (low, high) == (pytest.approx(0.3005, abs=0.006), pytest.approx(0.476, abs=0.006))


def test_the_interval_of_a_mean_is_scipys():
    scores = np.random.default_rng(8).gumbel(size=12)
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0))
    ours = middle(Bootstrap(repetitions=20000), mean, scores)
    assert ours == (
        pytest.approx(theirs.confidence_interval.low, abs=0.02),
        pytest.approx(theirs.confidence_interval.high, abs=0.02),
    )


@pytest.mark.parametrize("arrays", [(X,), (X, Y)], ids=["one", "two"])
def test_any_function_of_scores_can_be_bootstrapped(arrays):
    known = interquartile_mean if len(arrays) == 1 else probability_of_improvement
    plain = Bootstrap(seed=3, repetitions=50).draws(lambda *drawn: known(*drawn), *arrays).values
    assert plain.tolist() == pytest.approx(Bootstrap(seed=3, repetitions=50).draws(known, *arrays).values.tolist())


def test_options_of_a_statistic():
    gap = functools.partial(optimality_gap, target=0.5)
    assert gap(X) == pytest.approx(0.1625)  # rliable's aggregate_optimality_gap(x, 0.5)
    low, high = interval(Bootstrap(repetitions=500), gap, X)
    assert low < 0.1625 < high < 0.5


def test_ten_thousand_repetitions_take_well_under_a_second():
    for statistic, scores in ((interquartile_mean, (X,)), (probability_of_improvement, (X, Y))):
        start = time.process_time()
        Bootstrap(repetitions=10000).draws(statistic, *scores)
        assert time.process_time() - start < 0.5


def test_resampling_in_pieces_changes_nothing_but_memory(monkeypatch):
    whole = Bootstrap(repetitions=3000).difference(mean, X, Y)
    monkeypatch.setattr("evaluation.analysis.stats.bootstrap.CHUNK", 10_000)
    pieces = Bootstrap(repetitions=3000).difference(mean, X, Y)
    assert pieces == (whole.value, pytest.approx(whole.low, abs=0.02), pytest.approx(whole.high, abs=0.02))
    assert Bootstrap(repetitions=777).draws(mean, X).values.shape == (777,)


def test_differences_paired_and_not():
    seeds = np.random.default_rng(9).normal(size=(20, 1))  # what runs of a seed have in common
    x, y = seeds + 0.5, seeds + np.random.default_rng(10).normal(scale=0.01, size=(20, 1))
    paired = Bootstrap(paired=True, repetitions=10_000).difference(mean, x, y)
    apart = MANY.difference(mean, x, y)
    assert 0.49 < paired.low < paired.high < 0.51
    assert apart.low < 0 < 1 < apart.high
    expected = t_interval(math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 20), 38, 20)
    assert apart.high - apart.low == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="one shape"):
        Bootstrap(paired=True, repetitions=10_000).difference(mean, x, y[:5])
    with pytest.raises(ValueError, match="infinite"):
        MANY.difference(mean, [1.0, 2.0, math.inf], [1.0, 2.0, 3.0])


def test_drawing_tasks_widens_the_interval_by_what_tasks_differ():
    scores = np.arange(30.0)[None, :] + np.zeros((5, 1))  # all the spread is between tasks
    assert interval(Bootstrap(repetitions=300), mean, scores) == (14.5, 14.5)
    low, high = interval(Bootstrap(repetitions=4000, tasks=True), mean, scores)
    expected = t_interval(np.arange(30.0).std(ddof=1) / math.sqrt(30), 29, 30)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_curves_of_one_task_and_wrong_shapes():
    curves = np.random.default_rng(11).normal(size=(8, 5))
    assert MANY.band(curves).middle.tolist() == [pytest.approx(stats.trim_mean(column, 0.25)) for column in curves.T]
    for bad in (np.zeros(3), np.zeros((2, 0)), np.zeros((2, 2, 2, 2))):
        with pytest.raises(ValueError, match="shape"):
            MANY.band(bad)
    with pytest.raises(ValueError, match="NaN"):
        MANY.band([[math.nan, 1.0]])


def test_a_seed_gives_one_interval_around_the_estimate():
    scores = np.random.default_rng(2).normal(size=(10, 4))
    first = Bootstrap(repetitions=500).estimate(interquartile_mean, scores)
    assert first == Bootstrap(repetitions=500).estimate(interquartile_mean, scores)
    assert first != Bootstrap(seed=1, repetitions=500).estimate(interquartile_mean, scores)
    assert first.low < interquartile_mean(scores) == first.value < first.high
    narrow = Bootstrap(repetitions=500, level=0.5).estimate(interquartile_mean, scores)
    assert first.low < narrow.low < narrow.high < first.high
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            interval(Bootstrap(level=level, repetitions=2), mean, scores)


def test_the_bootstrap_is_stratified_by_task():
    # Runs of a task are equal and tasks differ: only a bootstrap that mixes tasks would see any spread.
    scores = np.tile([0.0, 10.0, 100.0], (5, 1))
    assert interval(Bootstrap(repetitions=50), mean, scores) == (pytest.approx(110 / 3), pytest.approx(110 / 3))


def test_tasks_are_resampled_on_their_own():
    # Perfectly correlated tasks: drawn together, the mean would spread sqrt(4) times as wide as drawn apart.
    scores = np.repeat(np.random.default_rng(3).normal(size=(20, 1)), 4, axis=1)
    low, high = interval(Bootstrap(repetitions=4000), mean, scores)
    expected = t_interval(scores[:, 0].std(ddof=1) / math.sqrt(20 * 4), 4 * 19, 20)
    assert high - low == pytest.approx(expected, rel=0.08)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        low, high = interval(Bootstrap(seed=trial, repetitions=300), mean, generator.normal(size=(10, 3)))
        hits += low < 0 < high
    assert 0.93 <= hits / 200 <= 0.99


def test_two_arrays_are_resampled_independently():
    # Were the draws of the two equal, x would always beat itself in exactly half of the pairs.
    x = np.random.default_rng(5).normal(size=(10, 2))
    low, high = middle(Bootstrap(repetitions=500), probability_of_improvement, x, x)
    assert low < 0.4
    assert high > 0.6


def test_censored_runs_give_an_interval_that_may_be_infinite_and_never_nan():
    times = np.array([1.0, 2.0, 3.0, 4.0, math.inf, math.inf])
    low, high = interval(Bootstrap(repetitions=500), interquartile_mean, times)
    assert 1.0 <= low < math.inf
    assert high == math.inf


def test_the_band_of_a_profile():
    scores = np.random.default_rng(6).normal(size=(10, 4))
    thresholds = np.linspace(-4, 4, 9)
    low, high = Bootstrap(repetitions=300).band(above(scores, thresholds), share)[1:]
    profile = above(scores, thresholds).mean(axis=(0, 1))
    assert low.shape == high.shape == (9,)
    assert (low <= profile).all()
    assert (profile <= high).all()
    assert (low[0], high[0]) == (pytest.approx(0.025 ** (1 / 40)), 1.0)  # all 40 runs
    assert (high - low)[4] > 0.1


def test_counts_have_their_exact_intervals():
    scores = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    theirs = stats.binomtest(5, 7).proportion_ci(method="exact")
    assert interval(MANY, share, scores) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    theirs = stats.binomtest(15, 20).proportion_ci(method="wilson")
    x, y = np.repeat([[1.0], [3.0]], [5, 15], axis=0), np.full((30, 1), 2.0)
    assert interval(MANY, probability_of_improvement, x, y) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert interval(MANY, probability_of_improvement, [3.0] * 5, [2.0] * 5) == (pytest.approx(0.566, abs=1e-3), 1.0)


def test_below_three_runs_there_is_no_interval():
    for statistic in (mean, interquartile_mean, median, share, median_time):
        low, high = interval(MANY, statistic, [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        assert np.isnan([low, high]).all(), statistic
    assert np.isnan(MANY.estimate(probability_of_improvement, X, Y[:2])[1:]).all()
    assert np.isnan(MANY.difference(mean, X, Y[:2])[1:]).all()
    assert np.isnan(MANY.band(FRAMES[:2])[1:]).all()
    assert np.isnan(MANY.band(above(X[:2], [0.0, 1.0]), share)[1:]).all()
    assert np.isnan(Bootstrap(tasks=True).estimate(mean, X[:, :2])[1:]).all()
    assert not np.isnan(MANY.estimate(mean, X[:3])[1:]).any()


def test_a_single_task_of_normal_scores_has_students_interval():
    scores = np.random.default_rng(12).normal(size=6)
    low, high = interval(MANY, mean, scores)
    assert high - low == pytest.approx(t_interval(scores.std(ddof=1) / math.sqrt(6), 5, 6), rel=0.03)


def test_degrees_of_freedom_are_those_of_the_tasks_that_vary():
    rng = np.random.default_rng(13)
    equal = MANY.draws(mean, rng.permuted(np.tile(np.arange(5.0)[:, None], 4), axis=0))
    assert equal.freedom == pytest.approx(4 * 4, rel=0.05)
    assert equal.inflation == pytest.approx(math.sqrt(5 / 4))
    one = MANY.draws(mean, np.arange(5.0)[:, None] * [1.0, 0.0, 0.0, 0.0])
    assert one.freedom == pytest.approx(4, rel=0.02)
    two = MANY.difference_draws(mean, rng.normal(size=3), 100 * rng.normal(size=9))
    assert two.freedom == pytest.approx(8, rel=0.05)
    assert two.inflation == pytest.approx(math.sqrt(9 / 8), rel=0.01)
    assert two.runs == 3


def test_a_p_value_is_where_the_interval_touches_zero():
    scores = np.random.default_rng(14).normal(size=(5, 2)) + 2
    draws, value = MANY.draws(mean, scores), mean(scores)
    p = draws.p_value(value)
    assert 0 < p < 0.1
    error, reach = draws.error(value), stats.t.ppf(1 - p / 2 * (1 - 1.5 / 5), draws.freedom)
    assert value == pytest.approx(reach * error, rel=1e-6)
    assert MANY.draws(mean, np.ones(5)).p_value(1.0) == 1.0  # no spread seen
    assert MANY.draws(mean, [1.0, 2.0]).p_value(1.5) == 1.0
