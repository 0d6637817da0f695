"""One rule for runs that diverged, in every comparison and figure: the worst of all, and behind it in every rank."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.comparisons.retention import retention
from evaluation.analysis.comparisons.robustness import robustness, sensitivity
from evaluation.analysis.comparisons.selection import METRICS, run_rows, select
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data import dataset
from evaluation.analysis.data.archive import export
from evaluation.analysis.data.diverged import worst_score
from evaluation.analysis.data.normalization import REFERENCES, Reference
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.plots.study_data import StudyData
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}
LOW, HIGH = REFERENCES["CartPole"].low, REFERENCES["CartPole"].high


def flat(optimizer, seed, score, **labels):
    """A run whose evaluations are all `score`."""
    return Planned(optimizer, seed, [score] * 6, **labels)


def finals(optimizer, scores, **labels):
    return [flat(optimizer, seed, score, **labels) for seed, score in enumerate(scores)]


def load(tmp_path, planned):
    return dataset.load(write_study(tmp_path / "tiny", planned))


def values(data, method, metric="final", cell=Cell("CartPole", "plain"), part="comparison"):  # noqa: B008  (frozen)
    return select(data, part, metric).cells[cell][Method(method)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_finals_of_200_210_and_one_that_diverged(tmp_path, bad):
    """The comparison, its archive and the figures: one number, that of a random policy, though no run was so bad."""
    with load(tmp_path, [*finals("adam", [200.0, 210.0, bad]), *finals("sgd", [300.0] * 3)]) as data:
        assert values(data, "adam").tolist() == [200.0, 210.0, pytest.approx(LOW)]
        study = StudyData(data)
        assert {row["final"] for row in study.runs} == {200.0, 210.0, values(data, "adam")[2], 300.0}
        (*_, (_, curve)) = study.curves(row for row in study.runs if row["optimizer"] == "adam")
        assert curve.tolist() == [pytest.approx(LOW)] * 6
        result = compare(data, **QUICK)
        (adam,) = (row for row in result.cells if row.method.name == "adam")
        assert (adam.n, adam.diverged) == (3, 1)
        assert "adam on CartPole (plain): 1 of 3 runs diverged and count as the worst" in result.notes
        (pair,) = result.pairs
        assert (pair.diverged, pair.diverged_baseline) == (0, 1)
        with dataset.load(export(data, tmp_path / "archive")) as archive:
            assert values(archive, "adam").tolist() == values(data, "adam").tolist()


def test_the_worst_run_of_any_method_where_it_is_worse_than_a_random_policy(tmp_path):
    planned = [*finals("adam", [200.0, math.nan]), *finals("sgd", [5.0, 9.0]), *finals("asgc", [1.0], setting="mse")]
    with load(tmp_path, planned) as data:
        assert values(data, "adam")[1] == pytest.approx(5.0)
        assert values(data, "adam")[1] < 5.0


def test_who_always_diverges_is_behind_equal_worst_runs_in_every_rank(tmp_path):
    """-500 is the worst there is in Acrobot, and worse than a random policy: a run that diverged is worse still."""
    labels = {"task": "Acrobot"}
    planned = finals("adam", [-500.0] * 5, **labels) + finals("sgd", [math.nan] * 5, **labels)
    with load(tmp_path, planned) as data:
        (pair,) = compare(data, **QUICK).pairs
        (cell_pair,) = compare(data, **QUICK).cell_pairs
    assert (pair.improvement.value, pair.p) == (0.0, pytest.approx(2 / math.comb(10, 5)))
    assert pair.verdict == cell_pair.verdict == Verdict.WORSE
    assert "an IQM of -500 [no spread seen] against -500 [no spread seen]" in cell_pair.sentence


def test_where_all_methods_diverged_they_have_a_value(tmp_path):
    planned = [*finals("adam", [math.nan] * 3), *finals("sgd", [math.nan] * 3)]
    with load(tmp_path, planned) as data:
        assert values(data, "sgd").tolist() == values(data, "adam").tolist() == [pytest.approx(LOW)] * 3
        assert compare(data, **QUICK).pairs.records[0].verdict == Verdict.NOT_SHOWN


@pytest.mark.parametrize("metric", ["final", "last", "auc", "std", "detrended_std", "mean_score"])
def test_every_metric_takes_it_as_the_worst(tmp_path, metric):
    planned = [Planned("adam", seed, [100.0, 150.0, 200.0, 230.0 + seed, 240.0, 260.0]) for seed in range(3)]
    planned += [Planned("sgd", seed, [100.0, 150.0, 200.0, 230.0 + seed, 240.0, 260.0]) for seed in (3, 4)]
    planned += [Planned("sgd", 5, [100.0, 150.0, 200.0, 220.0, 240.0, math.nan])]
    with load(tmp_path, planned) as data:
        known, lost = (
            np.concatenate([values(data, "adam", metric), values(data, "sgd", metric)[:2]]),
            values(data, "sgd", metric)[2],
        )
        (pair,) = compare(data, metric=metric, **QUICK).pairs
    assert math.isfinite(lost)
    assert lost < known.min() if METRICS[metric].higher_is_better else lost > known.max()
    assert pair.diverged == 1


def test_only_the_evaluations_that_a_metric_needs(tmp_path):
    recovered = Planned("adam", 1, [math.nan, 100.0, 100.0, 100.0, 100.0, 100.0])
    with load(tmp_path, [recovered, flat("adam", 2, 90.0), flat("sgd", 1, 80.0)]) as data:
        assert values(data, "adam").tolist() == [100.0, 90.0]
        assert values(data, "adam", "auc").tolist() == [pytest.approx(LOW), 90.0]


def test_a_target_met_before_it_counts_and_an_infinite_score_meets_none(tmp_path):
    planned = [Planned("adam", 1, [480.0, *[math.nan] * 5]), Planned("adam", 2, [math.inf] * 6)]
    with load(tmp_path, [*planned, flat("sgd", 1, 480.0)]) as data:
        assert values(data, "adam", "ttt_steps").tolist() == [1000.0, math.inf]
        assert select(data, metric="ttt_steps").diverged[Cell("CartPole", "plain")][Method("adam")] == 1


def test_points_of_a_grid_share_the_worst_of_all_points(tmp_path):
    labels = {"part": "rates", "kind": "grid"}
    planned = finals("adam", [math.nan] * 3, variant="lr=1", lr=1.0, **labels)
    planned += finals("adam", [3.0, 300.0, 310.0], variant="lr=0.1", lr=0.1, **labels)
    with load(tmp_path, planned) as data:
        assert (
            values(data, "adam", cell=Cell("CartPole", "plain", "lr=1"), part="rates").tolist()
            == [pytest.approx(3.0)] * 3
        )
        rows = {row.value: row.iqm.value for row in sensitivity(data, **QUICK)}
        (near,) = robustness(data, "rates", **QUICK)
    assert rows[1.0] == pytest.approx(3.0)
    assert near.near.value == 0.5


def test_random_settings_are_means_over_seeds_of_which_one_diverged(tmp_path):
    labels = {"part": "random", "kind": "robustness"}
    planned = finals("adam", [200.0, math.nan], variant="draw-0", **labels)
    planned += finals("adam", [300.0, 310.0], variant="draw-1", lr=0.1, **labels)
    with load(tmp_path, planned) as data:
        assert values(data, "adam", part="random").tolist() == [pytest.approx((200 + LOW) / 2), 305.0]
        assert select(data, "random").diverged[Cell("CartPole", "plain")][Method("adam")] == 1


def test_what_is_kept_of_a_score_counts_it(tmp_path):
    planned = [*finals("adam", [400.0] * 3), *finals("asgc", [400.0] * 3)]
    stress = {"part": "stress", "setting": "mse"}
    planned += [*finals("adam", [300.0] * 3, **stress), *finals("asgc", [math.nan] * 3, **stress)]
    with load(tmp_path, planned) as data:
        (row,) = retention(data, "stress", reference_part="comparison", **QUICK)
    assert row.change.value == pytest.approx((LOW - 400) / (HIGH - LOW))


def test_a_task_without_references(tmp_path):
    planned = [*finals("adam", [7.0, math.nan], task="Catch"), *finals("sgd", [9.0, 4.0], task="Catch")]
    with load(tmp_path, planned) as data:
        lost = values(data, "adam", cell=Cell("Catch", "plain"))[1]
        rows = run_rows(data, "final", "optimizer = ?", "adam")
        assert select(data).references["Catch"].low == 4.0
    assert lost == pytest.approx(4.0)
    assert lost < 4.0
    assert [row["diverged"] for row in rows] == [False, True]


def test_the_rule_itself():
    to = Reference(0.0, 100.0, "made up")
    assert worst_score([20.0, math.nan], to) == pytest.approx(0.0, abs=1e-6)
    assert worst_score([-20.0, math.inf], to) == pytest.approx(-20.0)
    assert worst_score([math.nan], to) < 0.0
    assert worst_score([1.0, 5.0, math.nan], to, higher_is_better=False) > 5.0
    assert math.isnan(worst_score([math.nan], None))
