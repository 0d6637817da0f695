"""Sensitivity to an option, random settings, and the baseline at matched step size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.analysis import compare_cli
from evaluation.analysis.comparisons.matched import matched_grid, matched_steps
from evaluation.analysis.comparisons.robustness import NEAR, robustness, sensitivity
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError
from tests.evaluation.run_trees import Planned, write_gradients, write_study

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
    assert rows[1e-2].iqm.value == pytest.approx((50 + 50 + 300) / 3)
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


# Matched step size ---------------------------------------------------------------------------------------------------


@pytest.fixture
def matched_study(tmp_path):
    """asgc's updates are a third of adam's; adam ran at a third of its rate in the search, and there it is as good."""
    asgc = [flat("asgc", seed, 400.0 + seed, lr=3e-3) for seed in range(5)]
    adam = [flat("adam", seed, 300.0 + seed, lr=3e-3) for seed in range(5)]
    small = [
        flat("adam", seed, 400.0 + seed, lr=1e-3, part="tuning", kind="search", variant="trial-1") for seed in range(5)
    ]
    other = [flat("adam", seed, 0.0, lr=1e-5, part="tuning", kind="search", variant="trial-2") for seed in range(5)]
    folder = write_study(tmp_path / "tiny", asgc + adam + small + other)
    steps = ((asgc, 1.0e-3), (adam, 3.0e-3), (small, 1.1e-3), (other, 1e-5))
    return folder, steps


def test_the_baseline_at_the_same_effective_step(matched_study):
    folder, steps = matched_study
    for planned, step in steps:
        for run in planned:
            write_gradients(folder / run.path, update_to_weight=step)
    with dataset.load(folder) as data:
        (row,) = matched_steps(data, **QUICK)
    assert (row.method.name, row.baseline.name, row.measure) == ("asgc", "adam", "update to weight")
    assert (row.step, row.baseline_step, row.matched_step) == pytest.approx((1e-3, 3e-3, 1.1e-3))
    assert (row.matched, row.n_matched, row.matched_iqm.value) == ("tuning trial-1", 5, row.iqm.value)
    assert (row.improvement.value, row.verdict) == (0.5, NOT_SHOWN)
    assert row.difference.low < 0 < row.difference.high
    assert (
        "at matched step size (update to weight 0.001, adam's in the comparison 0.003, matched 0.0011" in row.sentence
    )


def test_without_gradients_the_learning_rate_is_what_is_matched(matched_study):
    folder, _ = matched_study
    with dataset.load(folder) as data:
        (row,) = matched_steps(data, **QUICK)
    assert (row.measure, row.step, row.matched) == ("learning rate", 3e-3, "comparison default")
    assert (row.verdict, row.improvement.value) == (BETTER, 1.0)


def test_nothing_to_match_with_is_said(matched_study):
    folder, steps = matched_study
    for planned, step in (steps[0], steps[1]):
        for run in planned:
            write_gradients(folder / run.path, update_to_weight=step)
    with dataset.load(folder) as data:
        (row,) = matched_steps(data, **QUICK)
    assert (row.n_matched, row.verdict) == (0, NOT_SHOWN)
    assert math.isnan(row.matched_iqm.value)
    assert row.sentence.endswith("has no match: no 3 runs of adam at one setting within a factor 1.5.")


def test_two_runs_are_no_match(matched_study):
    folder, steps = matched_study
    for planned, step in steps:
        for run in planned:
            write_gradients(folder / run.path, update_to_weight=step)
    for run in steps[2][0][2:]:
        (folder / run.path / "summary.json").unlink()
    with dataset.load(folder) as data:
        (row,) = matched_steps(data, **QUICK)
    assert (row.n_matched, row.matched) == (0, "")


def test_the_effective_step_is_that_of_the_whole_network(tmp_path):
    import pyarrow
    import pyarrow.parquet

    run = flat("adam", 1, 1.0)
    folder = write_study(tmp_path / "tiny", [run])
    path = write_gradients(folder / run.path)
    table = pyarrow.parquet.read_table(path).to_pylist()
    for row in table:
        large = row["layer"] == "hidden.weight"
        row |= {
            "numel": 900 if large else 100,
            "update_rms": 0.01 if large else 0.03,
            "weight_rms": 1.0 if large else 2.0,
        }
        row["event"] = "interval" if row["update"] > 1 else "shift"
        if row["event"] == "shift":
            row["update_rms"] = 5.0  # not typical: left out
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    with dataset.load(folder) as data:
        assert data.effective_steps() == {
            run.path: pytest.approx(math.sqrt((900 * 0.01**2 + 100 * 0.03**2) / (900 * 1.0 + 100 * 4.0)))
        }


def test_only_scores_of_a_comparison_are_matched(tmp_path):
    planned = [flat("adam", 1, 1.0), flat("asgc", 1, 1.0)]
    with load(tmp_path, planned) as data, pytest.raises(UserError, match="step sizes are matched for scores"):
        matched_steps(data, metric="ttt_steps")


def test_a_grid_at_the_same_effective_step(tmp_path, capsys):
    """asgc seems better at every rate but one; its steps are a tenth of adam's, and at the same step it is adam's equal
    but where adam's steps were never as small."""
    rates = (1e-3, 1e-2, 1e-1)
    scores = {"adam": dict(zip(rates, (480.0, 300.0, LOW), strict=True))}
    scores["asgc"] = dict(zip(rates, (100.0, 480.0, 300.0), strict=True))
    steps = {"adam": 1.0, "asgc": 0.1}
    planned = {
        (name, lr): [flat(name, seed, score + seed - 1, lr=lr, variant=f"lr-{lr}", part="rates", kind="grid")
                     for seed in range(3)]
        for name, points in scores.items()
        for lr, score in points.items()
    }  # fmt: skip
    diverged = [flat("adam", seed, LOW, lr=1.0, variant="lr-1.0", part="rates", kind="grid") for seed in range(3)]
    folder = write_study(tmp_path / "tiny", [run for runs in planned.values() for run in runs] + diverged)
    for (name, lr), runs in planned.items():
        for run in runs:
            write_gradients(folder / run.path, update_to_weight=1.5 * steps[name] * lr)
    for run in diverged:
        write_gradients(folder / run.path, update_to_weight=math.inf)
    with dataset.load(folder) as data:
        (row,) = table = matched_grid(data, "rates", **QUICK)
        with pytest.raises(UserError, match="no runs of the baseline"):
            matched_grid(data, "rates", baseline="sgd")
        with pytest.raises(UserError, match="kind grid"):
            matched_grid(data, "rates", metric="std")
    assert "3 runs without a finite effective step" in table.note
    assert (row.method.name, row.baseline.name, row.bins) == (
        "asgc",
        "adam",
        2,
    )  # steps of 1.5e-3 and 1.5e-2, not 1.5e-4
    assert (row.step_low, row.step_high) == (pytest.approx(1e-3), pytest.approx(10**-1.5))
    expected = (np.array([480.0, 300.0]) - LOW) / (HIGH - LOW)
    assert row.area.value == pytest.approx(np.clip(expected, 0, 1).mean())
    assert (row.difference.value, row.near, row.baseline_near) == (pytest.approx(0), 0.5, 0.5)
    assert row.difference.low < 0 < row.difference.high
    assert row.sentence.endswith("no difference shown.")

    argv = [str(folder), "--part", "rates", "--out", str(tmp_path / "out"), "--repetitions", "300"]
    assert compare_cli.main(argv) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "near the best" in printed
    assert row.sentence in printed
    assert "0.333" in (tmp_path / "out" / "rates-final-robustness.csv").read_text()
    assert "asgc" in (tmp_path / "out" / "rates-final-matched.csv").read_text()


def test_a_grid_without_gradients_has_no_steps_to_match(tmp_path):
    planned = [flat("adam", 1, 1.0, lr=lr, variant=f"lr-{lr}", part="rates", kind="grid") for lr in (1e-3, 1e-2)]
    with load(tmp_path, planned) as data, pytest.raises(UserError, match="no run of part rates has a record"):
        matched_grid(data, "rates")
