"""What moving learned options does: the right settings run, once, and what is found is shown."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from asgc.meta import Preset
from evaluation.cli.errors import UserError
from evaluation.main import main as eval_main
from evaluation.meta import around_cli
from evaluation.meta.around_cli import moved, points, read_around
from evaluation.meta.meta_cli import main
from evaluation.meta.particles import Journal
from evaluation.study.engines import choose
from tests.evaluation.meta.test_learn import EVOLUTION, InProcess

PRESET = Preset(
    "toy",
    "adam",
    {},
    {"weights": {"clip_factor": 2.0}, "head": {"clip_factor": 8.0}},
    late={"weights": {"clip_factor": 1.0}, "head": {"clip_factor": 4.0}},
    lr=1e-2,
)


ENGINES: list[InProcess] = []  # in the order they were made


def test_an_option_moves_in_all_layers_and_at_all_times() -> None:
    first, lower, higher, slow, fast = points(PRESET, 1e-2, ("clip_factor", "lr"), (-1.0, 1.0))
    assert (first.option, first.preset, first.lr) == ("", PRESET, 1e-2)
    assert [one.option for one in (lower, higher, slow, fast)] == ["clip_factor", "clip_factor", "lr", "lr"]
    for kind, start in (("weights", 2.0), ("head", 8.0)):
        assert lower.preset.values[kind]["clip_factor"] < start < higher.preset.values[kind]["clip_factor"]
        assert lower.preset.late[kind]["clip_factor"] < start / 2 < higher.preset.late[kind]["clip_factor"]
    assert lower.lr == higher.lr == 1e-2
    assert slow.lr < 1e-2 < fast.lr
    assert slow.preset == fast.preset == PRESET
    assert moved("lr", moved("lr", 1e-2, 1.5), -1.5) == pytest.approx(1e-2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a preset was learned, in this process."""
    monkeypatch.setattr(choose, "make", lambda *_: ENGINES.append(InProcess()) or ENGINES[-1])
    held_out = {"three": {"class": "tests.evaluation.meta.toy_tasks:Peak", "options": {"scale": 10.0}}}
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump({**EVOLUTION, "name": "toy", "kinds": ["head"], "held_out": held_out}))
    assert main(["learn", str(file), "--dir", str(tmp_path / "toy")]) == 0
    ENGINES.clear()
    return tmp_path / "toy"


def test_the_command_runs_each_setting_once_and_shows_what_it_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["around", str(folder), "--seeds", "2", "--reach", "1"]
    assert main([*asked, "--dry-run"]) == 0
    assert "toy: 20 runs of 20 to do" in capsys.readouterr().err  # 5 settings, 2 seeds, 2 tasks
    assert not ENGINES
    assert main(asked) == 0
    assert ENGINES[-1].done == 20
    assert "as learned" in capsys.readouterr().out
    (journal,) = folder.glob("around-*.jsonl")
    assert all(step >= around_cli.SEEDS_FROM for step, _, _ in Journal(journal).rows)  # other seeds than the learning's
    rows = read_around(folder, Preset.load(folder / "toy.json"))
    assert [(row["option"], row["offset"]) for row in rows] == [
        ("", 0.0),
        *((name, offset) for name in ("lr", "clip_factor") for offset in (-1.0, 1.0)),
    ]
    learned = Preset.load(folder / "toy.json")
    assert learned.lr is not None

    def off(lr: float, clip_factor: float) -> float:  # of `Peak`, whose parameter is a vector
        return math.log(lr / 0.03) ** 2 + math.log(clip_factor) ** 2

    factor = learned.values["vectors"]["clip_factor"]
    for row in rows[1:]:
        at = (row["value"]["all"], factor) if row["option"] == "lr" else (learned.lr, row["value"]["vectors"])
        for task, scale in (("one", 1.0), ("two", 100.0)):
            gains = [a - b for a, b in zip(row["returns"][task], rows[0]["returns"][task], strict=True)]
            assert gains == [pytest.approx(scale * (off(learned.lr, factor) - off(*at)), rel=1e-4)] * 2
    engines = len(ENGINES)
    assert main(asked) == 0
    assert len(ENGINES) == engines  # all of it is known
    assert main([*asked, "--held-out"]) == 0
    assert ENGINES[-1].done == 10
    assert set(read_around(folder, Preset.load(folder / "toy.json"))[0]["returns"]) == {"one", "two", "three"}
    assert main(["around", str(folder), "--seeds", "1", "--reach", "2"]) == 0
    assert ENGINES[-1].done == 10  # other settings are not taken for these
    assert not (folder / "runs").exists()


def test_nothing_stale_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another preset, of a task that has changed, or of fewer seeds."""
    asked = ["around", str(folder), "--reach", "1", "--held-out"]
    assert main([*asked, "--seeds", "2"]) == 0
    assert main([*asked, "--seeds", "1", "--dry-run"]) == 0
    assert "toy: 0 runs of 15 to do" in capsys.readouterr().err
    values = yaml.safe_load((folder / "meta.yaml").read_text())
    values["held_out"]["three"]["options"]["scale"] = 1000.0
    (folder / "meta.yaml").write_text(yaml.safe_dump(values))
    assert main([*asked, "--seeds", "1"]) == 0
    assert ENGINES[-1].done == 15
    learned = Preset.load(folder / "toy.json")
    assert read_around(folder, learned)
    assert read_around(folder, replace(learned, lr=learned.lr and 2 * learned.lr)) == []
    assert read_around(folder, None) == []


def test_the_figure_has_a_panel_for_each_option_and_task(folder: Path) -> None:
    assert main(["around", str(folder), "--seeds", "1", "--reach", "1,2"]) == 0
    assert eval_main(["plot", str(folder), "--only", "sensitivity", "--out", str(folder / "figures")]) == 0
    with (folder / "figures" / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["option"], row["task"]) for row in rows} == {
        (option, task) for option in ("lr", "clip_factor") for task in ("one", "two")
    }
    assert sorted({float(row["moved_by"]) for row in rows}) == [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_what_is_missing_is_said(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["around", str(tmp_path / "nowhere")]) == 2
    assert "nothing was learned there (no meta.yaml)" in capsys.readouterr().err
    (folder / "toy.json").unlink()
    assert main(["around", str(folder)]) == 2
    assert "not learned to the end yet" in capsys.readouterr().err
    (folder / around_cli.AROUND).write_text("[{")
    with pytest.raises(UserError, match="is damaged: remove it"):
        read_around(folder, PRESET)
