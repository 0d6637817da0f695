"""`asgc-rl watch`: runs followed through their folders."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation.cli.errors import UserError
from evaluation.runs.lock import FolderLock
from evaluation.runs.run_folder import CONFIG, LOCK, METRICS, SUMMARY
from rl import cli
from rl.view import braille, watching
from rl.view.follow import FINISHED, RUNNING, STOPPED, WAITING, FollowedRun

TOTAL = 10_000


def row(step: int, wall_s: float, split: str, name: str, value: Any) -> str:
    found = {"step": step, "samples": 0, "wall_s": wall_s, "split": split, "name": name, "value": value}
    return json.dumps(found) + "\n"


class Recorded:
    """A run folder that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.lock = FolderLock(path / LOCK)

    def begin(self) -> None:
        (self.path / CONFIG).write_text(f"game: Pong\nseed: 3\ntotal_steps: {TOTAL}\noptimizer:\n  name: asgc\n")

    def write(self, text: str) -> None:
        with (self.path / METRICS).open("a") as file:
            file.write(text)

    def train(self, step: int, wall_s: float, **values: float) -> None:
        self.write("".join(row(step, wall_s, "train", name, value) for name, value in values.items()))

    def end(self) -> None:
        (self.path / SUMMARY).write_text("{}")
        self.lock.release()


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "run")


def test_a_run_from_before_its_beginning_to_its_end(recorded: Recorded) -> None:
    run = FollowedRun(recorded.path)
    assert (run.refresh(), run.state, run.total, run.steps_per_s, run.eta_s) == (False, WAITING, None, None, None)
    recorded.begin()
    assert (run.refresh(), run.state, run.total, run.title) == (False, WAITING, TOTAL, "run: Pong · asgc · seed 3")
    recorded.train(1000, 10.0, loss=0.5, clipped=0.125)
    assert run.refresh()
    assert (run.state, run.step, run.latest("train", "loss")) == (RUNNING, 1000, 0.5)
    recorded.train(2000, 20.0, loss="NaN")  # type: ignore[arg-type]
    recorded.write(row(2000, 50.0, "eval", "score", -3.0) + row(2000, 50.0, "eval", "evaluation_s", 30.0))
    recorded.train(3000, 60.0, loss=0.25)
    assert run.refresh()
    assert not run.refresh(), "nothing is read twice"
    assert run.scores == [(2000, -3.0)]
    assert [step for step, _ in run.series["train", "loss"]] == [1000, 2000, 3000]
    # 2000 steps in 50 s, 30 of which were an evaluation's.
    assert run.steps_per_s == pytest.approx(100.0)
    assert run.eta_s == pytest.approx((TOTAL - 3000) * 50 / 2000)
    recorded.end()
    assert run.refresh()
    assert run.state == FINISHED


def test_half_a_line_is_read_when_it_is_whole(recorded: Recorded) -> None:
    recorded.begin()
    run, line = FollowedRun(recorded.path), row(1000, 1.0, "train", "loss", 0.5)
    recorded.write(line[:20])
    assert not run.refresh()
    recorded.write(line[20:] + "damaged\n")
    assert run.refresh()
    assert run.series == {("train", "loss"): [(1000, 0.5)]}


def test_a_killed_run_is_said_to_be_so_and_a_resume_is_followed(recorded: Recorded) -> None:
    recorded.begin()
    recorded.train(1000, 1.0, loss=0.5)
    recorded.train(2000, 2.0, loss=0.4)
    run = FollowedRun(recorded.path)
    run.refresh()
    recorded.lock.release()
    assert run.refresh()
    assert run.state == STOPPED
    assert watching.line(run).endswith(f"(killed or interrupted; go on with: asgc-rl train --resume {recorded.path})")
    again = FolderLock(recorded.path / LOCK)
    (recorded.path / METRICS).write_text(row(1000, 1.0, "train", "loss", 0.5))  # back at its checkpoint
    assert run.refresh()
    assert (run.state, run.step, run.series["train", "loss"]) == (RUNNING, 1000, [(1000, 0.5)])
    again.release()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        FollowedRun(tmp_path / "none")
    with pytest.raises(UserError, match="is not a run folder"):
        FollowedRun(tmp_path)
    assert cli.main(["watch"]) == 2
    assert capsys.readouterr().err == "error: say which run: asgc-rl watch RUN\n"
    run = Recorded(tmp_path / "run")
    assert cli.main(["watch", str(run.path), "--play"]) == 2
    assert "--play shows games on a terminal" in capsys.readouterr().err


def test_lines_until_every_run_has_ended(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Recorded(tmp_path / "other")
    for one in (recorded, other):
        one.begin()
        one.train(1000, 1.0, loss=0.5)

    def go_on() -> None:
        time.sleep(0.4)
        recorded.train(2000, 2.0, loss=0.4)
        recorded.end()
        other.lock.release()

    thread = threading.Thread(target=go_on)
    thread.start()
    assert cli.main(["watch", str(recorded.path), str(other.path), "--interval", "0.1"]) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("state=")[1].split()[0] for line in lines[:2]] == [RUNNING, RUNNING]
    assert f"run={recorded.path} state=finished step=2000 total={TOTAL} steps_per_s=1000 loss=0.4" in lines
    assert any(line.startswith(f"run={other.path} state=stopped step=1000") for line in lines)


def test_once_shows_and_stops(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", str(recorded.path), "--once"]) == 0
    assert capsys.readouterr().out == f"run={recorded.path} state=waiting step=0\n"


def test_ctrl_c_leaves_the_run_alone(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.begin()
    recorded.train(1000, 1.0, loss=0.5)
    before = {path.name: path.read_bytes() for path in recorded.path.iterdir()}

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    assert cli.main(["watch", str(recorded.path)]) == 0
    assert capsys.readouterr().err == "left; the runs go on\n"
    assert {path.name: path.read_bytes() for path in recorded.path.iterdir()} == before


@pytest.mark.parametrize("width", [40, 100])
def test_the_panel_has_curve_numbers_and_speed(recorded: Recorded, width: int) -> None:
    recorded.begin()
    for number in range(1, 6):
        recorded.train(1000 * number, 10.0 * number, loss=0.5, **{"return": -20.0 + 4 * number})
        recorded.write(row(1000 * number, 10.0 * number, "eval", "score", -20.0 + 8 * number))
    run = FollowedRun(recorded.path)
    run.refresh()
    with (console := Console(width=width)).capture() as capture:
        console.print(watching.panel(run, width))
    text = capture.get()
    for part in ("5,000/10,000", "100 steps/s", "ETA 0:50", "score 20.00", "return 0.00", "loss 0.5", "▁▃▅▆█"):
        assert part in text, part
    assert max(map(len, text.splitlines())) == width
    rows = [line for line in text.splitlines() if any("\u2801" <= letter <= "\u28ff" for letter in line)]
    assert len(rows) == watching.CURVE
    assert (rows[0].split()[1], rows[-1].split()[1]) == ("20", "-12")


def test_a_new_checkpoint_is_seen_once(recorded: Recorded) -> None:
    from evaluation.runs.checkpoint import CheckpointStore

    recorded.begin()
    run, seen = FollowedRun(recorded.path), dict[Path, str]()
    assert watching._with_new_checkpoint([run], seen) is None
    store = CheckpointStore(recorded.path / "checkpoints")
    for step in (100, 200):
        store.save(step, lambda folder: None)
        assert watching._with_new_checkpoint([run], seen) is run
        assert watching._with_new_checkpoint([run], seen) is None


def test_braille_curves() -> None:
    rising = braille.curve([(0, 0.0), (10, 1.0)], 5, 2)
    assert [line[0] for line in rising] == ["\u2800", "\u2860"]
    assert rising[0][-1] == "\u2809" or rising[0][-1] > "\u2800"
    assert rising[1][-1] == "\u2800"
    half = braille.curve([(0, 0.0), (10, 1.0)], 10, 2, x_end=20)
    assert all(letter == "\u2800" for line in half for letter in line[6:]), "what is still to come is empty"
    assert braille.curve([], 3, 1) == ["\u2800" * 3]
    assert braille.curve([(5, 2.0), (6, float("nan"))], 3, 1) != ["\u2800" * 3]
    assert braille.bars([1.0, 2.0, float("inf"), 3.0], 2) == "▁█"
    assert braille.bars([4.0, 4.0], 8) == "▁▁"
