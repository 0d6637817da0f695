"""Rank tests against scipy and full enumeration; Holm's correction; simultaneous intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.analysis.stats.aggregate import probability_of_improvement
from evaluation.analysis.stats.bootstrap import Draws
from evaluation.analysis.stats.multiple import holm, rank_test, simultaneous_estimates


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (10, 10), (8, 5), (30, 30)])
def test_one_task_without_ties_is_scipys_exact_test(n, m):
    generator = np.random.default_rng(n)
    for shift in (0.0, 0.5, 1.5):
        x, y = generator.normal(shift, size=n), generator.normal(size=m)
        theirs = stats.mannwhitneyu(x, y, method="exact").pvalue
        assert rank_test(x, y) == pytest.approx(theirs, abs=1e-9)


def enumerated(x, y):
    """The share of all ways to deal the scores of every task out that are as far from 1/2 as the observed one."""
    n = x.shape[0]
    tasks = []
    for task in range(x.shape[1]):
        pooled = np.concatenate([x[:, task], y[:, task]])
        ways = []
        for chosen in itertools.combinations(range(len(pooled)), n):
            rest = np.delete(pooled, chosen)
            ways.append(probability_of_improvement(pooled[list(chosen)], rest))
        tasks.append(ways)
    observed = abs(probability_of_improvement(x, y) - 0.5)
    far = [abs(np.mean(way) - 0.5) >= observed - 1e-9 for way in itertools.product(*tasks)]
    return float(np.mean(far))


SCORE = st.sampled_from([0.0, 1.0, 1.0, 2.0, 5.0, math.inf])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=5, max_size=5))
def test_ties_infinities_and_strata_against_all_permutations(rows):
    scores = np.array(rows)  # 3 runs of X, 2 of Y, two tasks
    x, y = scores[:3], scores[3:]
    assert rank_test(x, y) == pytest.approx(enumerated(x, y))


def test_tasks_add_up_to_evidence_that_none_has_alone():
    x, y = np.array([[3.0, 30.0], [4.0, 40.0]]), np.array([[1.0, 10.0], [2.0, 20.0]])
    assert rank_test(x[:, 0], y[:, 0]) == pytest.approx(2 / 6)
    assert rank_test(x, y) == pytest.approx(2 / 36)
    assert rank_test(y, x) == pytest.approx(2 / 36)
    assert rank_test(x, x) == pytest.approx(1.0)


def test_many_runs_use_the_normal_distribution():
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.3, size=60).round(1), generator.normal(size=55).round(1)
    theirs = stats.mannwhitneyu(x, y, method="asymptotic", use_continuity=False).pvalue
    assert rank_test(x, y) == pytest.approx(theirs)
    assert rank_test(x[:45], y[:55]) == pytest.approx(
        stats.mannwhitneyu(x[:45], y[:55], method="asymptotic", use_continuity=False).pvalue, abs=0.005
    )
    assert rank_test(np.zeros(80), np.zeros(80)) == 1.0


def test_equal_optimizers_are_called_different_no_more_often_than_said():
    generator = np.random.default_rng(1)
    p = np.array([rank_test(generator.normal(size=(5, 2)), generator.normal(size=(5, 2))) for _ in range(1000)])
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 1000)
    assert (p <= 0.2).mean() > 0.13


# statsmodels 0.15.0, multipletests(p, method="holm"); the first by hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.06.
@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.5, 0.9, 0.011], [0.08, 0.08, 1.0, 1.0, 0.055]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm(p, adjusted):
    assert holm(p).tolist() == pytest.approx(adjusted)


def test_holm_refuses_what_is_no_p_value():
    for bad in ([1.2], [-0.1], [math.nan], [[0.1]]):
        with pytest.raises(ValueError, match="p values"):
            holm(bad)


def draws_of(matrix):
    """Draws (B, K) as those of K estimates."""
    return [Draws(column) for column in np.transpose(matrix)]


def test_simultaneous_intervals_of_independent_and_of_equal_estimates():
    generator = np.random.default_rng(2)
    independent = generator.normal(size=(40_000, 5)) * [1, 2, 3, 4, 5]
    intervals = simultaneous_estimates(np.zeros(5), draws_of(independent))
    sidak = stats.norm.ppf((1 + 0.95 ** (1 / 5)) / 2)
    for interval, scale in zip(intervals, (1, 2, 3, 4, 5), strict=True):
        assert interval.high == pytest.approx(sidak * scale, rel=0.03)
        assert interval.low == pytest.approx(-interval.high, rel=0.03)
    equal = np.repeat(independent[:, :1], 5, axis=1)
    assert simultaneous_estimates(np.zeros(5), draws_of(equal))[0].high == pytest.approx(1.96, rel=0.02)


def test_simultaneous_intervals_around_what_does_not_vary():
    draws = np.stack([np.full(1000, 2.0), np.random.default_rng(3).normal(size=1000)], axis=1)
    still, other = simultaneous_estimates([2.0, 0.0], draws_of(draws))
    assert still == (2.0, 2.0, 2.0)
    assert other.high == pytest.approx(1.96, rel=0.1)
    assert simultaneous_estimates([2.0], draws_of(draws[:, :1])) == [(2.0, 2.0, 2.0)]
    with pytest.raises(ValueError, match="draws"):
        simultaneous_estimates([1.0], draws_of(draws))


def test_draws_of_single_runs_have_no_simultaneous_interval_and_leave_the_others_as_they_are():
    draws = np.random.default_rng(0).normal(size=(500, 1))
    both = simultaneous_estimates([0.0, 1.0], draws_of(np.concatenate([draws, np.full((500, 1), np.nan)], axis=1)))
    assert both[0] == simultaneous_estimates([0.0], draws_of(draws))[0]
    assert np.isnan(both[1][1:]).all()
    assert simultaneous_estimates([2.0], draws_of(np.full((500, 1), 2.0))) == [(2.0, 2.0, 2.0)]
