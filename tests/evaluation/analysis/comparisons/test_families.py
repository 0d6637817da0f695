"""The rows over all tasks and settings are what is claimed; single ones are exploratory. Spreads never win alone."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.comparisons.retention import retention
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data import dataset
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.analysis.stats.multiple import holm
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}


def load(tmp_path, planned):
    return dataset.load(write_study(tmp_path / "tiny", planned))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Ten points of three runs each: asgc is always ahead, sgd never differs."""
    rng, planned = np.random.default_rng(0), []
    for point in range(10):
        labels = {"part": "rates", "kind": "grid", "variant": f"lr={point}", "lr": 0.1 * (point + 1)}
        for name, shift in (("adam", 0.0), ("asgc", 40.0), ("sgd", 0.0)):
            planned += [Planned(name, seed, [200.0 + shift + rng.normal() * 25] * 6, **labels) for seed in range(3)]
    with load(tmp_path_factory.mktemp("grid"), planned) as data:
        yield compare(data, "rates", **QUICK)


def test_many_points_take_no_power_from_the_overall_row(grid):
    overall = [row for row in grid.pairs if row.family == "primary"]
    assert [(row.cell.group, row.method.name) for row in overall] == [("all settings", "asgc"), ("all settings", "sgd")]
    assert [row.p_holm for row in overall] == pytest.approx(holm([row.p for row in overall]))
    assert [row.verdict for row in overall] == [Verdict.BETTER, Verdict.NOT_SHOWN]
    points = [row for row in grid.pairs if row.family != "primary"]
    assert {row.family for row in [*points, *grid.cell_pairs]} == {"exploratory"}
    gates = {row.method: row.p_holm for row in overall}
    among = holm([row.p for row in points])
    assert [row.p_holm for row in points] == [
        pytest.approx(max(p, min(gates[row.method], 10 * p))) for p, row in zip(among, points, strict=True)
    ]


def test_exploratory_rows_say_so_wherever_they_are_shown(grid):
    assert not any("exploratory" in row.sentence for row in grid.pairs if row.family == "primary")
    assert all(row.sentence.endswith("(exploratory).") for row in grid.cell_pairs)
    assert all(row["family"] == "exploratory" for row in grid.cell_pairs.rows())
    assert "over the primary rows, and over the exploratory ones (times 10 where the method" in grid.pairs.note


def test_of_one_setting_its_row_is_the_primary_one(tmp_path):
    planned = [Planned(name, seed, [200.0 + seed] * 6) for name in ("adam", "asgc") for seed in range(3)]
    with load(tmp_path, planned) as data:
        result = compare(data, **QUICK)
    assert [row.family for row in (*result.pairs, *result.cell_pairs)] == ["primary", "exploratory"]


def test_of_what_is_kept_the_rows_over_tasks_are_primary(tmp_path):
    planned = [
        Planned(name, seed, [score + seed] * 6, task=task, part=part, setting=setting)
        for part, setting, score in (("comparison", "plain", 200.0), ("stress", "mse", 150.0))
        for task in ("CartPole", "LunarLander")
        for name in ("adam", "asgc")
        for seed in range(3)
    ]
    with load(tmp_path, planned) as data:
        rows = retention(data, "stress", reference_part="comparison", **QUICK)
    assert [(row.cell.task, row.family) for row in rows] == [
        ("", "primary"), ("CartPole", "exploratory"), ("LunarLander", "exploratory")
    ]  # fmt: skip


def steady(optimizer, score, spread):
    """Six runs whose scores swing by about `spread`."""
    swing = [spread * (1 + 0.01 * seed) for seed in range(6)]
    return [Planned(optimizer, seed, [score + by * sign for sign in (1, -1, 1, -1, 1, -1)])
            for seed, by in enumerate(swing)]  # fmt: skip


@pytest.mark.parametrize("metric", ["std", "detrended_std"])
def test_to_be_steady_having_learned_nothing_is_no_win(tmp_path, metric):
    planned = steady("adam", 400.0, 30.0) + steady("asgc", 22.0, 0.1) + steady("sgd", 420.0, 3.0)
    with load(tmp_path, planned) as data:
        result = compare(data, metric=metric, **QUICK)
    verdicts = {row.method.name: row.verdict for row in result.pairs}
    assert verdicts == {"asgc": Verdict.NOT_SHOWN, "sgd": Verdict.BETTER}
    for row in (*result.pairs, *result.cell_pairs):
        assert ", at final scores of " in row.sentence
        assert row.score.value != row.baseline_score.value
    assert [row.score.value for row in result.cells] == pytest.approx([400.0, 22.0, 420.0], abs=10)


def test_to_be_unsteady_at_a_higher_score_is_no_loss(tmp_path):
    with load(tmp_path, steady("adam", 22.0, 0.1) + steady("asgc", 400.0, 30.0)) as data:
        (row,) = compare(data, metric="std", **QUICK).pairs
    assert row.p_holm < 0.01
    assert row.verdict == Verdict.NOT_SHOWN
