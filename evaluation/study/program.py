"""The trainer of a study, known as a program only: `PROGRAM train OPTIONS`, and `PROGRAM check`, which says what is
wrong with options and what configuration they come to."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.config_file import read_config
from evaluation.cli.errors import UserError
from evaluation.cli.values import path
from evaluation.files import from_json
from evaluation.runs.run_folder import CONFIG
from evaluation.study.plan import PlannedRun, Planner
from evaluation.study.spec import Study, StudyFaults
from evaluation.study.study_folder import StudyFolder, changes

Programs = Mapping[str, tuple[str, ...]]  # by task


def resolve_all(study: Study) -> Programs:
    """`resolve` of each task's program."""
    found = {program: resolve(program) for program in dict.fromkeys(study.programs.values())}
    return {task: found[program] for task, program in study.programs.items()}


def resolve(program: Sequence[str]) -> tuple[str, ...]:
    """The program as it can be executed anywhere: found beside this Python first, then on the PATH.

    Raises:
        UserError: there is no such program.
    """
    try:
        name, *rest = (path(word) if word[0] in "~$" else word for word in program)
    except ValueError as error:
        raise UserError(f"program {' '.join(program)!r}: {error}") from error
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise UserError(f"program {name!r}: not found beside {sys.executable} or on the PATH")
    return (found, *rest)


def check(planner: Planner, programs: Programs) -> None:
    """Have the programs check every combination of options, in one process each, before the first run.

    Raises:
        StudyFaults: all that it finds, each with the runs' place in the study.
    """
    runs: dict[tuple[str, ...], PlannedRun] = {}
    for run in planner.samples():
        runs.setdefault((*programs[run.id.task], *run.arguments()), run)
    faults: dict[str, PlannedRun] = {}
    for run, answer in _answers(programs, runs.values()):
        for fault in answer.get("errors", []):
            faults.setdefault(fault, run)
    found = planner.faults + [f"{run.id.arm}: {fault}" for fault, run in faults.items()]
    if found:
        raise StudyFaults(planner.study.name, found)


def check_begun(folder: StudyFolder, runs: Iterable[PlannedRun], programs: Programs) -> None:
    """Refuse to go on with runs whose options mean something else by now: a preset or a default has changed. An option
    that a later version has added is as it is by default: one that this version knows and the run does not.

    Raises:
        UserError: names the first runs with what differs.
    """
    defaults = functools.cache(defaults_of)  # asked for only where something differs: each starts a process
    conflicts = []
    for run, answer in _answers(programs, [run for run in runs if folder.has_begun(run.id)]):
        with contextlib.suppress(UserError):  # a file that cannot be read stops its own run only
            before = read_config(folder.run(run.id) / CONFIG)
            now = answer.get("config")  # where the program says what a command line comes to
            if now is not None and changes(run.id, before, now):
                conflicts += changes(run.id, before, now, defaults(programs[run.id.task]))
    folder.refuse(conflicts)


def _answers(programs: Programs, runs: Iterable[PlannedRun]) -> Iterator[tuple[PlannedRun, dict[str, Any]]]:
    """What each run's program says of its command line."""
    by_program: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        by_program.setdefault(programs[run.id.task], []).append(run)
    for program, some in by_program.items():
        yield from zip(some, ask(program, [run.arguments() for run in some]), strict=True)


def defaults_of(program: Sequence[str]) -> dict[str, Any]:
    """What `check --defaults` says of all options; {}: the program does not know it."""
    done = _check(program, "", "--defaults")
    try:
        found = from_json(json.loads(done.stdout)) if done.returncode == 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check(program: Sequence[str], text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    try:
        how: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "capture_output": True, "check": False}
        return subprocess.run([*program, "check", *flags], input=text, **how)
    except OSError as error:
        raise UserError(f"cannot start {program[0]}: {error.strerror}") from error


def ask(program: Sequence[str], lines: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    """What the program's `check` says of command lines, one answer each."""
    asked = [json.dumps(list(arguments)) + "\n" for arguments in lines]
    if not asked:
        return []
    done = _check(program, "".join(asked))
    answers = done.stdout.splitlines()
    if len(answers) != len(asked):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"`{' '.join(program)} check` failed: {last}")
    return [from_json(json.loads(answer)) for answer in answers]
