"""What acts and what is ahead at equal learning rate, against numbers by hand."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evaluation.analysis.comparisons.acting import Acting, acting
from evaluation.analysis.data import dataset
from evaluation.analysis.data.archive import export
from evaluation.analysis.data.normalization import REFERENCES
from evaluation.cli.errors import UserError
from evaluation.main import main
from evaluation.plots.study_data import StudyData
from evaluation.report import page
from tests.evaluation.run_trees import Planned, write_gradients, write_study

RATES, EPS = (1e-3, 1e-2), (1e-8, 1.0)
# Means at (lr, option) in order: (1e-3, first), (1e-3, second), (1e-2, first), (1e-2, second); seeds at -10, 0, 10.
ADAM, ASGC = (300, 280, 200, 350), (400, 100, 340, 330)
WIDTH = REFERENCES["CartPole"].high - REFERENCES["CartPole"].low
ERROR = math.hypot(10 / math.sqrt(3), 10 / math.sqrt(3))  # of a difference


def trials(optimizer: str, means: tuple[int, ...], option: str, values: tuple[float, ...] = EPS) -> list[Planned]:
    return [
        Planned(
            optimizer, seed, [0.0, *[means[at] + 10 * (seed - 2)] * 5], part="tuning", kind="search", lr=lr,
            variant=f"trial-{at:03d}", options={option: value},
        )
        for at, (lr, value) in enumerate(itertools.product(RATES, values))
        for seed in (1, 2, 3)
    ]  # fmt: skip


def record(folder: Path, run: Planned, step: float, clipped: float, attenuation: float = 1.0) -> None:
    """Two layers, of which the head is clipped half as often and attenuated to 0.9 at least."""
    path = write_gradients(folder / run.path, update_to_weight=step, updates=9)
    head = {"clipped": clipped / 2, "attenuation": max(attenuation, 0.9)}
    rows = [
        row
        | ({"clipped": clipped, "attenuation": attenuation} if row["layer"] == "hidden.weight" else head)
        | {"noise_std": 0.0, "grad_rms": 1.0}
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return study(tmp_path / "tiny", ASGC)


PLAIN = {"adam": {"optimizer.eps": "1e-8"}}  # as YAML reads it


def study(folder: Path, means: tuple[int, ...], plain: dict[str, dict[str, object]] = PLAIN) -> Path:
    adam, asgc = trials("adam", ADAM, "optimizer.eps"), trials("asgc", means, "optimizer.clip_factor")
    other = [replace(run, optimizer="sgd", lr=100 * run.lr) for run in trials("asgc", means, "optimizer.momentum")]
    space = {
        "optimizer.lr": {"choices": list(RATES), "optimizers": ["adam", "asgc"]},
        "optimizer.eps": {"choices": list(EPS), "optimizers": ["adam"]},
    }
    part = {"kind": "search", "sampler": "grid", "objective": "auc", "space": space}
    write_study(folder, [*adam, *asgc, *other], parts={"tuning": part}, plain=plain)
    for run in adam:
        record(folder, run, {1e-8: 1e-3, 1.0: 1e-4}[run.options["optimizer.eps"]] * (1 + (run.lr == 1e-2)), 0.0)
    for run in asgc:  # only its best setting is within 5 % of its best: what the others did does not count
        best = run.lr == 1e-3 and run.options["optimizer.clip_factor"] == 1e-8
        record(folder, run, 8e-4 if best else 5e-2, 0.2 if best else 1.0, 0.7 if best else 0.1)
    return folder


def rows(folder: Path, **how: object) -> tuple[dict[str, Acting], str]:
    with dataset.load(folder) as data:
        table = acting(data, "tuning", **how)  # type: ignore[arg-type]
    return {row.optimizer.name: row for row in table}, table.note


def test_what_acts_near_the_best_and_is_ahead_at_equal_rates(folder: Path) -> None:
    found, note = rows(folder)
    asgc, adam = found["asgc"], found["adam"]
    assert (asgc.best, asgc.near, asgc.rates) == (400, 1, 2)
    assert (asgc.clipped, asgc.attenuation, asgc.noise_to_gradient) == pytest.approx((0.2, 0.7, 0))
    assert asgc.step == pytest.approx(0.8)  # of Adam's with eps 1e-8 at the same rate
    # 400 against 300 at 1e-3; 340 against 350 at 1e-2, by more than the seeds' error of 8.2.
    assert (asgc.ahead, asgc.behind, asgc.gain_rate) == (1, 1, 1e-3)
    assert (asgc.gain, asgc.gain_error) == pytest.approx((100 / WIDTH, ERROR / WIDTH))
    assert (adam.clipped, adam.ahead, adam.behind) == (0, 0, 0)
    assert math.isnan(adam.gain)
    assert adam.step == pytest.approx(0.1)  # its best has an eps of 1, which acts
    assert "sgd has other learning rates than adam: left out" in note
    assert "sgd" not in found


@pytest.mark.parametrize(("best", "ahead", "behind"), [(341, 0, 1), (342, 0, 0), (358, 0, 0), (359, 1, 0)])
def test_a_difference_within_the_seeds_error_of_8_is_neither(
    tmp_path: Path, best: int, ahead: int, behind: int
) -> None:
    """At 1e-2, where Adam has 350; at 1e-3 both have 300."""
    found, _ = rows(study(tmp_path / "tiny", (300, 100, 340, best)))
    assert (found["asgc"].ahead, found["asgc"].behind) == (ahead, behind)


def test_without_plain_options_steps_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study(tmp_path / "tiny", ASGC, {})
    found, _ = rows(folder)
    assert all(math.isnan(row.step) for row in found.values())
    assert main(["compare", str(folder), "--part", "tuning", "--repetitions", "200"]) == 0
    assert "nan" not in capsys.readouterr().out.partition("What acts")[2].lower()


def test_an_archive_says_the_same(folder: Path, tmp_path: Path) -> None:
    with dataset.load(folder) as data:
        expected = acting(data, "tuning")
        assert [row.clipped for row in expected] == [0, pytest.approx(0.2)]  # recorded
        export(data, tmp_path / "archive")
    with dataset.load(tmp_path / "archive") as data:
        for found, row in zip(acting(data, "tuning"), expected, strict=True):
            assert replace(found, step=row.step, gain=0, gain_error=0, gain_rate=0) == replace(
                row, gain=0, gain_error=0, gain_rate=0
            )
            numbers = [(one.step, one.gain, one.gain_error, one.gain_rate) for one in (found, row)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, nan_ok=True)  # steps are kept in 32 bits


@pytest.mark.parametrize("options", [{"optimizer.eps": 0.5}, {"optimizer.betas": 1}, {"optimizer.lr": RATES[0]}])
def test_plain_options_of_none_or_several_of_the_settings_are_noted(tmp_path: Path, options: dict[str, object]) -> None:
    found, note = rows(study(tmp_path / "other", ASGC, {"adam": options}))
    assert all(math.isnan(row.step) for row in found.values())
    assert found["asgc"].ahead == 1
    assert re.search(r"no steps of adam on .* with \{.*\} to compare with", note)


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no runs of 'lion'"):
        rows(folder, baseline="lion")
    with pytest.raises(UserError, match="not for 'std'"):
        rows(folder, metric="std")


def test_the_command_shows_and_writes_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(folder), "--part", "tuning", "--repetitions", "200", "--out", str(tmp_path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "What acts, and what is ahead of adam at equal learning rate" in out
    assert "1 of 2" in out
    assert "gain_error" in (tmp_path / "tuning-final-acting.csv").read_text().splitlines()[0]


def test_the_report_shows_it_beside_each_plain_method(tmp_path: Path) -> None:
    plain = PLAIN | {"sgd": {"optimizer.momentum": 1e-8}, "lion": {"optimizer.eps": 1}}  # another part's
    folder = study(tmp_path / "tiny", ASGC, plain)
    with dataset.load(folder) as data:
        sheets = page.gather(StudyData(data, repetitions=100)).sheets["tuning"]
    found = {sheet.name: sheet for sheet in sheets if "acting" in sheet.name}
    assert list(found) == ["tuning-acting-adam", "tuning-acting-sgd"]
    by_objective = [sheet for sheet in sheets if sheet in found.values() or "usable" in sheet.name]
    assert len(by_objective) == 3
    assert all("auc score" in sheet.title for sheet in by_objective)
    columns = [label for label, _ in found["tuning-acting-adam"].columns]
    cells = {
        line.cells[2].text: dict(zip(columns, line.cells, strict=True)) for line in found["tuning-acting-adam"].lines
    }
    assert set(cells) == {"asgc", "adam"}
    asgc = {name: entry.text for name, entry in cells["asgc"].items()}
    assert (asgc["clipped"], asgc["step"], asgc["ahead"], asgc["behind"], asgc["at"]) == (
        "0.2",
        "0.8",
        "1",
        "1",
        "0.001",
    )
    assert [line.cells[2].text for line in found["tuning-acting-sgd"].lines] == ["sgd"]


def test_over_several_settings_near_the_best_the_farthest_step_and_the_means_of_all_records(tmp_path: Path) -> None:
    adam = trials("adam", ADAM, "optimizer.eps")
    asgc = trials("asgc", (305, 304, 380, 390), "optimizer.clip_factor")  # the last two are near the best
    part = {"kind": "search", "sampler": "grid", "space": {}}
    folder = write_study(tmp_path / "tiny", [*adam, *asgc], parts={"tuning": part}, plain=PLAIN)
    for run in adam:
        record(folder, run, 1e-3, 0.0)
    for run in asgc:
        first = run.options["optimizer.clip_factor"] == EPS[0]
        record(folder, run, 5e-4 if first else 1.2e-3, math.nan if run.seed == 1 else 0.1 * run.seed)
    near = next(run for run in asgc if run.lr == 1e-2 and run.seed == 3)
    more = write_gradients(folder / near.path, update_to_weight=5e-4, updates=1, number=1, first=10)
    rows_of = pyarrow.parquet.read_table(more).to_pylist()
    changed = [row | {"clipped": 1.0, "attenuation": 1.0, "noise_std": 0.0, "grad_rms": 1.0} for row in rows_of]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(changed), more)
    found, _ = rows(folder)
    asgc_row = found["asgc"]
    assert (asgc_row.near, asgc_row.ahead, asgc_row.gain_rate) == (2, 1, 1e-2)
    assert asgc_row.step == pytest.approx(0.5)
    # Of ten records of the third seed and nine of the second; the first has none that is a number.
    assert asgc_row.clipped == pytest.approx((9 * 0.2 + 9 * 0.3 + 1.0) / 19, rel=1e-3)  # three digits
