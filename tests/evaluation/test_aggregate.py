"""Statistics across runs: by hand, against scipy, and the coverage of the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.aggregate import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    performance_profile,
    performance_profile_band,
    probability_of_improvement,
)

SCORES = np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 11.0]])  # two runs of three tasks; task means 0.5, 2.5, 7.5


def test_by_hand():
    assert mean(SCORES) == 3.5
    assert median(SCORES) == 2.5
    assert interquartile_mean(SCORES) == 2.5  # one cut at each end: 1, 2, 3, 4
    assert interquartile_mean(np.arange(8)) == 3.5
    assert interquartile_mean([1.0, 2.0, 30.0]) == 11.0  # fewer than four: nothing to cut
    assert optimality_gap(SCORES, 3.0) == 1.0  # (3 + 1 + 0 + 2 + 0 + 0) / 6
    assert optimality_gap([2.0, 3.0]) == 0.0
    assert performance_profile(SCORES, [-1, 0, 2, 11]).tolist() == pytest.approx([1, 5 / 6, 1 / 2, 0])


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert probability_of_improvement([1.0, 3.0], [1.0, 2.0, 4.0]) == pytest.approx(2.5 / 6)  # 1: a tie; 3: two wins
    # Task 1 always won, task 2 always lost.
    assert probability_of_improvement([[1.0, 0.0]], [[0.0, 1.0]]) == 0.5
    with pytest.raises(ValueError, match="X has 2 tasks, Y has 1"):
        probability_of_improvement([[1.0, 0.0]], [[0.0]])


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 3), (10, 26), (7, 5)])
def test_against_scipy(shape):
    generator = np.random.default_rng(1)
    scores = generator.normal(size=shape).round(1)  # rounded: with ties
    other = generator.normal(0.3, size=(4, shape[1])).round(1)
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    expected = [
        stats.mannwhitneyu(x, y, alternative="greater").statistic / (len(x) * len(y))
        for x, y in zip(scores.T, other.T, strict=True)
    ]
    assert probability_of_improvement(scores, other) == pytest.approx(np.mean(expected))
    flipped = probability_of_improvement(other, scores)
    assert probability_of_improvement(scores, other) + flipped == pytest.approx(1.0)


def test_infinite_scores_are_taken_and_nan_is_refused():
    assert interquartile_mean([1.0, 2.0, 3.0, math.inf]) == 2.5
    assert mean([1.0, math.inf]) == math.inf
    assert probability_of_improvement([math.inf], [1.0]) == 1.0
    with pytest.raises(ValueError, match="NaN"):
        mean([1.0, math.nan])
    for bad in ([], np.zeros((0, 3)), np.zeros((2, 2, 2)), 1.0):
        with pytest.raises(ValueError, match="shape"):
            mean(bad)


def test_a_seed_gives_one_interval_around_the_estimate():
    scores = np.random.default_rng(2).normal(size=(10, 4))
    first = bootstrap_interval(interquartile_mean, scores, seed=0, repetitions=500)
    assert first == bootstrap_interval(interquartile_mean, scores, seed=0, repetitions=500)
    assert first != bootstrap_interval(interquartile_mean, scores, seed=1, repetitions=500)
    assert first.low < interquartile_mean(scores) < first.high
    narrow = bootstrap_interval(interquartile_mean, scores, seed=0, repetitions=500, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval(mean, scores, seed=0, level=level, repetitions=2)


def test_the_bootstrap_is_stratified_by_task():
    # Runs of a task are equal and tasks differ: only a bootstrap that mixes tasks would see any spread.
    scores = np.tile([0.0, 10.0, 100.0], (5, 1))
    assert bootstrap_interval(mean, scores, seed=0, repetitions=50) == (pytest.approx(110 / 3), pytest.approx(110 / 3))


def test_tasks_are_resampled_on_their_own():
    # Perfectly correlated tasks: drawn together, the mean would spread sqrt(4) times as wide as drawn apart.
    scores = np.repeat(np.random.default_rng(3).normal(size=(20, 1)), 4, axis=1)
    low, high = bootstrap_interval(mean, scores, seed=0, repetitions=4000)
    expected = 2 * 1.96 * scores[:, 0].std() / math.sqrt(20 * 4)
    assert high - low == pytest.approx(expected, rel=0.08)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(mean, generator.normal(size=(10, 3)), seed=trial, repetitions=300)
        hits += low < 0 < high
    assert 0.88 <= hits / 200 <= 0.98  # the percentile bootstrap is a little narrow with ten runs


def test_two_arrays_are_resampled_independently():
    # Were the draws of the two equal, x would always beat itself in exactly half of the pairs.
    x = np.random.default_rng(5).normal(size=(10, 2))
    low, high = bootstrap_interval(probability_of_improvement, x, x, seed=0, repetitions=500)
    assert low < 0.4
    assert high > 0.6


def test_censored_runs_give_an_interval_that_may_be_infinite_and_never_nan():
    times = np.array([1.0, 2.0, 3.0, 4.0, math.inf, math.inf])
    low, high = bootstrap_interval(interquartile_mean, times, seed=0, repetitions=500)
    assert 1.0 <= low < math.inf
    assert high == math.inf


def test_the_band_of_a_profile():
    scores = np.random.default_rng(6).normal(size=(10, 4))
    thresholds = np.linspace(-4, 4, 9)
    low, high = performance_profile_band(scores, thresholds, seed=0, repetitions=300)
    profile = performance_profile(scores, thresholds)
    assert low.shape == high.shape == (9,)
    assert (low <= profile).all()
    assert (profile <= high).all()
    assert low[0] == high[0] == 1.0
    assert (high - low)[4] > 0.1
