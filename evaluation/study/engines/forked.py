"""The local engine for console scripts: runs are forked from one process that has imported the trainer already, so
that a short run does not pay for torch's import.

Python's own forkserver: a single-threaded process imports the modules once, and each job is a fork of it, with its own
session, output and exit code, exactly as a process started afresh. The program's module may name what is worth
importing beforehand in `PRELOAD`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from evaluation.study.engines.base import Job
from evaluation.study.engines.local import THREAD_VARIABLES, Child, LocalEngine, die_with_parent


class ForkedEngine(LocalEngine):
    """Runs jobs as forks of one process.

    Args:
        scripts: the programs' entry points.
        threads: of each run; fixed, since the numerical libraries read it when they are imported.
        jobs, gpus: as the local engine.
    """

    def __init__(
        self, scripts: Mapping[tuple[str, ...], EntryPoint], threads: int, jobs: int, gpus: Sequence[str] = ()
    ) -> None:
        super().__init__(jobs, gpus)
        self._scripts = scripts
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)), PYTHONUNBUFFERED="1")
        self._context = multiprocessing.get_context("forkserver")
        preload = ["evaluation.study.engines.forked_preload"]
        for module in (script.module for script in scripts.values()):
            preload += [module, *getattr(importlib.import_module(module), "PRELOAD", ())]
        self._context.set_forkserver_preload(preload)

    def _start(self, job: Job) -> Child:
        arguments = (self._scripts[job.program].value, job.command(), str(job.log), dict(job.environment))
        process = self._context.Process(target=_run, args=arguments, daemon=False)
        process.start()
        return process


def console_scripts(programs: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], EntryPoint]:
    """The entry points of programs that can be forked: on Linux, console scripts of packages of this Python. Nothing
    unless all of them are."""
    found = {}
    for program in dict.fromkeys(programs):
        path = Path(program[0])
        if len(program) > 1 or path.parent != Path(sys.executable).parent or sys.platform != "linux":
            return {}
        scripts = importlib.metadata.entry_points(group="console_scripts", name=path.name)
        if not scripts:
            return {}
        found[program] = next(iter(scripts))
    return found


def _die_with_study() -> None:
    """Wait for the end of the study's process and end this one.

    The kernel's own word (`die_with_parent`) comes with the end of the fork server, which multiprocessing keeps alive
    as long as one of its forks lives.
    """
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _run(script: str, command: list[str], log: str, environment: dict[str, str]) -> None:
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
    sys.exit(pkgutil.resolve_name(script)())
