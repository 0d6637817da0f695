"""Changes from one setting to another, and the advantage in them."""

from __future__ import annotations

import pytest

from evaluation.analysis.comparisons.retention import retention
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import normalize, reference
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=500)}
BETTER, WORSE, NOT_SHOWN = Verdict.BETTER, Verdict.WORSE, Verdict.NOT_SHOWN


def runs(optimizer, level, spread=2.0, **labels):
    return [Planned(optimizer, seed, [level + spread * seed] * 6, **labels) for seed in range(6)]


def study(tmp_path, *, part="stress", asgc_hard=390.0, sgd_hard=100.0, **hard):
    """adam falls from 400 to 300 where it is hard; asgc starts lower and falls less; sgd falls more. In two parts."""
    planned = runs("adam", 400.0) + runs("asgc", 395.0) + runs("sgd", 350.0)
    labels = {"part": part, "setting": "mse"} | hard
    planned += runs("adam", 300.0, **labels) + runs("asgc", asgc_hard, **labels) + runs("sgd", sgd_hard, **labels)
    return write_study(tmp_path / "tiny", planned)


def share(points):
    to = reference("CartPole")
    return points / (to.high - to.low)


def test_who_loses_less_is_better_wherever_it_started(tmp_path):
    with dataset.load(study(tmp_path)) as data:
        asgc, sgd = retention(data, "stress", reference_part="comparison", **QUICK)
    assert (asgc.cell.setting, asgc.cell.task, asgc.n) == ("mse", "CartPole", 6)
    assert (asgc.method.name, asgc.baseline.name) == ("asgc", "adam")
    assert asgc.score == pytest.approx(
        normalize(395.0, reference("CartPole"))
    )  # 390 and 0, 2, .. 10: 395 in the middle
    assert (asgc.change.value, asgc.baseline_change.value) == (pytest.approx(share(-5.0)), pytest.approx(share(-100.0)))
    assert asgc.advantage.value == pytest.approx(share(95.0))
    assert asgc.advantage.low < asgc.advantage.value < asgc.advantage.high
    assert asgc.change.low < asgc.change.value < asgc.change.high
    assert (asgc.verdict, sgd.verdict) == (BETTER, WORSE)
    assert sgd.advantage.value == pytest.approx(share(-150.0))
    assert 0 < asgc.p < 1e-6  # twenty errors from 0
    assert sgd.p < asgc.p == asgc.p_holm  # the larger of two
    assert asgc.sentence.startswith("CartPole, mse: from plain, asgc changes by -0.0105 [")
    assert "(IQM of the final score, normalized; 1 cell x 6 runs); an advantage of 0.199 [" in asgc.sentence


def test_equal_changes_are_no_difference(tmp_path):
    with dataset.load(study(tmp_path, asgc_hard=295.0)) as data:
        asgc, _ = retention(data, "stress", reference_part="comparison", **QUICK)
    assert asgc.advantage.value == pytest.approx(0.0, abs=1e-12)
    assert asgc.p > 0.5
    assert asgc.verdict == NOT_SHOWN


def test_settings_of_one_part_and_several_tasks(tmp_path):
    planned = [
        run
        for task, shift in (("CartPole", 0.0), ("Acrobot", -500.0))
        for name, easy, hard in (("adam", 400.0, 300.0), ("asgc", 400.0, 380.0))
        for setting, level in (("plain", easy), ("mse", hard))
        for run in runs(name, level + shift, task=task, setting=setting)
    ]
    planned += runs("sgd", 400.0, setting="mse")  # without runs where it is easy
    with dataset.load(write_study(tmp_path / "tiny", planned)) as data:
        rows = list(retention(data, "comparison", **QUICK))
        assert [(row.cell.task, row.method.name, row.cells) for row in rows] == [
            ("", "asgc", 2),
            ("Acrobot", "asgc", 1),
            ("CartPole", "asgc", 1),
        ]
        assert rows[0].sentence.startswith("mse: from plain, asgc changes by")
        again = retention(data, "comparison", **QUICK)
        assert again.rows() == retention(data, "comparison", **QUICK).rows()


def test_what_is_refused(tmp_path):
    with dataset.load(study(tmp_path / "a")) as data:
        for arguments, message in (
            ({"part": "stress"}, "part stress has no setting 'plain': it has mse"),
            ({"part": "stress", "reference_part": "comparison", "metric": "std"}, "is shown for a score"),
            ({"part": "stress", "reference_part": "comparison", "baseline": "rmsprop"}, "no runs of the baseline"),
            ({"part": "pressure"}, "no part 'pressure'"),
        ):
            with pytest.raises(UserError) as caught:
                retention(data, **arguments)
            assert message in str(caught.value)
    other = study(tmp_path / "b", signature={"protocol": "sticky"})
    with dataset.load(other) as data, pytest.raises(UserError, match="two protocols"):
        retention(data, "stress", reference_part="comparison")


def test_other_budgets_are_part_of_the_change(tmp_path):
    planned = runs("adam", 400.0) + runs("asgc", 400.0)
    labels = {"setting": "short"}
    for name, level in (("adam", 300.0), ("asgc", 350.0)):
        planned += [Planned(name, seed, [level + seed] * 5, **labels) for seed in range(6)]
    with dataset.load(write_study(tmp_path / "tiny", planned)) as data:
        (row,) = retention(data, "comparison", **QUICK)
    assert row.verdict == BETTER


def test_of_single_runs_nothing_is_claimed(tmp_path):
    planned = runs("adam", 400.0) + runs("asgc", 395.0) + runs("adam", 300.0, part="stress", setting="mse")
    planned += runs("asgc", 390.0, part="stress", setting="mse")[:1]
    with dataset.load(write_study(tmp_path / "tiny", planned)) as data:
        (row,) = retention(data, "stress", reference_part="comparison", **QUICK)
    assert (row.p, row.verdict) == (1.0, NOT_SHOWN)
    assert "[too few runs]" in row.sentence
