"""Runs of a study that were made elsewhere and are known from an exported archive (`analysis.data.archive`): a study
that outlives its machine goes on from them.

The archives lie in the study's folder, in ARCHIVES; what they hold counts as finished, for the study and for all that
reads its folder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.analysis.data.run_reader import ABOUT, ARCHIVE
from evaluation.cli.config_file import read_config
from evaluation.cli.errors import UserError, reason
from evaluation.files import folder_name
from evaluation.runs.run_metrics import area_under_curve
from evaluation.study.run_id import RunId
from evaluation.study.spec import ARCHIVES, DEFINITION, Options

EVALUATIONS = "evaluations.parquet"


class ArchivedRun(NamedTuple):
    """What a study asks of a finished run."""

    options: Options
    summary: dict[str, Any]  # "final" and "auc"


def read(study: Path) -> dict[RunId, ArchivedRun]:
    """The runs of all archives in a study's folder.

    Raises:
        UserError: one cannot be read, or a run is in two of them.
    """
    found: dict[RunId, ArchivedRun] = {}
    for folder in sorted(path for path in (study / ARCHIVES).glob("*") if path.name[0] != "."):
        for run, archived in _runs(folder):
            if run in found:
                raise UserError(f"{folder}: another archive beside it has {run}, too: remove one of them")
            found[run] = archived
    return found


def add(archive: Path, study: Path, name: str) -> tuple[Path, int]:
    """Copy an archive into a study's folder, whole or not at all; returns where it lies and how many runs it holds.

    Args:
        name: the study's; the archive must be of the same.

    Raises:
        UserError: it is no archive, of another study, was added before, has runs that the study's folder has, or cannot
            be copied.
    """
    if not (archive / ARCHIVE).is_file():
        raise UserError(f"{archive} is not an exported archive: `asgc-eval export` makes one")
    of = read_config(archive / DEFINITION).get("name") if (archive / DEFINITION).is_file() else None
    if of != name:
        raise UserError(f"{archive} is an archive of {of or 'runs that no study made'}, not of the study {name}")
    runs = [run for run, _ in _runs(archive)]
    known = read(study)
    if twice := next((run for run in runs if run in known), None):
        raise UserError(f"{archive}: {twice} is known already, from an archive in {study / ARCHIVES}")
    if twice := next((run for run in runs if (study / str(run)).exists()), None):
        raise UserError(f"{archive} and {study} both have {twice}: move away the archive's runs that were made anew")
    folder = study / ARCHIVES / folder_name(f"{archive.resolve().name}-{len(known)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=folder.parent) as scratch:
            whole = Path(scratch, "whole")
            whole.mkdir()
            for file in (*archive.glob("*.parquet"), archive / ABOUT, archive / DEFINITION):
                shutil.copy(file, whole)
            whole.replace(folder)
    except OSError as error:
        raise UserError(f"cannot copy {archive} to {folder}: {reason(error)}") from error
    return folder, len(runs)


def remove(copy: Path) -> None:
    """What `add` has copied, and the folders that it made for it."""
    shutil.rmtree(copy, ignore_errors=True)
    with contextlib.suppress(OSError):
        copy.parent.rmdir()
        copy.parent.parent.rmdir()


def _runs(archive: Path) -> Iterator[tuple[RunId, ArchivedRun]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("archived runs need pyarrow: pip install 'asgc[study]'") from error
    try:
        columns = ("run", *RunId._fields, "options", "final")
        rows = pyarrow.parquet.read_table(archive / ARCHIVE, columns=[*columns]).to_pylist()
        curves: dict[str, list[tuple[int, float]]] = {}
        evaluations = pyarrow.parquet.read_table(archive / EVALUATIONS, columns=["run", "step", "value"])
        for row in evaluations.to_pylist():
            curves.setdefault(row["run"], []).append((row["step"], row["value"]))
        for row in rows:
            steps, values = zip(*sorted(curves[row["run"]]), strict=True)
            summary = {"final": float(row["final"]), "auc": area_under_curve(values, steps)}
            yield RunId(*(row[name] for name in RunId._fields)), ArchivedRun(json.loads(row["options"]), summary)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{archive}: cannot read the archive ({reason(error)}): copy it anew, or remove it") from error
