"""Statistics across runs: by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.analysis.stats.aggregate import (
    above,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
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
    assert above(SCORES, [-1, 0, 2, 11]).mean(axis=(0, 1)).tolist() == pytest.approx([1, 5 / 6, 1 / 2, 0])


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
