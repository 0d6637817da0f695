"""The metrics of one run, on cases computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from evaluation.files import to_json
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_metrics import (
    Evaluation,
    detrended_stability,
    evaluations_from_rows,
    final_performance,
    generalization_gap,
    stability,
    summarize,
    time_to_threshold,
    training_seconds,
)


def test_final_performance_is_the_mean_of_the_last_k():
    values = [0.0, 10.0, 2.0, 4.0]
    assert final_performance(values, 2) == 3.0
    assert final_performance(values, 3) == pytest.approx(16 / 3)
    assert final_performance(values, 10) == 4.0  # of all there are
    assert math.isnan(final_performance([1.0, math.nan], 2))  # a diverged run does not look better for it
    for values, last_k in (([], 1), ([1.0], 0), ([[1.0]], 1)):
        with pytest.raises(ValueError):
            final_performance(values, last_k)


def test_time_to_threshold_is_the_first_evaluation_at_the_target():
    values, steps = [-21.0, 5.0, 4.0, 19.0], [0, 100, 200, 300]
    assert time_to_threshold(values, steps, 4.5) == 100
    assert time_to_threshold(values, steps, 5.0) == 100  # at the target is enough
    assert time_to_threshold(values, steps, 5.1) == 300
    assert time_to_threshold(values, steps, -30) == 0
    assert time_to_threshold(values, steps, 19.1) == math.inf  # censored
    assert time_to_threshold([math.nan, 1.0], [1, 2], 0.5) == 2
    assert time_to_threshold([], [], 1.0) == math.inf
    with pytest.raises(ValueError):
        time_to_threshold([1.0], [1, 2], 0.0)


def test_the_evaluation_clock_is_excluded():
    # 10 s of training before each evaluation, which take 1, 2 and 3 s.
    assert training_seconds([11, 23, 36], [1, 2, 3]).tolist() == [10, 20, 30]


def test_stability_raw_and_detrended():
    assert stability([100.0, 1.0, 3.0], 2) == pytest.approx(math.sqrt(2))
    assert stability([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 8) == pytest.approx(math.sqrt(32 / 7))
    assert math.isnan(stability([1.0], 5))
    assert math.isnan(detrended_stability([1.0, 2.0], 5))
    assert math.isnan(detrended_stability([1.0, math.nan, 2.0], 5))
    line = [3.0 + 2.0 * x for x in (0, 1, 5, 7)]
    assert detrended_stability(line, 4, [0, 1, 5, 7]) == pytest.approx(0.0, abs=1e-12)
    assert detrended_stability(line, 4) > 0.1  # on another axis it is no line
    # 0, 1, 0, 1 about its line 0.2 + 0.2 x: residuals -0.2, 0.6, -0.6, 0.2, squares 0.8, two degrees of freedom.
    assert detrended_stability([9.0, 0.0, 1.0, 0.0, 1.0], 4) == pytest.approx(math.sqrt(0.8 / 2))
    assert detrended_stability([0.0, 1.0, 0.0, 1.0], 4, [1e9, 2e9, 3e9, 4e9]) == pytest.approx(math.sqrt(0.4))


def test_detrended_stability_estimates_the_noise_on_a_rising_curve():
    noise = np.random.default_rng(0).normal(size=(4000, 6))
    variances = [detrended_stability(row + 5 * np.arange(6), 6) ** 2 for row in noise]
    assert np.mean(variances) == pytest.approx(1.0, abs=0.05)


def test_generalization_gap_is_train_minus_validation():
    assert generalization_gap([0.0, 0.9, 0.7], [1.0, 0.5, 0.6], 2) == pytest.approx(0.25)


ROWS = [
    MetricRow(100, 400, 11.0, "eval", "score", -21.0),
    MetricRow(100, 400, 11.0, "eval", "evaluation_s", 1.0),
    MetricRow(150, 600, 15.0, "train", "loss", 0.1),
    MetricRow(200, 800, 23.0, "eval", "score", 3.0),
    MetricRow(200, 800, 23.0, "eval", "evaluation_s", 2.0),
    MetricRow(200, 800, 23.0, "train-eval", "score", 4.0),
    MetricRow(300, 1200, 36.0, "eval", "score", 5.0),
    MetricRow(300, 1200, 36.0, "eval", "evaluation_s", 3.0),
    MetricRow(300, 1200, 36.0, "train-eval", "score", 7.0),
]


def test_evaluations_come_from_the_rows():
    evaluations = evaluations_from_rows(ROWS, "eval", "score", "train-eval")
    assert evaluations == [
        Evaluation(100, 400, 11.0, 1.0, -21.0, None),
        Evaluation(200, 800, 23.0, 2.0, 3.0, 4.0),
        Evaluation(300, 1200, 36.0, 3.0, 5.0, 7.0),
    ]
    assert evaluations_from_rows(ROWS[:1], "eval", "score")[0].evaluation_s == 0.0
    assert evaluations_from_rows(ROWS, "eval", "accuracy") == []


def test_the_summary_of_a_run():
    evaluations = evaluations_from_rows(ROWS, "eval", "score", "train-eval")
    summary = summarize(evaluations, target=0.0, last_k=2, signature={"protocol": "classic", "episodes": 30})
    assert summary == {
        "final": 4.0,
        "last": 5.0,
        "auc": pytest.approx(((-21 + 3) / 2 + (3 + 5) / 2) / 2),
        "time_to_threshold": {"target": 0.0, "reached": True, "seconds": 20.0, "steps": 200.0, "samples": 800.0},
        "stability": {"std": pytest.approx(math.sqrt(2)), "detrended_std": pytest.approx(math.nan, nan_ok=True)},
        "generalization_gap": pytest.approx(1.5),
        "last_k": 2,
        "evaluations": 3,
        "steps": 300,
        "samples": 1200,
        "training_s": 30.0,
        "evaluation_s": 6.0,
        "signature": {"protocol": "classic", "episodes": 30},
    }
    json.dumps(to_json(summary), allow_nan=False)


def test_the_gap_is_taken_to_the_score_that_is_measured_as_on_the_training_side():
    rows = [*ROWS, MetricRow(300, 1200, 36.0, "eval", "compared_score", 6.5)]
    evaluations = evaluations_from_rows(rows, "eval", "score", "train-eval")
    assert [evaluation.compared for evaluation in evaluations] == [None, None, 6.5]
    summary = summarize(evaluations, target=None, last_k=2, signature={})
    assert (summary["final"], summary["generalization_gap"]) == (4.0, pytest.approx(0.75))


def test_a_miss_is_in_the_summary_as_infinite():
    evaluations = evaluations_from_rows(ROWS, "eval", "score", "train-eval")
    summary = summarize(evaluations, target=18.0, last_k=3, signature={})
    assert summary["time_to_threshold"] == {
        "target": 18.0, "reached": False, "seconds": math.inf, "steps": math.inf, "samples": math.inf,
    }  # fmt: skip
    assert summary["generalization_gap"] is None  # not measured at one of the last three
    assert summarize(evaluations, target=None, last_k=3, signature={})["time_to_threshold"] is None
    with pytest.raises(ValueError):
        summarize([], target=0.0, last_k=1, signature={})
