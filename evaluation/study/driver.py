"""Running a study: plan, carry out, take in the results, plan again, until nothing is left that can be done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from evaluation.cli.errors import UserError
from evaluation.study.engines.jobs import Job, Outcome
from evaluation.study.engines.local import Engine
from evaluation.study.plan import Plan, PlannedRun, Planner
from evaluation.study.search import Storage
from evaluation.study.study_folder import LOGS, Results, StudyFolder

WAIT_S = 0.5  # between two looks at the display while nothing ends


class Display(Protocol):
    """What is shown while a study runs; `status` has the terminal's."""

    def update(self, progress: Progress) -> None:
        """Show how far it is."""
        ...

    def ended(self, run: PlannedRun, outcome: Outcome, progress: Progress) -> None:
        """A run ended."""
        ...

    def message(self, text: str) -> None:
        """Something a person should know."""
        ...


@dataclass
class Progress:
    """How far a study is: run ids by state, and the seconds that this session's finished runs took."""

    plan: Plan
    finished: set[str] = field(default_factory=set)
    running: dict[str, float] = field(default_factory=dict)  # id -> time.monotonic() at its start
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # task -> of each run

    @property
    def total(self) -> int:
        """All runs of the study, those whose options wait for a search included."""
        return len(self.plan.runs) + len(self.plan.waiting)


class Driver:
    """One session of a study.

    Args:
        folder: the study's folder, held.
        engine: carries out the runs.
        program: the trainer as `jobs.resolve_program` gives it.
        threads: of each run.
        retries: attempts after a failure that a new attempt may not meet (a kill, a crash).
        storage: where the searches' trials are written besides; None: nowhere.
        parts: only these parts; None: all.
    """

    def __init__(
        self,
        folder: StudyFolder,
        planner: Planner,
        engine: Engine,
        program: tuple[str, ...],
        display: Display,
        *,
        threads: int = 1,
        retries: int = 1,
        storage: Storage | None = None,
        parts: set[str] | None = None,
    ) -> None:
        self.folder, self.planner, self.engine, self.display = folder, planner, engine, display
        self._program, self._threads, self._retries = program, threads, retries
        self._storage, self._parts = storage, parts
        self._results = Results(folder.path)
        self._attempts: dict[str, int] = {}
        self.progress = Progress(Plan())

    def run(self) -> Progress:
        """Carry out everything that is missing; failed runs of earlier sessions are tried again."""
        self._replan()
        self._store()
        progress = self.progress
        while True:
            for run in self._todo():
                if not self.engine.free():
                    break
                self._start(run)
            if not progress.running:
                self._store_if_possible()
                return progress
            for outcome in self.engine.wait(WAIT_S):
                self._take_in(outcome)
            self.display.update(progress)

    def _replan(self) -> None:
        plan = self.planner.plan(self._results.objective)
        self.folder.record(plan.runs)
        self.progress.plan = plan
        self.progress.finished = {run.id for run in plan.runs if self._results.summary(run.id) is not None}
        self._by_id = {run.id: run for run in plan.runs}

    def _store(self) -> None:
        """Bring the database of the searches up to date."""
        if self._storage is not None:
            for search in self.planner.searches.values():
                self._storage.add(self.folder.study.name, search)

    def _store_if_possible(self) -> None:
        """The same in mid-study: the run folders are what counts, and a later attempt writes what is missing."""
        try:
            self._store()
        except UserError as error:
            self.display.message(f"{error}; the study goes on")

    def _todo(self) -> list[PlannedRun]:
        progress = self.progress
        return [
            run
            for run in progress.plan.runs
            if run.id not in progress.finished
            and run.id not in progress.running
            and run.id not in progress.failed
            and (self._parts is None or run.part in self._parts)
        ]

    def _start(self, run: PlannedRun) -> None:
        self._attempts[run.id] = self._attempts.get(run.id, 0) + 1
        self.progress.running[run.id] = time.monotonic()
        self.engine.submit(
            Job(
                id=run.id,
                program=self._program,
                arguments=tuple(run.arguments()),
                run=(self.folder.path / run.id).absolute(),
                log=(self.folder.path / LOGS / f"{run.id.replace('/', '__')}.log").absolute(),
                threads=self._threads,
            )
        )

    def _take_in(self, outcome: Outcome) -> None:
        progress, run = self.progress, self._by_id[outcome.id]
        del progress.running[outcome.id]
        if outcome.failure is None:
            progress.finished.add(outcome.id)
            progress.seconds.setdefault(run.task, []).append(outcome.seconds)
            self.folder.fail(outcome.id, None)
        elif outcome.final or self._attempts[outcome.id] > self._retries:
            progress.failed[outcome.id] = outcome.failure
            self.folder.fail(outcome.id, outcome.failure)
        self.display.ended(run, outcome, progress)
        if progress.plan.waiting and run.kind == "search":
            self._replan()
            self._store_if_possible()
