"""How far a preparation is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from evaluation.cli.errors import tell

PLAIN_EVERY_S = 10.0


class Silent:
    """Shows nothing: what a preparation tells, and nobody wants to hear."""

    def start(self, what: str, total: int) -> None:
        """A stage of `total` pairs begins."""

    def advance(self, done: int) -> None:
        """So many of the stage's pairs are done, those of an earlier process included."""

    def message(self, text: str) -> None:
        """Something that stays on the screen."""

    def close(self) -> None:
        """The end, however it comes."""


class PlainProgress(Silent):
    """Lines for files and pipes."""

    def __init__(self, write: Callable[[str], None] = tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock

    def start(self, what: str, total: int) -> None:
        self._what, self._total, self._told = what, total, self._clock()
        self._write(f"{what}: {total:,} pairs")

    def advance(self, done: int) -> None:
        if self._clock() - self._told >= PLAIN_EVERY_S:
            self._told = self._clock()
            self._write(f"{self._what}: {done:,}/{self._total:,} pairs")

    def message(self, text: str) -> None:
        self._write(text)


class LiveProgress(Silent):
    """A bar with the time that is left."""

    def __init__(self, console: Any) -> None:
        from rich import progress

        columns = progress.TextColumn("{task.description}"), progress.BarColumn(None), progress.MofNCompleteColumn()
        self._bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=console, expand=True)
        self._bar.start()
        self._task: progress.TaskID | None = None

    def start(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total)

    def advance(self, done: int) -> None:
        assert self._task is not None
        self._bar.update(self._task, completed=done)

    def message(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def make_progress() -> Silent:
    """The bar where standard error is a terminal, else lines."""
    from rich.console import Console

    from evaluation.runs.display import GuardedStream

    console = Console(file=GuardedStream(sys.stderr))  # type: ignore[arg-type]
    return LiveProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainProgress()
