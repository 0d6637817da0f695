"""Running a study: plan, carry out, take in the results, plan again, until nothing is left that can be done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from evaluation.cli.errors import UserError
from evaluation.study.engines.base import Engine, Job, Outcome
from evaluation.study.plan import Plan, PlannedRun, Planner
from evaluation.study.program import Programs
from evaluation.study.progress import Progress, State
from evaluation.study.run_id import RunId
from evaluation.study.search import Search, Storage
from evaluation.study.study_folder import StudyFolder

WAIT_S = 0.5  # between two looks at the display while nothing ends


class Display(Protocol):
    """What is shown while a study runs; `status` has the terminal's."""

    def update(self, progress: Progress) -> None: ...

    def ended(self, outcome: Outcome, progress: Progress) -> None: ...

    def message(self, text: str) -> None: ...


@dataclass
class Driver:
    """One session of a study."""

    folder: StudyFolder
    planner: Planner
    engine: Engine
    programs: Programs  # the trainers as `program.resolve_all` gives them
    display: Display
    threads: int = 1  # of each run
    retries: int = 1  # attempts after a failure that a new attempt may not meet (a kill, a crash)
    storage: Storage | None = None  # where the searches' trials are written besides
    parts: set[str] | None = None  # only these parts; None: all

    def __post_init__(self) -> None:
        self.attempts: Counter[RunId] = Counter()
        self.progress = Progress(Plan(), self.folder.study.seconds)

    def run(self) -> Progress:
        """Carry out everything that is missing; failed runs of earlier sessions are tried again."""
        self._replan()
        self._store(beginning=True)
        progress = self.progress
        while True:
            for run in self._todo():
                if not self.engine.free():
                    break
                self._start(run)
            if not progress.started:
                self._store()
                return progress
            for outcome in self.engine.wait(WAIT_S):
                self._take_in(outcome)
            self.display.update(progress)

    def _replan(self) -> None:
        plan = self.planner.plan(self.folder.objective)
        self.folder.record(plan.runs)
        self.progress.replan(plan)
        for run in plan.runs:
            if self.folder.summary(run.id) is not None:
                self.progress.states[run.id] = State.FINISHED
            elif run.id in self.folder.damaged and self.progress.states[run.id] is not State.FAILED:
                self.progress.states[run.id] = State.FAILED
                self.display.message(f"failed: {self.folder.failures[str(run.id)]}")

    def _store(self, searches: Iterable[Search] | None = None, beginning: bool = False) -> None:
        """Bring the database of the searches (None: of all) up to date. Once the study has begun, the run folders are
        what counts, and a later attempt writes what is missing."""
        if self.storage is None:
            return
        try:
            for search in self.planner.searches.values() if searches is None else searches:
                self.storage.add(self.folder.study.name, search)
        except UserError as error:
            if beginning:
                raise
            self.display.message(f"{error}; the study goes on")

    def _todo(self) -> list[PlannedRun]:
        missing = set(self.progress.of(State.MISSING, parts=self.parts))
        return [run for run in self.progress.plan.runs if run.id in missing]

    def _start(self, run: PlannedRun) -> None:
        self.attempts[run.id] += 1
        self.progress.states[run.id] = State.RUNNING
        self.progress.started[run.id] = time.monotonic()
        folder, log = self.folder.run(run.id).absolute(), self.folder.log(run.id).absolute()
        self.engine.submit(Job(run.id, self.programs[run.id.task], tuple(run.arguments()), folder, log, self.threads))

    def _take_in(self, outcome: Outcome) -> None:
        progress, run = self.progress, outcome.run
        del progress.started[run]
        if outcome.failure is None and self.folder.summary(run) is None:
            why = self.folder.failures.get(str(run), "it ended without a summary")
            outcome = replace(outcome, failure=why, final=True)
        if outcome.failure is None:
            progress.states[run] = State.FINISHED
            progress.seconds.setdefault(run.task, []).append(outcome.seconds)
            self.folder.fail(run, None)
        elif outcome.final or self.attempts[run] > self.retries:
            progress.states[run] = State.FAILED
            self.folder.fail(run, outcome.failure)
        else:
            progress.states[run] = State.MISSING  # to be tried again
        self.display.ended(outcome, progress)
        if run.arm in self.planner.searches:
            self._advance(self.planner.searches[run.arm])

    def _advance(self, search: Search) -> None:
        """Take a run's end into its search. A plan of thousands of runs takes a second: it is made anew only where it
        changes."""
        before = search.extent
        search.advance(self.folder.objective)
        if search.extent == before:
            return
        if len(search.trials) > before.trials or search.finished:
            self._replan()
        self._store([search])
