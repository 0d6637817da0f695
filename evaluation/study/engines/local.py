"""The local engine: packs this machine's cores, or several runs on each GPU."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from evaluation.cli.errors import reason
from evaluation.study.engines.jobs import Attempt, Job, Outcome, Process

POLL_S = 0.05


class Engine(Protocol):
    """Something that carries out jobs."""

    name: str

    def free(self) -> bool:
        """Whether there is room for another job."""
        ...

    def submit(self, job: Job) -> None:
        """Start a job; there is room."""
        ...

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended, as soon as one has; none after `seconds`."""
        ...

    def close(self) -> None:
        """Kill what still runs."""
        ...


class LocalEngine:
    """Runs jobs as processes of this machine.

    Args:
        jobs: runs at a time.
        gpus: the GPUs (as CUDA_VISIBLE_DEVICES counts them) that runs are spread over evenly; none: CPU only.
        start: how a job's process is started, `jobs.Process` or a fork server's `start`.
    """

    name = "local"

    def __init__(self, jobs: int, gpus: Sequence[str] = (), start: Callable[[Job], Attempt] = Process) -> None:
        self._jobs = jobs
        self._start = start
        self._gpus = tuple(gpus)
        self._running: dict[str, Attempt] = {}
        self._on_gpu: dict[str, str] = {}  # job -> GPU
        self._failed_to_start: list[Outcome] = []

    def free(self) -> bool:
        """Whether fewer than `jobs` runs are going on."""
        return len(self._running) < self._jobs

    def submit(self, job: Job) -> None:
        """Start a job, on the GPU with the fewest."""
        if self._gpus:
            load = Counter(self._on_gpu.values())
            gpu = min(self._gpus, key=lambda one: load[one])
            self._on_gpu[job.id] = gpu
            job = dataclasses.replace(job, environment={**job.environment, "CUDA_VISIBLE_DEVICES": gpu})
        try:
            self._running[job.id] = self._start(job)
        except OSError as error:
            self._on_gpu.pop(job.id, None)
            self._failed_to_start.append(Outcome(job.id, f"cannot start it: {reason(error)}", final=True))

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended, as soon as one has; none after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            outcomes, self._failed_to_start = self._failed_to_start, []
            for process in list(self._running.values()):
                outcome = process.poll()
                if outcome is not None:
                    outcomes.append(outcome)
                    del self._running[outcome.id]
                    self._on_gpu.pop(outcome.id, None)
            if outcomes or time.monotonic() >= end:
                return outcomes
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill what still runs; it goes on from its last checkpoint another time."""
        for process in self._running.values():
            process.kill()
        self._running.clear()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
