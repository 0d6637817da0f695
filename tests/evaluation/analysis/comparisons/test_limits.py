"""Intervals end where the scores of a task do."""

from __future__ import annotations

import json

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.comparisons.robustness import sensitivity
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.aggregate import interquartile_mean
from evaluation.analysis.stats.bootstrap import Bootstrap
from tests.evaluation.run_trees import Planned, write_study


def runs(optimizer, finals, task):
    """Runs of one optimizer with these final scores."""
    return [Planned(optimizer, seed, [final] * 5, task=task) for seed, final in enumerate(finals, start=1)]


def test_no_interval_passes_what_a_task_can_give(tmp_path):
    """CartPole ends at 500 and Acrobot at -500, whatever t quantiles say; what was seen beyond stays."""
    low, high = [-500.0, -500.0, -100.0], [500.0, 500.0, 100.0]
    planned = [run for name in ("adam", "asgc") for run in (*runs(name, high, task="CartPole"),
               *runs(name, low, task="Acrobot"), *runs(name, [600.0, 500.0, 100.0], task="MountainCar"))]  # fmt: skip
    loaded = dataset.load(write_study(tmp_path / "tiny", planned))
    selection = select(loaded)
    free = Bootstrap().estimate(interquartile_mean, selection.cells[next(iter(selection.cells))][selection.methods[0]])
    assert free.low < -500 or free.high > 500
    result = compare(loaded, baseline="adam", how=Bootstrap(repetitions=300))
    for row in result.cells:
        lowest, highest = {"CartPole": (0, 500), "Acrobot": (-500, 0), "MountainCar": (-200, 600)}[row.cell.task]
        for estimate in (row.mean, row.median, row.iqm):
            assert lowest <= estimate.low <= estimate.value <= estimate.high <= highest
    for row in result.pairs:
        if row.cell.task == "Acrobot":
            assert min(row.center.low, row.baseline_center.low) >= -500
    of_all = [row.value for row in result.aggregates if row.statistic != "optimality_gap"]
    to = REFERENCES["MountainCar"]
    assert max(one.high for one in of_all) <= (600 - to.low) / (to.high - to.low)


def test_normalized_intervals_end_there_too(tmp_path):
    """CartPole's 500 is 1, and its t quantiles would go beyond."""
    scores = [500.0, 500.0, 100.0]
    planned = [run for name in ("adam", "asgc") for run in runs(name, scores, "CartPole")]
    result = compare(
        dataset.load(write_study(tmp_path / "tiny", planned)), baseline="adam", how=Bootstrap(repetitions=300)
    )
    highest = [row.value.high for row in result.aggregates if row.statistic != "optimality_gap"]
    assert max(highest) == 1.0


def test_a_share_of_images_ends_at_all_of_them(tmp_path):
    """A task without published references, by how its scores are made."""
    planned = [run for name in ("adam", "asgc") for run in runs(name, [84.0, 83.0, 10.0], "fashion")]
    folder = write_study(tmp_path / "tiny", planned)
    for path in folder.rglob("summary.json"):
        summary = json.loads(path.read_text())
        summary["signature"]["score"] = "top-1 accuracy, percent"
        path.write_text(json.dumps(summary))
    for row in compare(dataset.load(folder), baseline="adam", how=Bootstrap(repetitions=300)).cells:
        assert (row.iqm.low, row.iqm.high) == (0, 100)


def test_at_each_value_of_an_option_too(tmp_path):
    planned = [
        Planned("adam", seed, [final] * 5, task="CartPole", part="rates", kind="grid")
        for seed, final in enumerate([500.0, 500.0, 100.0])
    ]
    (row,) = sensitivity(dataset.load(write_study(tmp_path / "tiny", planned)), "rates")
    assert row.iqm.high == 500


def test_a_gap_may_be_negative_and_a_spread_may_not(tmp_path):
    planned = [run for name in ("adam", "asgc") for run in runs(name, [300.0, 310.0, 320.0, 305.0], "CartPole")]
    folder = write_study(tmp_path / "tiny", planned)
    for seed, path in enumerate(sorted(folder.rglob("summary.json"))):
        summary = json.loads(path.read_text())
        path.write_text(json.dumps(summary | {"generalization_gap": -3.0 - seed}))
    data = dataset.load(folder)
    for row in compare(data, baseline="adam", metric="generalization_gap", how=Bootstrap(repetitions=300)).cells:
        assert row.iqm.low < row.iqm.value < row.iqm.high < 0
    assert all(row.iqm.low >= 0 for row in compare(data, baseline="adam", metric="std").cells)
