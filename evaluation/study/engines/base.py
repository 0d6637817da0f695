"""The one interface of engines: jobs in, outcomes out. Each engine is a file beside this one.

An engine only carries out what it is given; what is to be run, and whether a failed run is tried again, is the
driver's (`evaluation.study.driver`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.runs.closing import Closing
from evaluation.runs.run_folder import CONFIG
from evaluation.study.run_id import RunId


@dataclass(frozen=True)
class Job:
    """A run to be carried out."""

    run: RunId
    program: tuple[str, ...]  # the trainer's command, ("asgc-rl",)
    arguments: tuple[str, ...]  # options of its `train`
    folder: Path
    log: Path  # where its output goes, appended
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)  # set for it besides

    def command(self) -> list[str]:
        """What is executed: a run folder that exists is resumed."""
        resume = ["--resume"] if (self.folder / CONFIG).is_file() else []
        return [*self.program, "train", f"--run-dir={self.folder}", *self.arguments, *resume]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `failure` is None for a finished one, else the reason in a line; `final` if a new attempt would
    meet the same."""

    run: RunId
    failure: str | None = None
    final: bool = False
    seconds: float = 0.0


class Engine(Closing, ABC):
    """Something that carries out jobs, up to `jobs` at a time. `close` ends at once what still runs; another time it
    goes on from its last checkpoint."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[RunId, Any] = {}  # what the engine knows a running job by

    def free(self) -> bool:
        """Whether there is room for another job."""
        return len(self._running) < self._jobs

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start a job; there is room."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended, as soon as one has; none after `seconds`."""
