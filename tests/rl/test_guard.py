"""Eyes on environments: what they raise, and what they do not answer."""

from __future__ import annotations

import threading
import time

import pytest

import rl.guard
from evaluation.cli.user_code import UserCodeError
from rl.guard import Guard


def hang() -> None:
    while True:
        time.sleep(0.01)


def test_what_is_raised_names_the_environment_the_call_and_the_place() -> None:
    guard = Guard("maze", float("inf"))
    with guard.call("reset"):
        pass
    words = r"^maze: its step \(call 2\) failed: ValueError: no way \(.*test_guard.py:"
    with pytest.raises(UserCodeError, match=words), guard.call("step"):
        raise ValueError("no way")


def test_a_late_answer_is_told_and_the_call_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    patient = Guard("older", 60.0)
    time.sleep(0.1)  # the thread that looks has laid down for a second by now
    guard = Guard("maze", 0.2)
    with guard.call("step"):
        time.sleep(0.7)
    assert patient.calls == 0
    told = capsys.readouterr().err.splitlines()
    assert told
    assert told[0].startswith("maze has not answered for ")
    assert "--env.patience 0.2" in told[0]
    time.sleep(0.4)
    assert not capsys.readouterr().err, "nobody waits any more"


def test_a_call_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.guard, "GIVES_UP_AFTER", 3)
    guard = Guard("maze", 0.1)
    started = time.monotonic()
    with pytest.raises(UserCodeError, match=r"maze has not answered for .* in call 1: given up"), guard.call("step"):
        hang()
    assert time.monotonic() - started < 20


def test_in_another_thread_it_is_told_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rl.guard, "GIVES_UP_AFTER", 2)
    guard = Guard("maze", 0.1)

    def play() -> None:
        with guard.call("step"):
            time.sleep(0.8)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    assert "nothing here can end that" in capsys.readouterr().err
