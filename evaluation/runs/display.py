"""What a person sees of a training run: a live panel on a terminal, one line of key=value a log interval elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluation.runs.watchers import Watcher

NONE = "-"
HEAD = ("game", "task", "optimizer", "device", "precision", "protocol")  # what a run is, as far as it has them


def make_display(stream: TextIO | None = None) -> LiveDisplay | PlainDisplay:
    """The live display where `stream` (standard output by default) is a terminal, else plain lines."""
    console = Console(file=stream)
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(stream)


class Speed:
    """Steps per second and remaining time, over the last `window` updates.

    The speed counts training time only, as the metrics do; the remaining time is the clock's, evaluations included.
    """

    def __init__(self, total_steps: int, clock: Callable[[], float] = time.monotonic, window: int = 20) -> None:
        self._total = total_steps
        self._clock = clock
        self._points: deque[tuple[int, float, float]] = deque(maxlen=window)

    def add(self, step: int, training_s: float) -> None:
        """Note that `step` was reached after so many seconds of training."""
        self._points.append((step, training_s, self._clock()))

    @property
    def steps_per_s(self) -> float | None:
        """Environment steps per second of training; None before the second update."""
        return self._rate(1)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step; None before the second update."""
        rate = self._rate(2)
        return max(0, self._total - self._points[-1][0]) / rate if rate else None

    def _rate(self, column: int) -> float | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[0], self._points[-1]
        return (last[0] - first[0]) / seconds if (seconds := last[column] - first[column]) > 0 else None


class PlainDisplay(Watcher):
    """Lines for files and pipes: `step=5000 total=500000 steps_per_s=812 return=-20.4 ...`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def start(self, info: Mapping[str, Any]) -> None:
        self._info, self._speed = info, Speed(info["total_steps"])
        self._print("start " + _pairs({key: value for key, value in info.items() if key != "columns"}))

    def update(self, stats: Mapping[str, Any]) -> None:
        self._speed.add(stats["step"], stats["training_s"])
        line = {
            "step": stats["step"],
            "total": self._info["total_steps"],
            "steps_per_s": self._speed.steps_per_s,
            "eta_s": self._speed.eta_s,
            **{column.plain: stats.get(column.stat) for column in self._info["columns"] if column.plain is not None},
        }
        self._print(_pairs({key: value for key, value in line.items() if not _missing(value)}))

    def message(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveDisplay(Watcher):
    """A panel that stays at the bottom of the terminal; messages scroll above it.

    rich redraws it twice a second from a thread of its own, so the clock goes on while an evaluation runs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stats: dict[str, Any] = {}

    def start(self, info: Mapping[str, Any]) -> None:
        self._info, self._speed = info, Speed(info["total_steps"])
        self._started = time.monotonic()
        details = [f"{info['parameters']:,} parameters"] if "parameters" in info else []
        if "checkpoint_bytes" in info:
            details.append(f"a checkpoint takes {info['checkpoint_bytes'] / 1e9:.2f} GB")
        self._console.print(f"run folder {info.get('run_dir', NONE)}", highlight=False, soft_wrap=True)
        if details:
            self._console.print("; ".join(details), highlight=False)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2)
        self._live.start()

    def update(self, stats: Mapping[str, Any]) -> None:
        """Show new numbers; what is missing keeps its last value."""
        self._stats |= {key: value for key, value in stats.items() if not _missing(value)}
        self._speed.add(stats["step"], stats["training_s"])

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def close(self, finished: bool) -> None:
        """Leave the last numbers on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Panel:
        info, stats = self._info, self._stats
        step, total = stats.get("step", 0), info["total_steps"]
        eta = _duration(self._speed.eta_s)
        bar = progress_bar(total, step, f"{step:,}/{total:,} {100 * step / total:3.0f}%  ETA {eta}")

        numbers = Table.grid(expand=True, padding=(0, 1))
        for _ in range(3):
            numbers.add_column(style="dim", no_wrap=True)
            numbers.add_column(ratio=1, no_wrap=True)
        shown = [column for column in info["columns"] if column.live is not None]
        cells = {column.live: _number(stats.get(column.stat), column.format) for column in shown}
        cells["steps/s"] = _number(self._speed.steps_per_s, ",.0f")
        cells["elapsed"] = _duration(time.monotonic() - self._started)
        items = list(cells.items())
        for row in range(0, len(items), 3):
            numbers.add_row(
                *(cell for name, value in items[row : row + 3] for cell in (name, Text(value, style="bold")))
            )
        title = " · ".join(str(info[key]) for key in HEAD if key in info)
        seed = f" · seed {info['seed']}" if "seed" in info else ""
        # Three columns stay free for the "^C" that a terminal echoes: a wrapped line would upset the redrawing.
        width = max(20, self._console.width - 3)
        return Panel(Group(bar, numbers), title=f"{title}{seed}", title_align="left", width=width)


def progress_bar(total: int, completed: int, text: str) -> Table:
    """A bar over the whole width, and a text behind it."""
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=total, completed=completed), Text(text))
    return bar


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, form: str) -> str:
    return NONE if _missing(value) else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _pairs(values: dict[str, Any]) -> str:
    """`key=value` words: a line that grep and awk take apart; numbers with five digits, text without spaces."""
    return " ".join(f"{key}={_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value).replace(" ", "_")
