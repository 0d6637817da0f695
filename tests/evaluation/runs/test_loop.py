"""The loop that trainers share, with a trainer of three lines: schedule, checkpoints, signals, exact resume."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs import loop
from evaluation.runs.loop import Interrupted, execute
from evaluation.runs.run_folder import RunFinishedError, RunFolder, is_finished, load_summary, read_metrics
from evaluation.runs.schedule import Schedule
from evaluation.runs.trainer_protocol import EvaluationResult
from evaluation.runs.watchers import Watcher, Watchers


@dataclass
class Config:
    seed: int = 1
    tensorboard: bool = False
    track: str = "none"
    checkpoint_interval: int = 20
    checkpoint_minutes: float = np.inf
    rate: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        return vars(self).copy()


class Walk:
    """A random walk: what the global generators give, and a large array in a file of its own."""

    def __init__(self, config: Config, watchers: Watchers) -> None:
        self.schedule = Schedule(total=100, stride=4, log=20, evaluation=30, checkpoint=config.checkpoint_interval)
        self.device = torch.device("cpu")
        self.step, self.place, self.trail = 0, 0.0, np.zeros(25)
        self.rate, self.everyone, self.closed = config.rate, watchers, False
        torch.manual_seed(config.seed)

    samples = property(lambda self: 2 * self.step)

    def info(self) -> dict[str, Any]:
        return {"total_steps": 100, "columns": ()}

    def start(self) -> None:
        self.place = 1.0

    def advance(self) -> dict[str, dict[str, float]]:
        self.place += self.rate * torch.rand(()).item()
        if self.step == 44:
            self.everyone.shifted(48)
        self.trail[self.step // 4] = self.place
        self.step += 4
        return {"rare": {"place": self.place}} if self.step == 40 else {}

    def training_values(self) -> dict[str, float]:
        return {"place": self.place}

    def progress(self) -> dict[str, Any]:
        return {"only shown": self.step}

    def evaluate(self, number: int, *, final: bool) -> EvaluationResult:
        for game in range(3):
            torch.rand(())  # as nothing should; one that is left takes nothing from the training's generator
            self.everyone.evaluating(game, 3)
        more = {"trail": {"sum": float(self.trail.sum())}}
        return EvaluationResult(self.place, "words", {"number": number}, more, {"was_final": final})

    def measures(self) -> dict[str, Any]:
        return {"target": 1.5, "last_k": 2, "signature": {"game": "walk"}}

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.place = state["place"]

    def save(self, folder: Path) -> None:
        np.save(folder / "trail.npy", self.trail)

    def load(self, folder: Path) -> None:
        self.trail = np.load(folder / "trail.npy")

    def save_model(self, path: Path) -> None:
        path.write_text(repr(self.place))

    def close(self) -> None:
        self.closed = True


class Killed(BaseException):
    """What a kill looks like from inside."""


class At(Watcher):
    """Does something when a step is logged; remembers what it was told."""

    name = "at"

    def __init__(self, step: int = -1, do: Callable[[], None] = lambda: None, in_game: int = -1) -> None:
        self.step, self.do, self.told = step, do, []
        self.seen, self.games, self.in_game = 0, 0, in_game

    def start(self, info: Mapping[str, Any]) -> None:
        self.told.append(("start", info["total_steps"]))
        self.info = info

    def update(self, stats: Mapping[str, Any]) -> None:
        self.told.append(("update", stats["step"]))
        if stats["step"] == self.step:
            self.do()

    def message(self, text: str) -> None:
        self.told.append(("message", text))

    def evaluated(self, event: Any) -> None:
        self.told.append(("evaluated", event.step))

    def evaluating(self, done: int, total: int) -> None:
        self.games += 1
        if self.games == self.in_game:
            self.do()

    def advanced(self, step: int, training_s: float, wall_s: float) -> None:
        self.told.append(("advanced", step))

    def shifted(self, updates: int) -> None:
        self.told.append(("shifted", updates))

    def logged(self, rows: Any) -> None:
        self.seen += len(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state.get("seen", 0)

    def close(self, finished: bool) -> None:
        self.told.append(("close", finished))


def run(path: Path, *watchers: Watcher, resume: bool = False, **options: Any) -> dict[str, Any]:
    config = Config(**options)
    made: list[Walk] = []

    def make(folder: RunFolder, everyone: Watchers) -> Walk:
        made.append(Walk(config, everyone))
        return made[0]

    try:
        return execute(make, config, path=path, device=torch.device("cpu"), resume=resume, watchers=watchers)
    finally:
        assert all(trainer.closed for trainer in made)


def stop(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


def rows(path: Path) -> list[tuple[Any, ...]]:
    return [
        (row.step, row.samples, row.split, row.name, row.value)
        for row in read_metrics(path)
        if row.name != "evaluation_s"
    ]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    run(tmp_path / "whole")
    return tmp_path / "whole"


def test_things_happen_when_they_are_due(tmp_path: Path) -> None:
    watcher = At()
    summary = run(tmp_path / "run", watcher)
    assert [at for what, at in watcher.told if what == "update"] == [4, 20, 40, 60, 80, 100]
    assert [at for what, at in watcher.told if what == "evaluated"] == [32, 60, 92, 100]
    assert ("shifted", 48) in watcher.told
    assert (watcher.told[0], watcher.told[-1]) == (("start", 100), ("close", True))
    assert [row[:2] for row in rows(tmp_path / "run") if row[2] == "rare"] == [(40, 80)]
    assert [row[4] for row in rows(tmp_path / "run") if row[3] == "number"] == [0, 1, 2, 3]
    assert watcher.seen == len(read_metrics(tmp_path / "run"))
    assert summary == load_summary(tmp_path / "run")
    assert (summary["was_final"], summary["time_to_threshold"]["reached"]) == (True, True)
    assert float((tmp_path / "run" / "model.pt").read_text()) == summary["last"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("interval", [4, 20, 52, 10**9])
def test_killed_and_resumed_is_uninterrupted(whole: Path, tmp_path: Path, interval: int) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(40, stop(Killed())), checkpoint_interval=interval)
    with pytest.raises(Killed):
        run(path, At(80, stop(Killed())), checkpoint_interval=interval, resume=True)
    watcher = At()
    run(path, watcher, checkpoint_interval=interval, resume=True)
    assert rows(path) == rows(whole)
    assert (path / "model.pt").read_text() == (whole / "model.pt").read_text()
    assert watcher.seen == len(read_metrics(whole))  # its state came from the checkpoint


@pytest.mark.parametrize("step", [4, 60, 100])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_rest_is_the_uninterrupted_runs(
    whole: Path, tmp_path: Path, step: int, number: signal.Signals
) -> None:
    path = tmp_path / "run"
    before = signal.getsignal(number)
    watcher = At(step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=rf"at step {step} .*resume with: asgc-rl train --resume {path}") as stopped:
        run(path, watcher, checkpoint_interval=10**9)
    assert (stopped.value.run, stopped.value.step) == (path, step)
    assert any("saving a checkpoint" in str(text) for _, text in watcher.told)
    assert watcher.told[-1] == ("close", False)
    assert signal.getsignal(number) is before
    run(path, resume=True)
    assert rows(path) == rows(whole)


@pytest.mark.parametrize(("game", "step"), [(1, 32), (3, 32), (5, 60), (10, 100), (12, 100)])
def test_a_signal_ends_an_evaluation_which_the_resume_plays_again(
    whole: Path, tmp_path: Path, game: int, step: int
) -> None:
    """Three games an evaluation; the last one is after the last step."""
    path = tmp_path / "run"
    watcher = At(do=lambda: os.kill(os.getpid(), signal.SIGINT), in_game=game)
    with pytest.raises(Interrupted, match=f"at step {step} "):
        run(path, watcher, checkpoint_interval=10**9)
    assert watcher.games == game  # not one more
    assert step not in [at for what, at in watcher.told if what == "evaluated"]
    again = At(do=lambda: os.kill(os.getpid(), signal.SIGTERM), in_game=2)
    with pytest.raises(Interrupted, match=f"at step {step} "):  # and left again
        run(path, again, resume=True)
    assert (again.games, again.info["step"]) == (2, step)
    run(path, resume=True)
    assert rows(path) == rows(whole)
    assert (path / "model.pt").read_text() == (whole / "model.pt").read_text()
    assert (path / "best.pt").read_text() == (whole / "best.pt").read_text()


def test_the_time_of_an_evaluation_that_was_left_is_none_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("evaluation.runs.clock.time.perf_counter", lambda: now[0])

    def slow() -> None:
        now[0] += 600.0
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", At(do=slow, in_game=2))
    run(tmp_path / "run", resume=True)
    assert max(row.wall_s for row in read_metrics(tmp_path / "run")) == 0


def test_a_closed_terminal_may_send_its_signal_twice(whole: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="at step 20 "):
        run(tmp_path / "run", At(20, twice), checkpoint_interval=10**9)
    run(tmp_path / "run", resume=True)
    assert rows(tmp_path / "run") == rows(whole)


def test_under_nohup_a_closed_terminal_is_nothing(whole: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(tmp_path / "run", At(20, lambda: os.kill(os.getpid(), signal.SIGHUP)))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert rows(tmp_path / "run") == rows(whole)


def test_a_display_that_is_printing_when_the_signal_comes_is_no_fault(tmp_path: Path) -> None:
    """Python's streams cannot be written from within a write: RuntimeError, "reentrant call"."""

    class Reentrant(At):
        def message(self, text: str) -> None:
            if "stopping" in text:
                raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    with pytest.raises(Interrupted):
        run(tmp_path / "run", Reentrant(20, lambda: os.kill(os.getpid(), signal.SIGINT)))


def test_watchers_hear_where_a_run_is_by_time_and_where_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = At(60, stop(Killed()))
    with pytest.raises(Killed):
        run(tmp_path / "run", watcher)
    assert "step" not in watcher.info
    monkeypatch.setattr(loop, "TELL_EVERY_S", 0.0)
    watcher = At()
    run(tmp_path / "run", watcher, resume=True)
    assert watcher.info["step"] == 40
    assert watcher.info["wall_s"] > 0
    assert [at for what, at in watcher.told if what == "advanced"] == list(range(44, 101, 4))


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", At(40, stop(Killed())))

    def load(self: Walk, folder: Path) -> None:
        raise ValueError("the replay has 250 slots, expected 125000")

    monkeypatch.setattr(Walk, "load", load)
    with pytest.raises(UserError, match=r"step-20 does not fit .*250 slots.* go on with the version that .*provenance"):
        run(tmp_path / "run", resume=True)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", At(20, twice), checkpoint_interval=10**9)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_checkpoints_come_by_the_clock_too(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    saved: list[int] = []
    real = RunFolder.save_checkpoint

    def save(self: RunFolder, step: int, write: Any) -> Any:
        saved.append(step)
        now[0] += 1.0  # seconds that saving takes
        return real(self, step, write)

    def walk(self: Walk) -> dict[str, dict[str, float]]:
        now[0] += 30.0
        return advance(self)

    advance = Walk.advance
    monkeypatch.setattr(Walk, "advance", walk)
    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    run(tmp_path / "a", checkpoint_interval=10**9, checkpoint_minutes=2.0)
    assert saved == [16, 32, 48, 64, 80, 96, 100]  # every fourth advance of 30 s, and at the end
    saved.clear()
    monkeypatch.setattr(loop, "SAVING_SHARE", 1 / 200)  # never more than that: 1 s in 200 s
    run(tmp_path / "b", checkpoint_interval=10**9, checkpoint_minutes=2.0)
    assert saved == [16, 44, 72, 100]
    assert rows(tmp_path / "a") == rows(tmp_path / "b") == rows(whole)


def test_the_time_that_resuming_takes_is_none_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(80, stop(Killed())))
    real = Walk.load
    monkeypatch.setattr(Walk, "load", lambda self, folder: (time.sleep(0.6), real(self, folder))[1])
    run(path, resume=True)
    assert max(row.wall_s for row in read_metrics(path)) < 0.5


def test_watchers_with_a_state_have_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names of their own, not at, at, best_model"):
        run(tmp_path / "run", At(), At())
    with pytest.raises(Killed):  # the lock is free, also after a callback that fails as it closes
        run(tmp_path / "other", At(4, stop(Killed())))
    run(tmp_path / "other", resume=True)


def test_what_changes_no_number_may_change_on_a_resume(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(40, stop(Killed())))
    with pytest.raises(UserError, match=r"rate 0\.5 -> 0\.25"):
        run(path, resume=True, rate=0.25)
    run(path, resume=True, checkpoint_interval=64, checkpoint_minutes=3.0)
    assert rows(path) == rows(whole)
    with pytest.raises(RunFinishedError):
        run(path, resume=True)


def test_a_run_that_fails_keeps_its_checkpoint(whole: Path, tmp_path: Path) -> None:
    path, watcher = tmp_path / "run", At(60, stop(ValueError("a defect")))
    with pytest.raises(ValueError, match="a defect"):
        run(path, watcher)
    assert watcher.told[-1] == ("close", False)
    assert not is_finished(path)
    run(path, resume=True)
    assert rows(path) == rows(whole)
