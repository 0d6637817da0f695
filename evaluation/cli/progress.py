"""Progress of a command that is not a run, on stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from evaluation.cli.errors import tell

TELL_EVERY_S = 10.0  # between two lines of progress, where stderr is no terminal


@contextlib.contextmanager
def progress(what: str, total: int | None, doing: str = "playing", things: str = "games") -> Iterator[Any]:
    """Show on stderr how many games are done: a bar on a terminal, else a line now and then. Yields what is told.

    Args:
        total: how many there are; None: nobody knows.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console, heading = Console(stderr=True), f"{doing} {things if total is None else f'{total} {things}'}: {what}"
    if not console.is_terminal or console.is_dumb_terminal:
        tell(heading)
        told = [time.monotonic()]

        def line(done: int, games: int | None) -> None:
            if time.monotonic() - told[0] >= TELL_EVERY_S:
                told[0] = time.monotonic()
                tell(f"{done if games is None else f'{done}/{games}'} {things}")

        yield line
        return
    console.print(heading, highlight=False)
    columns = TextColumn(things), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, expand=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, games: bar.update(task, completed=done)
