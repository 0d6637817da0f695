"""Sensitivity to an option, and random settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.analysis.comparisons.robustness import NEAR, robustness, sensitivity
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_study

QUICK = {"how": Bootstrap(repetitions=300)}
BETTER, NOT_SHOWN = Verdict.BETTER, Verdict.NOT_SHOWN
LOW, HIGH = REFERENCES["CartPole"].low, REFERENCES["CartPole"].high


def flat(optimizer, seed, score, **labels):
    """A run whose every evaluation but the first gives `score`."""
    return Planned(optimizer, seed, [0.0, *[score] * 5], **labels)


def load(tmp_path, planned):
    return dataset.load(write_study(tmp_path / "tiny", planned))


# Sensitivity ---------------------------------------------------------------------------------------------------------


def test_a_point_for_each_value_of_a_grid(tmp_path):
    labels = {"part": "rates", "kind": "grid"}
    planned = [
        flat("adam", seed, score + seed, lr=lr, variant=f"lr-{lr}", **labels)
        for lr, score in ((1e-2, 100.0), (1e-3, 300.0), (1e-4, 200.0))
        for seed in (1, 2, 3)
    ]
    with load(tmp_path, planned) as data:
        rows = list(sensitivity(data, **QUICK))
    assert [(row.value, row.value_low, row.value_high, row.n) for row in rows] == [
        (1e-4, 1e-4, 1e-4, 3),
        (1e-3, 1e-3, 1e-3, 3),
        (1e-2, 1e-2, 1e-2, 3),
    ]
    assert [row.iqm.value for row in rows] == [202.0, 302.0, 102.0]
    assert all(row.iqm.low < row.iqm.value < row.iqm.high for row in rows)


def test_a_diverged_run_counts_as_the_worst_and_is_not_dropped(tmp_path):
    labels = {"part": "rates", "kind": "grid"}
    scores = {1e-2: [math.nan, math.nan, 300.0], 1e-3: [50.0, 200.0, 210.0]}
    planned = [
        flat("adam", seed, score, lr=lr, variant=f"lr-{lr}", **labels)
        for lr, values in scores.items()
        for seed, score in enumerate(values)
    ]
    with load(tmp_path, planned) as data:
        rows = {row.value: row for row in sensitivity(data, **QUICK)}
    assert rows[1e-2].n == 3
    assert rows[1e-2].iqm.value == pytest.approx((LOW + LOW + 300) / 3)  # a random policy is worse than the worst run
    assert rows[1e-3].iqm.value == pytest.approx((50 + 200 + 210) / 3)


def test_bins_where_every_trial_has_a_value_of_its_own(tmp_path):
    rates = [1.1e-4, 1.5e-4, 2.0e-4, 1.2e-3, 3.0e-3, 4.0e-3]
    planned = [
        flat("adam", 1, 100.0 * number, lr=lr, variant=f"trial-{number}", part="tuning", kind="search")
        for number, lr in enumerate(rates)
    ]
    with load(tmp_path, planned) as data:
        rows = list(sensitivity(data, **QUICK))
    # Edges at 1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2.
    assert [(row.value_low, row.value_high, row.n, row.iqm.value) for row in rows] == [
        (1.1e-4, 2.0e-4, 3, 100.0),
        (1.2e-3, 3.0e-3, 2, 350.0),
        (4.0e-3, 4.0e-3, 1, 500.0),
    ]
    assert rows[0].value == pytest.approx((1.1e-4 * 1.5e-4 * 2.0e-4) ** (1 / 3))


def test_other_options_parts_and_refusals(tmp_path):
    planned = [flat("adam", seed, 10.0, part="rates", kind="grid") for seed in (1, 2)]
    with load(tmp_path, planned) as data:
        assert [row.value for row in sensitivity(data, option="optimizer.lr", **QUICK)] == [1e-3]
        assert len(sensitivity(data, "rates", **QUICK)) == 1
        for options, message in (
            ({"option": "optimizer.eps"}, "no run of these parts has a number optimizer.eps"),
            ({"part": "speeds"}, "no runs of a part 'speeds'"),
            ({"metric": "ttt_steps"}, "for a score"),
        ):
            with pytest.raises(UserError, match=message):
                sensitivity(data, **options)
    mixed = [planned[0], flat("adam", 3, 1.0, part="rates", kind="grid", signature={"mode": 1})]
    with load(tmp_path / "mixed", mixed) as data, pytest.raises(UserError, match="two protocols"):
        sensitivity(data)
    with load(tmp_path / "none", [flat("adam", 1, 1.0)]) as data:
        assert len(sensitivity(data)) == 0


# Random settings -----------------------------------------------------------------------------------------------------


def test_random_settings(tmp_path):
    labels = {"part": "random", "kind": "robustness"}
    scores = {"adam": [450.0, 440.0, 200.0, LOW - 10], "asgc": [460.0, 455.0, 450.0, 430.0]}
    planned = [
        flat(name, seed, score + shift, variant=f"draw-{number}", lr=(number + 1) * 1e-3, **labels)
        for name, finals in scores.items()
        for number, score in enumerate(finals)
        for seed, shift in ((1, -2.0), (2, 2.0))  # two seeds of a setting are one value
    ]
    with load(tmp_path, planned) as data:
        rows = {row.optimizer.name: row for row in robustness(data, **QUICK)}
        with pytest.raises(UserError, match="for a score"):
            robustness(data, metric="std")
    adam, asgc = rows["adam"], rows["asgc"]
    assert (adam.settings, adam.best, adam.cell_best) == (4, 450.0, 460.0)
    tolerance = NEAR * (HIGH - LOW)  # 23.9 points: from 436.1 on
    assert adam.near.value == np.mean(np.array(scores["adam"]) >= 460 - tolerance) == 0.5
    assert asgc.near.value == 0.75
    normalized = (np.array(scores["adam"]) - LOW) / (HIGH - LOW)
    assert adam.area.value == pytest.approx(np.clip(normalized, 0, 1).mean())
    # The area under the share of settings that reach at least a score.
    grid = np.linspace(0, 1, 100_001)[1:]
    assert adam.area.value == pytest.approx(np.mean([(normalized >= level).mean() for level in grid[::100]]), abs=2e-3)
    for row in rows.values():
        assert row.near.low <= row.near.value <= row.near.high
        assert row.area.low < row.area.value < row.area.high


def test_the_points_of_a_grid(tmp_path):
    """A point is near the best if the mean over its seeds is; the interval is that of the seeds drawn anew."""
    labels = {"part": "rates", "kind": "grid"}
    scores = {
        "adam": {1e-3: (470.0, 440.0, 455.0), 1e-2: (300.0, 500.0, 400.0)},
        "asgc": {1e-3: (470.0, 470.0, 470.0), 1e-2: (460.0, 458.0, 459.0)},
    }
    planned = [
        flat(name, seed, score, lr=lr, variant=f"lr-{lr}", setting=setting, **labels)
        for setting in ("plain", "mse")
        for name, points in scores.items()
        for lr, finals in points.items()
        for seed, score in enumerate(finals)
    ]
    with load(tmp_path, planned) as data:
        rows = {(row.cell.setting, row.optimizer.name): row for row in robustness(data, "rates", **QUICK)}
    adam, asgc = rows["mse", "adam"], rows["plain", "asgc"]
    assert (adam.settings, adam.best, adam.cell_best, adam.near.value) == (2, 455.0, 470.0, 0.5)
    assert adam.near[1:] == (0.0, 1.0)  # near with thrice 470, not with thrice 440; the other likewise
    assert asgc.near == (1.0, 1.0, 1.0)
    assert asgc.area.value == pytest.approx((np.array([470.0, 459.0]) - LOW).mean() / (HIGH - LOW))
    assert asgc.area.low < asgc.area.value < asgc.area.high


def test_no_part_of_random_settings(tmp_path):
    with load(tmp_path, [flat("adam", 1, 1.0)]) as data:
        with pytest.raises(UserError, match="no parts of kind robustness"):
            robustness(data)
        with pytest.raises(UserError, match="part comparison is a compare, not of kind robustness or grid"):
            robustness(data, "comparison")
