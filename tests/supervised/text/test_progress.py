"""What a preparation shows."""

from __future__ import annotations

import io

from rich.console import Console

from supervised.text.progress import LiveProgress, PlainProgress


def test_lines_now_and_then() -> None:
    said: list[str] = []
    seconds = [0.0]
    progress = PlainProgress(said.append, lambda: seconds[0])
    progress.start("encoding train", 4_508_785)
    for step in range(1, 31):
        seconds[0] = float(step)
        progress.advance(step * 25_000)
    progress.message("done")
    progress.close()
    assert said == [
        "encoding train: 4,508,785 pairs",
        *(f"encoding train: {step * 25_000:,}/4,508,785 pairs" for step in (10, 20, 30)),
        "done",
    ]


def test_a_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    progress = LiveProgress(Console(file=screen, force_terminal=True, width=80, color_system=None))
    progress.start("learning", 10)
    progress.start("encoding train", 200)
    progress.advance(50)
    progress.message("[a path] is shown as it is")
    progress.close()
    shown = screen.getvalue()
    assert "[a path] is shown as it is\n" in shown
    last = next(line for line in reversed(shown.splitlines()) if "encoding" in line)
    assert " 50/200 " in last
    assert "learning" not in last
