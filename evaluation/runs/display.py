"""What a person sees of a training run: a live panel on a terminal, one line of key=value a log interval elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluation.cli.errors import reason, tell
from evaluation.runs.resources import human_bytes
from evaluation.runs.watchers import Evaluated, Watcher

NONE = "-"
HEAD = ("game", "task", "optimizer", "device", "precision", "protocol")  # what a run is, as far as it has them
NOT_PAIRS = ("columns", "wall_s")  # of a trainer's info
PLAIN_EVERY_S = 30.0  # between two plain lines, where a log interval takes longer


def make_display(stream: TextIO | None = None) -> LiveDisplay | PlainDisplay:
    """The live display where `stream` (standard output by default) is a terminal, else plain lines."""
    stream = stream or sys.stdout
    guarded = None if stream is None else cast(TextIO, GuardedStream(stream))  # None: closed before the program began
    console = Console(file=guarded)
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(guarded)


class GuardedStream:
    """A text stream whose reader may go away (`| head`, a terminal that is closed, a full disk).

    What is written from then on goes nowhere, and stderr is told once: a display may end, a run goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._open = True

    def write(self, text: str) -> int:
        if self._open:
            with self._guard():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._open:
            with self._guard():
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self._stream.closed:
                raise
            self._open = False
            # What is still buffered would raise again at exit (Python's documentation of SIGPIPE): send it nowhere.
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())
            tell(f"the display cannot be written any more ({reason(error)}): the run goes on without it")


class Speed:
    """Steps per second and remaining time, over the last points that were noted.

    The speed counts training time only, as the metrics do; the remaining time is the clock's, evaluations included, and
    looks further back, so that it has seen some.

    Args:
        spacing: seconds from point to point.
        window: points that the speed is taken over; `horizon`: the remaining time.
    """

    def __init__(
        self,
        total_steps: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        spacing: float = 1.0,
        window: int = 20,
        horizon: int = 600,
    ) -> None:
        self._total = total_steps
        self._clock = clock
        self._spacing = spacing
        self._window = window
        self._points: deque[tuple[int, float, float]] = deque(maxlen=horizon)

    def add(self, step: int, training_s: float) -> None:
        """Note that `step` was reached after so many seconds of training."""
        now = self._clock()
        if not self._points or now - self._points[-1][2] >= self._spacing:
            self._points.append((step, training_s, now))

    @property
    def steps_per_s(self) -> float | None:
        """Environment steps per second of training; None before the second point."""
        return self._rate(1, self._window)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step; None before the second point."""
        rate = self._rate(2, len(self._points))
        return max(0, self._total - self._points[-1][0]) / rate if rate else None

    def _rate(self, column: int, window: int) -> float | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[max(0, len(self._points) - window)], self._points[-1]
        return (last[0] - first[0]) / seconds if (seconds := last[column] - first[column]) > 0 else None


class _Display(Watcher):
    """Where a run is: what both displays know."""

    def start(self, info: Mapping[str, Any]) -> None:
        self._info, self._speed = info, Speed(info["total_steps"])
        self._step: int = info.get("step", 0)
        self._evaluation: tuple[int, int] | None = None  # games done and all, while one goes on

    def advanced(self, step: int, training_s: float, wall_s: float) -> None:
        self._step, self._evaluation = step, None
        self._speed.add(step, training_s)

    def evaluating(self, done: int, total: int) -> None:
        self._evaluation = done, total

    def evaluated(self, event: Evaluated) -> None:
        self._evaluation = None


class PlainDisplay(_Display):
    """Lines for files and pipes: `step=5000 total=500000 steps_per_s=812 return=-20.4 ...`; between them, where they
    are far apart, lines that say that the run is alive."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._printed = clock()

    def start(self, info: Mapping[str, Any]) -> None:
        super().start(info)
        self._print("start " + _pairs({key: value for key, value in info.items() if key not in NOT_PAIRS}))

    def advanced(self, step: int, training_s: float, wall_s: float) -> None:
        super().advanced(step, training_s, wall_s)
        self._now_and_then()

    def evaluating(self, done: int, total: int) -> None:
        super().evaluating(done, total)
        self._now_and_then()

    def update(self, stats: Mapping[str, Any]) -> None:
        shown = {column.plain: stats.get(column.stat) for column in self._info["columns"] if column.plain is not None}
        self._print_numbers(shown)

    def message(self, text: str) -> None:
        self._print(text)

    def _now_and_then(self) -> None:
        if self._clock() - self._printed >= PLAIN_EVERY_S:
            self._print_numbers({})

    def _print_numbers(self, shown: Mapping[str, Any]) -> None:
        line = {"step": self._step, "total": self._info["total_steps"]}
        if self._evaluation is None:
            line |= {"steps_per_s": self._speed.steps_per_s, "eta_s": self._speed.eta_s, **shown}
        else:
            line["evaluating"] = "{}/{}".format(*self._evaluation)
        self._print(_pairs({key: value for key, value in line.items() if not _missing(value)}))

    def _print(self, line: str) -> None:
        self._printed = self._clock()
        print(line, file=self._stream, flush=True)


class LiveDisplay(_Display):
    """A panel that stays at the bottom of the terminal; messages scroll above it.

    rich redraws it twice a second from a thread of its own, so the clock goes on whatever the run does.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stats: Mapping[str, Any] = {}

    def start(self, info: Mapping[str, Any]) -> None:
        super().start(info)
        # The run's seconds and when they were that; a resumed run's do not go on before it does.
        self._wall_s: float = info.get("wall_s", 0.0)
        self._wall_at = None if "wall_s" in info else time.monotonic()
        details = [f"{info['parameters']:,} parameters"] if "parameters" in info else []
        if "checkpoint_bytes" in info:
            details.append(f"a checkpoint takes {human_bytes(info['checkpoint_bytes'])}")
        self._console.print(f"run folder {info.get('run_dir', NONE)}", highlight=False, soft_wrap=True)
        if details:
            self._console.print("; ".join(details), highlight=False)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2)
        self._live.start()

    def advanced(self, step: int, training_s: float, wall_s: float) -> None:
        super().advanced(step, training_s, wall_s)
        self._wall_s, self._wall_at = wall_s, time.monotonic()

    def update(self, stats: Mapping[str, Any]) -> None:
        """Show the numbers of an interval; what it has not shows as missing, not as an older one."""
        self._stats = stats

    def evaluated(self, event: Evaluated) -> None:
        super().evaluated(event)
        self._stats = {**self._stats, "evaluation": event.score}

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def close(self, finished: bool) -> None:
        """Leave the last numbers on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Panel:
        # Three columns stay free for the "^C" that a terminal echoes: a wrapped line would upset the redrawing.
        width = max(20, self._console.width - 3)
        info = self._info
        seed = [f"seed {info['seed']}"] if "seed" in info else []
        head = " · ".join([*(str(info[key]) for key in HEAD if key in info), *seed])
        parts = [self._progress(width - 4), _grid(self._cells(), width - 4)]
        if len(head) > width - 6:  # a title would be cut
            return Panel(Group(Text(head), *parts), width=width)
        return Panel(Group(*parts), title=head, title_align="left", width=width)

    def _progress(self, width: int) -> RenderableType:
        """The bar, and where the run is: behind it or, where that leaves too little of it, below."""
        step, total = self._step, self._info["total_steps"]
        words = f"{step:,}/{total:,} {100 * step / total:3.0f}%  "
        if self._evaluation is None:
            words += f"ETA {_duration(self._speed.eta_s)}"
        else:
            words += "evaluating {}/{}".format(*self._evaluation)
        if len(words) + 10 <= width:
            return progress_bar(total, step, words)
        lines = Table.grid(expand=True)  # a bar alone does not end its line
        lines.add_row(ProgressBar(total=total, completed=step))
        lines.add_row(Text(words))
        return lines

    def _cells(self) -> dict[str, str]:
        """What is shown by name. During an evaluation the numbers of the training are old ones."""
        stats = self._stats if self._evaluation is None else {}
        shown = [column for column in self._info["columns"] if column.live is not None]
        cells = {column.live: _number(stats.get(column.stat), column.format) for column in shown}
        cells["steps/s"] = _number(self._speed.steps_per_s if self._evaluation is None else None, ",.0f")
        since = 0.0 if self._wall_at is None else time.monotonic() - self._wall_at
        cells["elapsed"] = _duration(self._wall_s + since)
        return cells


def progress_bar(total: int, completed: int, text: str) -> Table:
    """A bar over the whole width, and a text behind it."""
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    bar.add_row(ProgressBar(total=total, completed=completed), Text(text))
    return bar


def _grid(cells: Mapping[str, str], width: int) -> Table:
    """Names and values in as many columns, three at most, as fit into `width` uncut."""
    most = max(map(len, cells)), max(max(map(len, cells.values())), 8)
    columns = max(1, min(3, (width + 1) // (sum(most) + 3)))
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in range(columns):
        grid.add_column(style="dim", no_wrap=True, min_width=most[0])
        grid.add_column(ratio=1, overflow="fold")
    items = list(cells.items())
    for row in range(0, len(items), columns):
        grid.add_row(*(cell for name, value in items[row : row + columns] for cell in (name, Text(value, "bold"))))
    return grid


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
