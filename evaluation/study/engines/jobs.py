"""One run as a process of its own: started or resumed, bounded in threads, ended with the study that started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.cli.errors import EXIT_USER_ERROR, UserError, reason
from evaluation.runs.run_folder import CONFIG, is_finished

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # looked up here: nothing is to be loaded between fork and exec


@dataclass(frozen=True)
class Job:
    """A run to be carried out.

    Attributes:
        id: of the run in its study.
        program: the trainer's command, ("asgc-rl",).
        arguments: options of its `train`.
        run: the run folder.
        log: where its output goes, appended.
        threads: threads it may use.
        environment: variables set for it besides, CUDA_VISIBLE_DEVICES for one.
    """

    id: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    run: Path
    log: Path
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """What is executed: a run folder that exists is resumed."""
        resume = ["--resume"] if (self.run / CONFIG).is_file() else []
        return [*self.program, "train", f"--run-dir={self.run}", *self.arguments, *resume]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `failure` is None for a finished one, else the reason in a line; `final` if a new attempt would
    meet the same."""

    id: str
    failure: str | None
    final: bool = False
    seconds: float = 0.0


def resolve_program(program: Sequence[str]) -> tuple[str, ...]:
    """The program as it can be executed anywhere: found beside this Python first, then on the PATH.

    Raises:
        UserError: there is no such program.
    """
    name, *rest = program
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise UserError(f"program {name!r}: not found beside {sys.executable} or on the PATH")
    return (found, *rest)


class Attempt:
    """A job under way; subclasses say how it is started, ended and watched."""

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
        raise NotImplementedError

    def poll(self) -> Outcome | None:
        """The outcome, or None while it runs."""
        code = self.code()
        if code is None:
            return None
        seconds = time.monotonic() - self._started
        if code == 0 and is_finished(self.job.run):
            return Outcome(self.job.id, None, seconds=seconds)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == 0:
            how = "it ended without a summary"
        last = self._last_line()
        return Outcome(self.job.id, f"{how}{': ' + last if last else ''}", code == EXIT_USER_ERROR, seconds)

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

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(job.threads)),
            "PYTHONUNBUFFERED": "1",
            **job.environment,
        }
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
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
        return self._process.poll()

    def kill(self) -> None:
        """End it, and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> Outcome:
        """Wait for the outcome."""
        self._process.wait()
        outcome = self.poll()
        assert outcome is not None
        return outcome


def execute(job: Job) -> Outcome:
    """Carry out a job in this process's place; used on the machines of a cluster."""
    if is_finished(job.run):
        return Outcome(job.id, None)
    try:
        return Process(job).wait()
    except OSError as error:
        return Outcome(job.id, f"cannot start it: {reason(error)}", final=True)


def die_with_parent() -> None:
    """Linux: the kernel kills the run when the study's process goes, however it goes. SIGKILL for the reason above."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
