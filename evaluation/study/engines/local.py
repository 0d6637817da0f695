"""The local engine: packs this machine's cores, or several runs on each GPU."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence

from evaluation.cli.errors import reason
from evaluation.study.engines.base import Engine, Job, Outcome
from evaluation.study.engines.processes import POLL_S, Attempt, Process
from evaluation.study.run_id import RunId


class LocalEngine(Engine):
    """Runs jobs as processes of this machine.

    Args:
        jobs: runs at a time.
        gpus: the GPUs (as CUDA_VISIBLE_DEVICES counts them) that runs are spread over evenly; none: CPU only.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        super().__init__(jobs)
        self._gpus = tuple(gpus)
        self._on_gpu: dict[RunId, str] = {}
        self._failed_to_start: list[Outcome] = []

    def submit(self, job: Job) -> None:
        """Start a job, on the GPU with the fewest."""
        if self._gpus:
            load = Counter(self._on_gpu.values())
            gpu = min(self._gpus, key=lambda one: load[one])
            self._on_gpu[job.run] = gpu
            job = dataclasses.replace(job, environment={**job.environment, "CUDA_VISIBLE_DEVICES": gpu})
        try:
            self._running[job.run] = self._start(job)
        except OSError as error:
            self._on_gpu.pop(job.run, None)
            self._failed_to_start.append(Outcome(job.run, f"cannot start it: {reason(error)}", final=True))

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended, as soon as one has; none after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            outcomes, self._failed_to_start = self._failed_to_start, []
            outcomes += [outcome for attempt in self._running.values() if (outcome := attempt.poll()) is not None]
            for outcome in outcomes:
                self._running.pop(outcome.run, None)
                self._on_gpu.pop(outcome.run, None)
            if outcomes or time.monotonic() >= end:
                return outcomes
            time.sleep(POLL_S)

    def cancel(self, run: RunId) -> None:
        """Kill a running job."""
        self._running.pop(run).kill()
        self._on_gpu.pop(run, None)

    def _start(self, job: Job) -> Attempt:
        return Process(job)
