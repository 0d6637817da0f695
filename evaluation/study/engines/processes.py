"""One run as a process of its own: started or resumed, bounded in threads, ended with the study that started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess

from evaluation.cli.errors import EXIT_USER_ERROR
from evaluation.runs.run_folder import is_finished
from evaluation.study.engines.base import Job, Outcome

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # looked up here: nothing is to be loaded between fork and exec


class Attempt:
    """A job under way as a process that leads a session of its own; subclasses say how it is started and watched."""

    process: subprocess.Popen[bytes] | BaseProcess

    def __init__(self, job: Job) -> None:
        self.job = job
        self._started = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = job.log.stat().st_size if job.log.exists() else 0

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it, and what it started, at once; it goes on from its last checkpoint another time."""
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
        last = self._last_line()
        return Outcome(self.job.run, f"{how}{': ' + last if last else ''}", code == EXIT_USER_ERROR, seconds)

    def _last_line(self) -> str:
        """The last line that this attempt printed."""
        try:
            with self.job.log.open("rb") as log:
                log.seek(max(self._log_start, self.job.log.stat().st_size - 4096))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""


class Process(Attempt):
    """A job as a new process."""

    process: subprocess.Popen[bytes]

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(job.threads)),
            "PYTHONUNBUFFERED": "1",
            **job.environment,
        }
        with job.log.open("ab") as log:
            self.process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C at the terminal is for the study: a trainer that met it would add a checkpoint off schedule,
                # and the resumed run would not be the uninterrupted one.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()


def die_with_parent() -> None:
    """Linux: the kernel kills the run when the study's process goes, however it goes. SIGKILL for the reason above."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
