"""The terminal display and its plain form."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from evaluation.runs.display import LiveDisplay, PlainDisplay, Speed, make_display
from evaluation.runs.watchers import Column

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


def pairs(line: str) -> dict[str, str]:
    return dict(word.split("=") for word in line.split())


def test_plain_lines_are_keys_and_values() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.message("before the start")
    display.start(INFO)
    display.update(FIRST)
    display.update(SECOND)
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


@pytest.mark.parametrize("width", [80, 120])
def test_live_panel_fits_and_shows_everything(width: int) -> None:
    stream = Terminal()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=width, color_system=None))
    display.message("[before] the start")
    display.start(INFO)
    display.update(FIRST)
    display.update(SECOND)
    display.update({"step": 15_000, "training_s": 30.0, "recent_return": None})  # keeps the last values
    display.message("a [message] above")
    display.close(True)
    display.close(True)
    text = stream.getvalue()
    assert "[before] the start" in text
    assert "a [message] above" in text
    panel = text[text.rindex("╭") :]
    for part in (
        *("SpaceInvaders", "asgc", "cpu", "bf16", "classic", "seed 1", "15,000/10,000,000", "ETA"),
        *("-20.25", "123.40", "500", "0.01235", "3.12%", "0.800", "0.123", "elapsed"),
        "5%",  # the replay's fill: 10,000 of 200,000
    ):
        assert part in panel, part
    assert "…" not in panel
    assert all(len(line) == width - 3 for line in panel.splitlines() if line.startswith(("╭", "│", "╰")))


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
    speed = Speed(1000, clock=lambda: next(now), window=2)
    assert speed.steps_per_s is None
    assert speed.eta_s is None
    speed.add(100, 1.0)
    assert speed.steps_per_s is None
    speed.add(200, 2.0)
    speed.add(400, 4.0)  # the window holds the last two
    assert speed.steps_per_s == 100.0
    assert speed.eta_s == 600 / (200 / 40)
