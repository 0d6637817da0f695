"""The local engine: packs this machine's cores, or several runs on each GPU. Each run is a process of its own: started
or resumed, bounded in threads, ended with the study that started it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

from evaluation.cli.errors import EXIT_USER_ERROR, reason
from evaluation.files import tail
from evaluation.runs.run_folder import is_finished
from evaluation.study.engines.base import Engine, Job, Outcome

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 0.05
Child = subprocess.Popen[bytes] | BaseProcess
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # looked up here: nothing is to be loaded between fork and exec


class Attempt:
    """A job under way, as a process that leads a session of its own."""

    def __init__(self, job: Job, start: Callable[[Job], Child]) -> None:
        self.job = job
        self._started = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = job.log.stat().st_size if job.log.exists() else 0
        self.process = start(job)

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def ask_to_stop(self) -> None:
        """Have it save and end."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        while self.code() is None:
            time.sleep(POLL_S)

    def poll(self) -> Outcome | None:
        """The outcome, or None while it runs."""
        code = self.code()
        if code is None:
            return None
        seconds = time.monotonic() - self._started
        if code == 0 and is_finished(self.job.folder):
            return Outcome(self.job.run, seconds=seconds)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == 0:
            how = "it ended without a summary"
        with contextlib.suppress(OSError, IndexError):  # and the last line that this attempt printed
            how += f": {tail(self.job.log, self._log_start).strip().splitlines()[-1].strip()}"
        return Outcome(self.job.run, how, code == EXIT_USER_ERROR, seconds)


class LocalEngine(Engine):
    """Runs jobs as processes of this machine.

    Args:
        jobs: runs at a time.
        gpus: the GPUs (as CUDA_VISIBLE_DEVICES counts them) that runs are spread over evenly; none: CPU only.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        super().__init__(jobs)
        self._gpus = tuple(gpus)
        self._failed_to_start: list[Outcome] = []

    def submit(self, job: Job) -> None:
        """Start a job, on the GPU with the fewest."""
        if self._gpus:
            load = Counter(attempt.job.environment[GPU_VARIABLE] for attempt in self._running.values())
            gpu = min(self._gpus, key=lambda one: load[one])
            job = dataclasses.replace(job, environment={**job.environment, GPU_VARIABLE: gpu})
        try:
            self._running[job.run] = Attempt(job, self._start)
        except OSError as error:
            self._failed_to_start.append(Outcome(job.run, f"cannot start it: {reason(error)}", final=True))

    def wait(self, seconds: float) -> list[Outcome]:
        end = time.monotonic() + seconds
        while True:
            outcomes, self._failed_to_start = self._failed_to_start, []
            outcomes += [outcome for attempt in self._running.values() if (outcome := attempt.poll()) is not None]
            for outcome in outcomes:
                self._running.pop(outcome.run, None)
            if outcomes or time.monotonic() >= end:
                return outcomes
            time.sleep(POLL_S)

    def stop(self, seconds: float) -> None:
        """Have all that run save and end, and wait so long for them."""
        for attempt in self._running.values():
            attempt.ask_to_stop()
        end = time.monotonic() + seconds
        while self._running and time.monotonic() < end:
            self.wait(0.5)

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].kill()

    def _start(self, job: Job) -> Child:
        own = dict.fromkeys(THREAD_VARIABLES, str(job.threads)) | {"PYTHONUNBUFFERED": "1", **job.environment}
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | own,
                # Ctrl-C at the terminal is for the study, which ends its runs at once: each goes on from its checkpoint
                # another time, and none holds the study up to save another.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )


def die_with_parent() -> None:
    """Linux: the kernel kills the run when the study's process goes, however it goes."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
