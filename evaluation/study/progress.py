"""How far a study is, and what is left of it costs: the state of every run, for the driver, the displays, --dry-run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean

from evaluation.runs.lock import is_held
from evaluation.runs.run_folder import LOCK
from evaluation.study.plan import Plan, Planner
from evaluation.study.run_id import RunId
from evaluation.study.study_folder import StudyFiles


class State(StrEnum):
    """Of a run, in the order in which they are shown."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    MISSING = "missing"


UNFINISHED = tuple(state for state in State if state is not State.FINISHED)


@dataclass
class Progress:
    """How far a study is."""

    plan: Plan  # as the results determine it by now
    declared: Mapping[str, float]  # task -> seconds of a run, as the definition says
    states: dict[RunId, State] = field(default_factory=dict)  # those whose options wait for a search included
    started: dict[RunId, float] = field(default_factory=dict)  # running ones -> `time.monotonic()` at their start
    seconds: dict[str, list[float]] = field(default_factory=dict)  # task -> those that finished runs took

    def __post_init__(self) -> None:
        self.replan(self.plan)

    def of(self, *states: State, parts: set[str] | None = None) -> list[RunId]:
        """The runs in these states, in the plan's order; `parts`: only of these, None: of all."""
        found = [run for run, state in self.states.items() if state in states]
        return [run for run in found if parts is None or run.part in parts]

    def replan(self, plan: Plan) -> None:
        """Take a later plan; runs keep their states."""
        self.plan = plan
        ids = [run.id for run in plan.runs] + plan.waiting
        self.states = {run: self.states.get(run, State.MISSING) for run in ids}

    def cost(self, runs: Iterable[RunId]) -> tuple[float, list[str]]:
        """Seconds of runs on one core (or GPU share), by those of their tasks that have finished, else as declared;
        and the tasks of which neither is known."""
        known = {**self.declared, **{task: fmean(values) for task, values in self.seconds.items()}}
        tasks = [run.task for run in runs]
        return sum(known.get(task, 0.0) for task in tasks), sorted(set(tasks) - known.keys())


def look(planner: Planner, files: StudyFiles) -> Progress:
    """The state of a study's folder, whoever runs it."""
    progress = Progress(planner.plan(files.objective), planner.study.seconds)
    for run in progress.plan.runs:
        state = progress.states[run.id] = _state(run.id, files)
        summary = files.summary(run.id)
        if state is State.FINISHED and summary is not None and "wall_s" in summary:
            progress.seconds.setdefault(run.id.task, []).append(float(summary["wall_s"]))
    return progress


def _state(run: RunId, files: StudyFiles) -> State:
    if files.summary(run) is not None:
        return State.FINISHED
    lock = files.run(run) / LOCK
    if lock.is_file() and is_held(lock):
        return State.RUNNING
    if str(run) in files.failures:
        return State.FAILED
    return State.INTERRUPTED if files.has_begun(run) else State.MISSING
