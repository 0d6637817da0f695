"""What a run meets around its loop: a disk that is full, a damaged checkpoint, code of the user's, the C library."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import users
from evaluation.runs.run_folder import load_summary
from evaluation.runs.watchers import Watcher
from tests.evaluation.runs.test_loop import At, Killed, Walk, rows, run, stop, whole

__all__ = ["whole"]  # the fixture


class Full:
    """A disk that is full from one checkpoint to another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
        self.saves = Walk.save

        def save(walk: Walk, folder: Path) -> None:
            if walk.step in steps:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.saves(walk, folder)

        monkeypatch.setattr(Walk, "save", save)


def test_a_full_disk_costs_checkpoints_but_not_the_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(monkeypatch, range(30, 70))
    path, at = tmp_path / "run", At()
    saved: list[tuple[int, str]] = []
    at.saved = lambda step, folder: saved.append((step, folder.name))  # type: ignore[method-assign]
    run(path, at)
    warnings = [text for kind, text in at.told if kind == "message" and text.startswith("warning")]
    assert [text.split(" (")[0] for text in warnings] == [f"warning: no checkpoint at step {s}" for s in (40, 60)]
    assert "(No space left on device): the run goes on, that of step 20 is intact; free some space" in warnings[0]
    assert [step for step, _ in saved] == [20, 80, 100]
    assert rows(path) == rows(whole)


def test_after_a_full_disk_the_last_good_checkpoint_is_gone_on_from(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(monkeypatch, range(30, 70))
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(60, stop(Killed())))
    at = At()
    run(path, at, resume=True)
    assert ("message", "resumed at step 20") in at.told
    assert rows(path) == rows(whole)


def test_a_signal_on_a_full_disk_says_that_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Full(monkeypatch, range(30, 200))
    with pytest.raises(UserError, match=r"cannot write the checkpoint of step 60 .*\(No space left on device.*step-20"):
        run(tmp_path / "run", At(60, lambda: signal.raise_signal(signal.SIGINT)))


def test_a_best_model_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Walk.save_model

    def save_model(walk: Walk, path: Path) -> None:
        if walk.step == 60 and "best" in path.name:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
        model(walk, path)

    monkeypatch.setattr(Walk, "save_model", save_model)
    at = At()
    run(tmp_path / "run", at)
    warnings = [text for kind, text in at.told if kind == "message" and text.startswith("warning")]
    assert len(warnings) == 1
    assert "best.pt cannot be written" in warnings[0]
    assert "that of step 32 stays" in warnings[0]


def test_what_the_users_code_raises_is_one_line_and_the_run_is_saved(whole: Path, tmp_path: Path) -> None:
    def fail() -> None:
        with users("callback c: its update"):
            raise KeyError("gone")

    path = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"callback c: its update failed: KeyError: 'gone' \(.*test_loop_faults.py:.*\)"
    ) as caught:
        run(path, At(60, fail))
    assert "saved at step 60; go on with: asgc-rl train --resume" in str(caught.value)
    assert "in fail" in (path / "traceback.txt").read_text()
    run(path, At(), resume=True)
    assert rows(path) == rows(whole)


class Fails(Watcher):
    """Raises when it is told something for the n-th time, as a callback of the user's."""

    def __init__(self, event: str, call: int) -> None:
        def tell(*arguments: Any) -> None:
            self.left -= 1
            if self.left == 0:
                with users(f"callback c: its {event}"):
                    raise KeyError("gone")

        self.left = call
        setattr(self, event, tell)


@pytest.mark.parametrize(
    ("event", "call"),
    [
        *(("shifted", 1), ("logged", 2), ("update", 3), ("advanced", 4), ("stepped", 12), ("message", 2)),
        *(("evaluated", 1), ("evaluated", 2), ("evaluating", 1), ("evaluating", 5), ("saved", 1), ("saved", 4)),
    ],
)
def test_wherever_a_callback_raises_the_resumed_run_is_the_uninterrupted_one(
    whole: Path, tmp_path: Path, event: str, call: int
) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match=rf"callback c: its {event} failed: .*; saved at step \d+; go on with"):
        run(path, Fails(event, call))
    run(path, resume=True)
    assert rows(path) == rows(whole)
    for name in ("best.pt", "model.pt"):
        assert (path / name).read_text() == (whole / name).read_text()


def test_a_callback_that_raises_in_the_last_evaluation_does_not_undo_the_run(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match=r"its evaluated failed: .*; the run is finished all the same$"):
        run(path, Fails("evaluated", 4))
    assert rows(path) == rows(whole)
    assert (path / "model.pt").read_text() == (whole / "model.pt").read_text()
    assert load_summary(path)["was_final"]


@pytest.mark.parametrize(
    ("step", "words"), [(52, "the checkpoint of step 40 stands"), (8, "there is none before it")], ids=["52", "8"]
)
def test_the_middle_of_a_step_is_not_saved(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, words: str
) -> None:
    real, path = Walk.advance, tmp_path / "run"

    def advance(walk: Walk) -> Any:
        if walk.step == step:
            walk.place, walk.midway = -1.0, True  # type: ignore[attr-defined]
            with users("the maze: its step"):
                raise KeyError("gone")
        return real(walk)

    with monkeypatch.context() as patch:
        patch.setattr(Walk, "advance", advance)
        left = rf"the maze: its step failed: .*; step {step} was left in its middle and is not saved: {words}; go on"
        with pytest.raises(UserError, match=left):
            run(path)
    run(path, resume=True)
    assert rows(path) == rows(whole)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"x" * len(data), lambda data: b""]
)
def test_of_a_damaged_newest_checkpoint_the_one_before_is_gone_on_from(
    whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(60, stop(Killed())))
    newest = sorted((path / "checkpoints").iterdir())[-1]
    state = newest / "state.pt"
    state.write_bytes(damage(state.read_bytes()))
    at = At()
    run(path, at, resume=True)
    told = [text for kind, text in at.told if kind == "message"]
    assert next(text for text in told if "damaged" in text).startswith(f"checkpoint {newest.name} is damaged (")
    assert "resumed at step 20" in told
    assert rows(path) == rows(whole)


def test_where_all_checkpoints_are_damaged_one_line_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, At(60, stop(Killed())))
    for folder in (path / "checkpoints").iterdir():
        (folder / "trail.npy").write_bytes(b"garbage")
    with pytest.raises(UserError, match="damaged") as caught:
        run(path, At(), resume=True)
    assert "\n" not in str(caught.value)


SMALL_DISK = """
import sys, subprocess
from pathlib import Path
home = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", home], capture_output=True).returncode:
    sys.exit(77)
from evaluation.runs.run_folder import load_summary
from evaluation.runs.watchers import Watcher
from tests.evaluation.runs.test_loop import At, rows, run
filler = home / "filler"
def fill():  # another program takes all, to the last byte
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
at = At()
at.stepped = lambda step, result: fill() if 36 <= step < 76 else filler.unlink() if step == 76 else None
run(home / "run", at)
print(*[text for kind, text in at.told if kind == "message"], sep="\\n")
print(rows(home / "run"))
"""


def test_on_a_disk_that_really_is_full_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("this user may not mount a tmpfs")
    assert done.returncode == 0, done.stderr
    *messages, metrics = done.stdout.splitlines()
    warnings = [line for line in messages if line.startswith("warning")]
    assert any("no checkpoint at step 40" in line for line in warnings)
    assert metrics == repr(rows(whole))


def test_what_a_callback_raises_at_the_very_end_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that is closed may have something to tell; the run is finished by then."""

    def close(walk: Walk) -> None:
        walk.closed = True
        walk.everyone.message("where the time went")

    class Reads(Watcher):
        def message(self, text: str) -> None:
            with users("callback c: its message"):
                if text == "where the time went":
                    raise ValueError("what?")

    monkeypatch.setattr(Walk, "close", close)
    with pytest.raises(UserError, match=r"callback c: its message.*what"):
        run(tmp_path / "run", Reads())
    assert load_summary(tmp_path / "run")["steps"] == 100


def test_a_run_keeps_the_memory_that_it_frees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr("evaluation.runs.loop.keep_freed_memory", lambda: told.append(True))
    run(tmp_path / "run")
    assert told == [True]
