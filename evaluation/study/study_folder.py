"""The study folder: the definition it was made from, the index of its runs, its lock, and what the runs gave.

study.yaml   the definition
runs.jsonl   one line a planned run: its labels, options and folder
failed.json  the runs whose program failed, and why
search.db    the trials of the searches, for Optuna's dashboard
logs/        what each run printed
archives/    runs made elsewhere (`archived`)
PART/TASK/SETTING/OPTIMIZER/VARIANT/sSEED/   the run folders
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.config_file import differences, dump_yaml
from evaluation.cli.errors import UserError, reason
from evaluation.files import (
    LONGEST_NAME,
    LONGEST_PATH,
    atomic_write,
    folder_name,
    from_json,
    read_json,
    to_json,
    write_json,
)
from evaluation.runs.closing import Closing
from evaluation.runs.lock import FolderLock
from evaluation.runs.run_folder import CONFIG, SUMMARY
from evaluation.study import archived
from evaluation.study.plan import Plan, PlannedRun
from evaluation.study.run_id import RunId
from evaluation.study.spec import ARCHIVES, DEFINITION, FAILED, INDEX, LOCK, LOGS, Options, Study

MAX_NAMED = 5
_DEEPEST = 100  # bytes of the longest path below a run folder, about


class StudyFiles:
    """The files of a study's folder, whoever runs it.

    Attributes:
        archived: the runs that archives in the folder hold; they have no run folder.
        failures: the reasons of failed runs by their folders.
        damaged: runs with a summary that cannot be read; they count as failed.

    Raises (on opening):
        UserError: the index or an archive cannot be read. Where there is no index yet, it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: set[RunId] = set()
        self.failures: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # only reasons: what ran and what did not, runs show
            self.failures |= read_json(path / FAILED)
        file = path / INDEX
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
            entries = [from_json(json.loads(line)) for line in lines]
            self._index = {RunId(*(entry[name] for name in RunId._fields)): entry for entry in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{str(path)[:60]}... is too long: choose a shorter --dir") from error
            why = f"{file} is damaged ({reason(error)}): remove it, it is made anew from the definition"
            raise UserError(why) from error
        self.archived = archived.read(path)
        self._summaries = {run: one.summary for run, one in self.archived.items()}

    def run(self, run: RunId) -> Path:
        """The run folder."""
        return self.path / str(run)

    def check_lengths(self, runs: Iterable[RunId]) -> None:
        """`UserError` where a run's folder would lie too deep for the file system."""
        for run in runs:
            length = len(os.fsencode(self.run(run).absolute())) + _DEEPEST
            if length > LONGEST_PATH:
                raise UserError(f"the path of {str(run)[:60]}... is too long: choose a shorter --dir, or shorter names")

    def has_begun(self, run: RunId) -> bool:
        """Whether there is a run folder to go on with."""
        return (self.run(run) / CONFIG).is_file()

    def begun(self) -> dict[RunId, Options]:
        """The options of the runs that have begun, as the index has them, and of archived ones."""
        begun = {run: entry["options"] for run, entry in self._index.items() if self.has_begun(run)}
        return begun | {run: one.options for run, one in self.archived.items()}

    def summary(self, run: RunId) -> dict[str, Any] | None:
        """The summary of a finished run, read once; None if it has not finished, or its file is no summary
        (`damaged`)."""
        if run not in self._summaries:
            file = self.run(run) / SUMMARY
            self.damaged.discard(run)
            try:
                summary = read_json(file)
                if "auc" not in summary:  # of an earlier version: the plain mean of the evaluations
                    summary["auc"] = summary["curve"]
                float(summary["final"]), float(summary["auc"])
            except FileNotFoundError:
                return None
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                why = f"{file} is no summary of a run ({reason(error)}): remove {file.parent} to run it again"
                self.failures[str(run)] = why
                self.damaged.add(run)
                return None
            self._summaries[run] = summary
        return self._summaries[run]

    def objective(self, run: RunId, name: str) -> float | None:
        """`search.Objective`: "final", the score at the end, or "auc", the mean over the run."""
        summary = self.summary(run)
        return None if summary is None else float(summary[name])


def _refuse_twin(path: Path) -> None:
    """`UserError` where a folder's name differs from this one's in case only."""
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    twins = [name for name in names if name.casefold() == path.name.casefold()]
    if twins and path.name not in twins:
        raise UserError(
            f"{path.parent / twins[0]} is one folder with {path.name} where case makes no difference: choose another "
            "name, or --dir"
        )


class StudyFolder(StudyFiles, Closing):
    """A study's folder, held by this process (a context manager).

    Raises (on opening):
        UserError: another process runs this study, the folder holds something else or cannot be written.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.study = study
        try:
            _refuse_twin(path.absolute())
            entries = {entry.name for entry in path.iterdir()} if path.exists() else set()
            others = {
                name for name in entries - {LOCK, LOGS, ARCHIVES} if not name.endswith(".tmp")
            }  # of a study killed at once
            if others and DEFINITION not in entries:
                raise UserError(
                    f"{path} exists and is not a study folder (it holds {min(others)}): choose another --dir"
                )
            path.mkdir(parents=True, exist_ok=True)
            (path / LOGS).mkdir(exist_ok=True)
            self._lock = FolderLock(path / LOCK)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {reason(error)}; choose another --dir") from error
        super().__init__(path)

    def log(self, run: RunId) -> Path:
        """Where the output of a run goes."""
        name = folder_name(str(run).replace("/", "__"), LONGEST_NAME - len(".log"))
        return self.path / LOGS / f"{name}.log"

    def adopt(self, plan: Plan) -> None:
        """Make this definition the folder's, if the runs that have begun are among those it asks for. What was planned
        and has not begun may change.

        Raises:
            UserError: another definition; names the first runs that are not in it or have other options.
        """
        self._index = {run: entry for run, entry in self._index.items() if self.has_begun(run)}
        asked = {*plan.waiting, *(run.id for run in plan.runs)}
        gone = [f"{run} is not in this one" for run in (*self._index, *self.archived) if run not in asked]
        made = [run for run in plan.runs if run.id in self.archived]
        changed = [changes(run.id, self.archived[run.id].options, run.options) for run in made]
        self._check(plan.runs, [*gone, *itertools.chain(*changed)])
        definition = {**self.study.definition, "name": self.study.name}
        atomic_write(self.path / DEFINITION, dump_yaml(definition, width=120))
        self._write(plan.runs)

    def record(self, runs: Sequence[PlannedRun]) -> None:
        """Bring the index up to date with a plan."""
        self._check(runs)
        if any(run.id not in self._index for run in runs):
            self._write(runs)

    def fail(self, run: RunId, why: str | None) -> None:
        """Note why a run failed, or (None) that it has not."""
        before = self.failures.pop(str(run), None)
        if why is not None:
            self.failures[str(run)] = why
        if before != why:
            write_json(self.path / FAILED, self.failures)

    def close(self) -> None:
        self._lock.release()

    def refuse(self, conflicts: list[str]) -> None:
        """Raise `UserError` if there are conflicts between the folder's runs and the definition."""
        if conflicts:
            more = [f"and {len(conflicts) - MAX_NAMED} more"] if len(conflicts) > MAX_NAMED else []
            raise UserError(
                f"{self.path} holds a study of another definition ({'; '.join(conflicts[:MAX_NAMED] + more)}): "
                "choose another --dir, or give the study another name"
            )

    def _write(self, runs: Sequence[PlannedRun]) -> None:
        self._index |= {run.id: run.entry() for run in runs}
        lines = [json.dumps(to_json(entry), allow_nan=False) for entry in self._index.values()]
        atomic_write(self.path / INDEX, "\n".join(lines) + "\n")

    def _check(self, runs: Sequence[PlannedRun], gone: Sequence[str] = ()) -> None:
        known = [run for run in runs if run.id in self._index]
        changed = [changes(run.id, self._index[run.id]["options"], run.options) for run in known]
        self.refuse([*gone, *itertools.chain(*changed)])


def changes(run: RunId, before: Any, now: Any, defaults: Mapping[str, Any] | None = None) -> list[str]:
    """What is different of a run's options or configuration, a line each; `defaults` as of `differences`."""
    found = differences(before, now, ignore=("run_dir",), defaults=defaults)
    return [f"{run} {key} {old!r} -> {new!r}" for key, (old, new) in found.items()]
