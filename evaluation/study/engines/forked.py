"""Runs forked from one process that has imported the trainer already: a short run does not pay for torch's import.

Python's own forkserver: a single-threaded process imports the modules once, and each job is a fork of it, with its own
session, output and exit code, exactly as a process started afresh. Only for a program that is a console script of an
installed package; its module may name what is worth importing beforehand in `PRELOAD`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from evaluation.study.engines.jobs import THREAD_VARIABLES, Attempt, Job, die_with_parent


class ForkServer:
    """Forks jobs of one program.

    Args:
        module, function: the program's entry point.
        threads: of each run; fixed, since the numerical libraries read it when they are imported.
    """

    def __init__(self, module: str, function: str, threads: int) -> None:
        self._entry = (module, function)
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)), PYTHONUNBUFFERED="1")
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        preload = getattr(importlib.import_module(module), "PRELOAD", ())
        self._context.set_forkserver_preload([__name__ + "_preload", module, *preload])

    @classmethod
    def of(cls, program: tuple[str, ...], threads: int) -> ForkServer | None:
        """The server for a program (`jobs.resolve_program`), or None if it is not a console script of this Python."""
        path = Path(program[0])
        if len(program) > 1 or path.parent != Path(sys.executable).parent or sys.platform != "linux":
            return None
        found = importlib.metadata.entry_points(group="console_scripts", name=path.name)
        return next((cls(entry.module, entry.attr, threads) for entry in found), None)

    def start(self, job: Job) -> Forked:
        """Start a job."""
        return Forked(job, self._context, self._entry)


class Forked(Attempt):
    """A job as a fork of the server."""

    def __init__(self, job: Job, context: ForkServerContext, entry: tuple[str, str]) -> None:
        super().__init__(job)
        arguments = (*entry, job.command(), str(job.log), dict(job.environment))
        self._process = context.Process(target=_run, args=arguments, daemon=False)
        self._process.start()

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def _die_with_study() -> None:
    """Wait for the end of the study's process and end this one.

    The kernel's own word (`die_with_parent`) comes with the end of the fork server, which multiprocessing keeps alive
    as long as one of its forks lives.
    """
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _run(module: str, function: str, command: list[str], log: str, environment: dict[str, str]) -> None:
    """In the fork: become the program."""
    os.setsid()
    die_with_parent()
    threading.Thread(target=_die_with_study, daemon=True).start()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = list(command)
    sys.orig_argv[:] = command  # what the run's provenance records
    main: Callable[[], Any] = getattr(importlib.import_module(module), function)
    sys.exit(main())
