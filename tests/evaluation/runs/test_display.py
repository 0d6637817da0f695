"""The terminal display and its plain form."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation.runs.display import LiveDisplay, PlainDisplay, Speed, make_display
from evaluation.runs.watchers import Column, Evaluated

INFO: dict[str, Any] = {
    "game": "SpaceInvaders",
    "protocol": "classic",
    "optimizer": "asgc",
    "device": "cpu",
    "precision": "bf16",
    "seed": 1,
    "total_steps": 10_000_000,
    "run_dir": "runs/x",
    "parameters": 1_693_362,
    "checkpoint_bytes": 3.4e8,
    "columns": (
        Column("recent_return", "return", "return", ".2f"),
        Column("evaluation", "evaluation", "evaluation", ".2f"),
        Column("epsilon", "epsilon", "epsilon", ".3f"),
        Column("loss", "loss", "loss", ".4g"),
        Column("clipped", "clipped", "clipped", ".2%"),
        Column("replay", "replay", None, "d"),
        Column("q", None, "Q", ".3f"),
        Column("replay_share", None, "replay", ".0%"),
    ),
}
FIRST = {"step": 5000, "training_s": 10.0, "epsilon": 0.9, "replay": 5000, "recent_return": None, "loss": float("nan")}
SECOND = {
    "step": 10_000,
    "training_s": 20.0,
    "recent_return": -20.25,
    "evaluation": 123.4,
    "epsilon": 0.8,
    "loss": 0.0123456,
    "q": 0.1234,
    "clipped": 0.0312,
    "replay": 10_000,
    "replay_share": 0.05,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(display: LiveDisplay | PlainDisplay, stats: dict[str, Any]) -> None:
    """What the loop does at a log interval."""
    display.advanced(stats["step"], stats["training_s"], stats["training_s"] + 1)
    display.update(stats)


def panel_of(display: LiveDisplay, width: int = 80) -> str:
    """What the panel shows now."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(display._render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def cell(panel: str, name: str) -> str:
    """The value behind a name in a panel."""
    found = re.search(rf"\b{re.escape(name)} +(\S+)", panel)
    assert found, panel
    return found[1]


def pairs(line: str) -> dict[str, str]:
    return dict(word.split("=") for word in line.split())


def test_plain_lines_are_keys_and_values() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.message("before the start")
    display.start(INFO)
    show(display, FIRST)
    time.sleep(0.01)
    display._speed._spacing = 0.0
    show(display, SECOND)
    display.message("step 10,000: score 123.40")
    display.close(True)
    before, start, first, second, message = stream.getvalue().splitlines()
    assert before == "before the start"
    assert start.startswith("start game=SpaceInvaders ")
    # What is not known yet is left out.
    assert pairs(first) == {"step": "5000", "total": "10000000", "epsilon": "0.9", "replay": "5000"}
    values = pairs(second)
    assert (values["return"], values["evaluation"], values["clipped"]) == ("-20.25", "123.4", "0.0312")
    assert (values["steps_per_s"], values["loss"]) == ("500", "0.012346")
    assert float(values["eta_s"]) > 0
    assert message == "step 10,000: score 123.40"


@pytest.mark.parametrize("step", [0, 5_000_000, 9_999_984])
@pytest.mark.parametrize("width", [40, 80])
def test_a_bar_hides_no_number(width: int, step: int) -> None:
    """However far it is, and with the largest numbers."""
    display = live(width)
    display.start(INFO | {"step": step, "wall_s": 360_000.0})
    display._speed._points.extend([(step - 1, 0.0, 0.0), (step, 1e5, 1e5)])
    stats = {"recent_return": -123456.78, "loss": 1.2345e-05, "q": -12345.678, "epsilon": 1.0, "clipped": 1.0}
    display.update(stats)
    panel = panel_of(display, width)
    for words in (
        f"{step:,}/10,000,000",
        "ETA",
        "-123456.78",
        "1.234e-05",
        "-12345.678",
        "100.00%",
        "100:00:00",
        "seed 1",
    ):
        assert words in panel, panel
    assert "…" not in panel
    display.close(False)


@pytest.mark.parametrize("width", [40, 41, 60, 80, 120])
def test_live_panel_fits_and_shows_everything(width: int) -> None:
    stream = Terminal()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=width, color_system=None))
    display.message("[before] the start")
    display.start(INFO)
    display._speed._spacing = 0.0
    show(display, FIRST)
    time.sleep(0.01)
    show(display, SECOND)
    display.advanced(15_000, 30.0, 31.0)
    display.message("a [message] above")
    display.close(True)
    display.close(True)
    text = stream.getvalue()
    assert "[before] the start" in text
    assert "a [message] above" in text
    panel = text[text.rindex("╭") :]
    for part in (
        *("SpaceInvaders", "asgc", "cpu", "bf16", "classic", "seed", "15,000/10,000,000", "ETA"),
        *("-20.25", "123.40", "500", "0.01235", "3.12%", "0.800", "0.123", "elapsed"),
        "5%",  # the replay's fill: 10,000 of 200,000
    ):
        assert part in panel, part
    assert "…" not in panel
    assert all(len(line) == width - 3 for line in panel.splitlines() if line.startswith(("╭", "│", "╰")))


def live(width: int = 80) -> LiveDisplay:
    return LiveDisplay(Console(file=Terminal(), force_terminal=True, width=width, color_system=None))


def test_what_is_not_known_now_shows_as_missing_not_as_an_older_value() -> None:
    display = live()
    display.start(INFO)
    display._speed._spacing = 0.0
    show(display, FIRST)
    time.sleep(0.01)
    show(display, SECOND)
    assert (cell(panel_of(display), "loss"), cell(panel_of(display), "steps/s")) == ("0.01235", "500")
    display.evaluating(3, 10)
    panel = panel_of(display)
    assert "10,000/10,000,000" in panel
    assert "evaluating 3/10" in panel
    assert {cell(panel, name) for name in ("loss", "steps/s", "return", "Q", "epsilon")} == {"-"}
    assert "ETA" not in panel
    display.evaluated(Evaluated(10_000, 99.5, lambda path: None))
    panel = panel_of(display)
    assert (cell(panel, "evaluation"), cell(panel, "loss")) == ("99.50", "0.01235")
    display.update({**SECOND, "loss": float("nan"), "recent_return": None})
    assert (cell(panel_of(display), "loss"), cell(panel_of(display), "return")) == ("-", "-")
    display.close(False)


def test_the_panel_moves_with_every_step_not_with_the_log_interval() -> None:
    display = live()
    display.start(INFO)
    for step in (16, 32):
        display.advanced(step, 1.0, 2.0)
        assert f" {step}/10,000,000 " in panel_of(display)
    display.close(False)


def test_a_resumed_run_shows_its_step_and_all_its_seconds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("evaluation.runs.display.time.monotonic", lambda: now[0])
    display = live()
    display.start(INFO | {"step": 750_000, "wall_s": 3600.0})
    now[0] += 60.0  # while its environments are played again, which is none of the run's time
    panel = panel_of(display)
    assert "750,000/10,000,000   8%" in panel
    assert cell(panel, "elapsed") == "1:00:00"
    display.advanced(750_016, 3500.0, 3601.0)
    now[0] += 2.0  # a slow step
    assert cell(panel_of(display), "elapsed") == "1:00:03"
    display.close(False)


def test_plain_lines_come_by_time_too_where_a_log_interval_is_long() -> None:
    now = [0.0]
    stream = io.StringIO()
    display = PlainDisplay(stream, clock=lambda: now[0])
    display.start(INFO | {"step": 500, "wall_s": 7.0})
    for _ in range(100):
        now[0] += 1.0
        display.advanced(int(500 + now[0]), now[0], now[0])
    for done in range(40):
        now[0] += 1.0
        display.evaluating(done, 40)
    lines = stream.getvalue().splitlines()
    assert "step=500" in lines[0]
    assert "columns" not in lines[0]
    assert [pairs(line)["step"] for line in lines[1:]] == ["530", "560", "590", "600"]
    assert pairs(lines[-1])["evaluating"] == "19/40"


class Broken(Terminal):
    """A terminal or pipe that is gone."""

    def __init__(self, descriptor: int, error: type[Exception]) -> None:
        super().__init__()
        self.descriptor, self.error, self.tries = descriptor, error, 0

    def fileno(self) -> int:
        return self.descriptor

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error(5, "Input/output error")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_display_that_nobody_can_read_ends_and_the_run_does_not(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color" if terminal else "dumb")
    with (tmp_path / "pipe").open("wb") as file:
        stream = Broken(file.fileno(), OSError)
        display = make_display(stream)
        assert isinstance(display, LiveDisplay) is terminal
        display.message("one")
        display.start(INFO)
        show(display, FIRST)
        display.close(True)
        assert stream.tries == 1
        os.write(file.fileno(), b"what Python still had in its buffer")
    assert (tmp_path / "pipe").read_bytes() == b""  # went nowhere
    told = capsys.readouterr().err
    assert told == "the display cannot be written any more (Input/output error): the run goes on without it\n"


def test_a_stream_that_was_closed_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    display = make_display(stream)
    stream.close()
    display.message("one")
    monkeypatch.setattr("sys.stdout", None)  # `>&-`, in a program of the user's own
    display = make_display()
    display.start(INFO)
    display.message("two")
    display.close(True)


def test_a_panel_without_numbers_yet() -> None:
    stream = Terminal()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=80, color_system=None))
    display.start(INFO)
    display.close(True)
    assert "ETA -" in stream.getvalue()


def test_the_display_follows_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(make_display(Terminal()), LiveDisplay)
    assert isinstance(make_display(io.StringIO()), PlainDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(Terminal()), PlainDisplay)


def test_speed_counts_training_and_remaining_time_the_clock() -> None:
    now = iter([0.0, 40.0, 80.0])
    speed = Speed(1000, clock=lambda: next(now), window=2, horizon=2)
    assert speed.steps_per_s is None
    assert speed.eta_s is None
    speed.add(100, 1.0)
    assert speed.steps_per_s is None
    speed.add(200, 2.0)
    speed.add(400, 4.0)  # the window holds the last two
    assert speed.steps_per_s == 100.0
    assert speed.eta_s == 600 / (200 / 40)
