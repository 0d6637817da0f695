"""What is done of a study: tables for a person, lines for a log."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evaluation.runs.lock import is_held
from evaluation.runs.run_folder import CONFIG, LOCK, METRICS
from evaluation.study.cost import Cost, cost, seconds_per_run
from evaluation.study.driver import Progress
from evaluation.study.engines.jobs import Outcome
from evaluation.study.plan import PlannedRun, Planner
from evaluation.study.spec import Study
from evaluation.study.study_folder import Results, begun_options, read_failed

STATES = ("finished", "running", "interrupted", "failed", "missing")
SHOWN_FAILURES = 10
TAIL = 4096  # bytes of metrics.jsonl that surely hold its last row


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def look(study: Study, path: Path) -> tuple[Progress, dict[str, str], Cost]:
    """The state of a study's folder, whoever runs it: progress, the state of each run, what is left to pay."""
    results = Results(path)
    plan = Planner(study, begun_options(path)).plan(results.objective)
    failed = read_failed(path)
    states = {run.id: _state(path / run.id, run.id, results, failed) for run in plan.runs}
    states |= dict.fromkeys(plan.waiting, "missing")
    progress = Progress(plan, finished={run for run, state in states.items() if state == "finished"}, failed=failed)
    left = [run for run, state in states.items() if state != "finished"]
    return progress, states, cost(left, seconds_per_run(plan, results, study.seconds))


def _state(folder: Path, run: str, results: Results, failed: dict[str, str]) -> str:
    if results.summary(run) is not None:
        return "finished"
    if (folder / LOCK).is_file() and is_held(folder / LOCK):
        return "running"
    if run in failed:
        return "failed"
    return "interrupted" if (folder / CONFIG).is_file() else "missing"


def table(states: dict[str, str]) -> Table:
    """Part x optimizer: how many runs are in which state."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for run, state in states.items():
        part, _, _, optimizer, *_ = run.split("/")
        counts.setdefault((part, optimizer), Counter())[state] += 1
    shown = [state for state in STATES if any(count[state] for count in counts.values()) or state == "finished"]
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "optimizer"):
        result.add_column(name, no_wrap=True)
    for name in ("runs", *shown):
        result.add_column(name, justify="right")
    previous = None
    for (part, optimizer), count in counts.items():
        cells = [str(count[state] or "·") for state in shown]
        result.add_row(part if part != previous else "", optimizer, str(count.total()), *cells)
        previous = part
    total = Counter(states.values())
    result.add_section()
    result.add_row("[bold]all[/]", "", str(total.total()), *(str(total[state] or "·") for state in shown))
    return result


def running_lines(states: dict[str, str], path: Path) -> list[str]:
    """One line for each run that goes on: how far it is and its latest score."""
    return [f"{run}: {_position(path / run)}" for run, state in states.items() if state == "running"]


def _position(run: Path) -> str:
    try:
        with (run / METRICS).open("rb") as file:
            file.seek(max(0, (run / METRICS).stat().st_size - TAIL))
            rows = file.read().splitlines()[1:]
        return f"step {max(json.loads(row)['step'] for row in rows if row.endswith(b'}')):,}"
    except (OSError, ValueError, KeyError):
        return "starting"


def failure_lines(failed: dict[str, str]) -> list[str]:
    """The first failures with their reasons."""
    lines = [f"failed: {run}: {why}" for run, why in list(failed.items())[:SHOWN_FAILURES]]
    return lines + (
        [f"... and {len(failed) - SHOWN_FAILURES} more failed runs"] if len(failed) > SHOWN_FAILURES else []
    )


class TerminalDisplay:
    """A live panel on a terminal; a line for each finished run elsewhere."""

    def __init__(self, study: Study, results: Results, jobs: int, file: TextIO | None = None) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False)
        self._study, self._results, self._jobs = study, results, jobs
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> TerminalDisplay:
        if self._console.is_terminal:
            # No refreshing thread: the engine forks, and update() comes twice a second.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Draw the panel again."""
        if self._live is not None:
            self._live.update(self._render(progress), refresh=True)

    def ended(self, run: PlannedRun, outcome: Outcome, progress: Progress) -> None:
        """A line for a run that failed, and without a terminal for every run."""
        count = f"{len(progress.finished)}/{progress.total}"
        if outcome.failure is not None:
            again = "" if run.id in progress.failed else " (trying again)"
            self._console.print(f"failed{again}: {run.id}: {outcome.failure}", markup=False, soft_wrap=True)
        elif self._live is None:
            score = self._results.objective(run.id, "final")
            left = self._left(progress)
            self._console.print(
                f"{count} {run.id} final={score:.4g} {outcome.seconds:.0f} s, {left} left", markup=False, soft_wrap=True
            )

    def message(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _left(self, progress: Progress) -> str:
        known = {task: sum(values) / len(values) for task, values in progress.seconds.items()}
        todo = [
            run.id for run in progress.plan.runs if run.id not in progress.finished and run.id not in progress.failed
        ]
        left = cost([*todo, *progress.plan.waiting], {**self._study.seconds, **known})
        return "time unknown" if left.unknown else duration(left.wall(self._jobs))

    def _render(self, progress: Progress) -> Group:
        states = {run.id: "missing" for run in progress.plan.runs} | dict.fromkeys(progress.plan.waiting, "missing")
        states |= dict.fromkeys(progress.failed, "failed") | dict.fromkeys(progress.running, "running")
        states |= dict.fromkeys(progress.finished, "finished")
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        text = f"{len(progress.finished)}/{progress.total} runs, {self._left(progress)} left"
        bar.add_row(ProgressBar(total=progress.total, completed=len(progress.finished)), Text(text))
        now = time.monotonic()
        lines = [Text(f"{run} {duration(now - start)}", style="dim") for run, start in progress.running.items()]
        return Group(table(states), bar, *lines[:8])
