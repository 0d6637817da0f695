"""What is done of a study: tables for a person, lines for a log."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evaluation.files import tail
from evaluation.runs.closing import Closing
from evaluation.runs.display import progress_bar
from evaluation.runs.run_folder import METRICS
from evaluation.study.engines.base import Outcome
from evaluation.study.progress import UNFINISHED, Progress, State
from evaluation.study.study_folder import StudyFiles

SHOWN_FAILURES = 10


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def page(progress: Progress, files: StudyFiles) -> Group:
    """What `asgc-eval study status` shows: the table, what runs, what failed, what is left to do."""
    left = progress.of(*UNFINISHED)
    seconds, unknown = progress.cost(left)
    known = "cost unknown" if unknown else f"about {duration(seconds)} of one core"
    running = [f"{run}: {_position(files.run(run))}" for run in progress.of(State.RUNNING)]
    failed = [f"failed: {run}: {files.failures.get(str(run), '')}" for run in progress.of(State.FAILED)]
    more = [f"... and {len(failed) - SHOWN_FAILURES} more failed runs"] if len(failed) > SHOWN_FAILURES else []
    return Group(table(progress), *running, *failed[:SHOWN_FAILURES], *more, f"{len(left)} runs to do, {known}")


def table(progress: Progress) -> Table:
    """Part x optimizer: how many runs are in which state."""
    counts: dict[tuple[str, str], Counter[State]] = {}
    for run, state in progress.states.items():
        counts.setdefault((run.part, run.optimizer), Counter())[state] += 1
    total = Counter(progress.states.values())
    shown = [state for state in State if total[state] or state is State.FINISHED]
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "optimizer"):
        result.add_column(name, no_wrap=True)
    for name in ("runs", *shown):
        result.add_column(name, justify="right")
    previous = None
    for (part, optimizer), count in [*counts.items(), (("[bold]all[/]", ""), total)]:
        if count is total:
            result.add_section()
        cells = [str(count[state] or "·") for state in shown]
        result.add_row(part if part != previous else "", optimizer, str(count.total()), *cells)
        previous = part
    return result


def _position(run: Path) -> str:
    try:
        rows = [row for row in tail(run / METRICS).splitlines()[1:] if row.endswith("}")]
        return f"step {max(json.loads(row)['step'] for row in rows):,}"
    except (OSError, ValueError, KeyError):
        return "starting"


class TerminalDisplay(Closing):
    """A live panel on a terminal; a line for each finished run elsewhere."""

    def __init__(self, files: StudyFiles, jobs: int) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._files, self._jobs = files, jobs
        self._live: Live | None = None
        if self._console.is_terminal:
            # No refreshing thread: the engine forks, and update() comes twice a second.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def close(self) -> None:
        """Leave the last panel on the screen."""
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Draw the panel again."""
        if self._live is not None:
            self._live.update(self._render(progress), refresh=True)

    def ended(self, outcome: Outcome, progress: Progress) -> None:
        """A line for a run that failed, and without a terminal for every run."""
        run = outcome.run
        if outcome.failure is not None:
            again = "" if progress.states[run] is State.FAILED else " (trying again)"
            self.message(f"failed{again}: {run}: {outcome.failure}")
        elif self._live is None:
            score, count = self._files.objective(run, "final"), len(progress.of(State.FINISHED))
            left = f"{outcome.seconds:.0f} s, {self._left(progress)} left"
            self.message(f"{count}/{len(progress.states)} {run} final={score:.4g} {left}")

    def message(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _left(self, progress: Progress) -> str:
        seconds, unknown = progress.cost(progress.of(State.RUNNING, State.MISSING))
        return "time unknown" if unknown else duration(seconds / self._jobs)

    def _render(self, progress: Progress) -> Group:
        finished = len(progress.of(State.FINISHED))
        total = len(progress.states)
        bar = progress_bar(total, finished, f"{finished}/{total} runs, {self._left(progress)} left")
        now = time.monotonic()
        lines = [Text(f"{run} {duration(now - start)}", style="dim") for run, start in progress.started.items()]
        return Group(table(progress), bar, *lines[:8])
