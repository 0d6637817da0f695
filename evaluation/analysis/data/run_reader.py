"""Finding run folders and reading each into one row of the table `runs`; what cannot be read becomes a `Problem`.

A finished run has all that its row takes in one file (`runs.analysis_row`); of a run of an earlier version, which has
none, configuration, summary and provenance are read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaluation.analysis.data.normalization import letters
from evaluation.analysis.data.protocol import Protocol
from evaluation.cli.config_file import read_config
from evaluation.cli.errors import UserError, reason
from evaluation.files import from_json, read_json
from evaluation.runs.analysis_row import ROW, analysis_row
from evaluation.runs.run_folder import CONFIG, METRICS, PROVENANCE, SUMMARY

STUDY, INDEX = "study.yaml", "runs.jsonl"
ARCHIVE, ABOUT = "runs.parquet", "archive.json"  # see `archive`
ARCHIVES = "archives"  # in a study's folder: those of runs that it has from elsewhere
PLOTS = "plots"  # where `asgc-eval plot` puts its files by default
GRADIENTS, PART = "gradients", ".parquet"
LABELS = ("part", "kind", "task", "setting", "optimizer", "variant", "seed", "purpose")


@dataclass(frozen=True)
class Problem:
    """A folder or file that was left out of a data set, and why."""

    path: str
    reason: str

    def below(self, roots: Iterable[Path]) -> str:
        """The path without the one of these folders that it lies below: that is of no use elsewhere."""
        seen = (Path(self.path).relative_to(root) for root in roots if Path(self.path).is_relative_to(root))
        return next((path.as_posix() for path in seen), self.path)


@dataclass
class Source:
    """One study, folder of plain runs or archive."""

    root: Path
    name: str
    kind: Literal["plain", "study", "archive"] = "plain"
    prefix: str = ""  # before its runs' names, so that they stay unique
    definition: dict[str, Any] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)  # of plain runs
    elsewhere: list[Source] = field(default_factory=list)  # a study's archives


@dataclass
class Run:
    """A whole run folder: its row of `runs`, its metrics file and the parts of its gradient record."""

    row: dict[str, Any]
    metrics: str
    evaluations: int | None  # how many the summary counts
    gradients: list[str]


class NotARun(Exception):
    """A run folder that has to be left out; the message says why."""


def find_sources(path: Path, problems: list[Problem]) -> list[Source]:
    """The studies, archives and plain runs at or below `path`. `UserError` when it is not a folder."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise UserError(f"{path}: {what}; give a study's folder, a folder of runs or an exported archive")
    if not _is_text(str(path)):
        raise UserError(
            f"{path}: the name is no text in UTF-8, which DuckDB needs: rename it, or go there and name `.`"
        )
    found: list[Source] = []
    plain = Source(path, path.resolve().name)
    for folder, directories, files in os.walk(path):
        here = Path(folder)
        if not _is_text(folder):
            problems.append(Problem(folder, "its name is no text in UTF-8, which DuckDB needs: rename it"))
            directories.clear()
            continue
        if ARCHIVE in files or STUDY in files:
            found.append(_labelled_source(here, path, "archive" if ARCHIVE in files else "study", problems))
        elif CONFIG in files:
            plain.folders.append(here)
        elif METRICS in files or SUMMARY in files:
            problems.append(Problem(folder, f"not a run folder: it has no {CONFIG}"))
        else:
            if files and not directories:
                problems.append(Problem(folder, f"foreign: a folder without {CONFIG}"))
            directories[:] = sorted(name for name in directories if not name.startswith(".") and name != PLOTS)
            continue
        directories.clear()
    return found + ([plain] if plain.folders or not found else [])


def _is_text(path: str) -> bool:
    """Whether a path can be handed to DuckDB and Arrow: file names may be any bytes."""
    return path.encode(errors="replace") == path.encode(errors="surrogatepass")


def _labelled_source(folder: Path, root: Path, kind: Literal["study", "archive"], problems: list[Problem]) -> Source:
    definition: dict[str, Any] = {}
    if (folder / STUDY).is_file():
        try:
            definition = read_config(folder / STUDY)
        except UserError as error:
            problems.append(Problem(str(folder / STUDY), f"corrupt: {error}"))
    name = definition.get("name")
    if kind == "archive" and not name:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # `archive_reader.add` reports a damaged one
            name = read_json(folder / ABOUT).get("name")
    prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    source = Source(folder, str(name or folder.resolve().name), kind, prefix, definition)
    if kind == "study":
        archives = sorted(path.parent for path in (folder / ARCHIVES).glob(f"[!.]*/{ARCHIVE}"))
        source.elsewhere = [Source(path, source.name, "archive", prefix) for path in archives]
    return source


def read_runs(source: Source, problems: list[Problem]) -> Iterator[Run]:
    """The whole runs of a study or of plain folders; `problems` collects what was left out."""
    plain: Iterable[tuple[Path, dict[str, Any] | None]] = ((folder, None) for folder in source.folders)
    for folder, labels in _indexed(source.root, problems) if source.kind == "study" else plain:
        try:
            run = _read(str(folder), labels)
        except NotARun as error:
            problems.append(Problem(str(folder), str(error)))
            continue
        relative = folder.relative_to(source.root).as_posix()
        name = source.prefix + (labels["id"] if labels else relative if relative != "." else source.name)
        run.row = {"run": name, "path": relative, "study": source.name, **run.row}
        yield run


def _indexed(root: Path, problems: list[Problem]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs that a study planned, and its runs that nobody planned as problems."""
    planned: dict[Path, dict[str, Any]] = {}
    ids: set[str] = set()
    try:
        lines = (root / INDEX).read_bytes().splitlines()
    except OSError as error:
        problems.append(Problem(str(root / INDEX), f"cannot read the study's index of runs: {reason(error)}"))
        lines = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = from_json(json.loads(line))
            path = Path(entry["path"])
            labels = {key: entry[key] for key in ("id", *LABELS)} | {"options": entry.get("options") or {}}
            wrong = ""
        except (ValueError, KeyError, TypeError) as error:
            wrong = f"not the entry of a run ({type(error).__name__}: {error})"
        if not wrong and (path.is_absolute() or ".." in path.parts):
            wrong = f"the run's path {path} leads out of the study"
        if not wrong and (labels["id"] in ids or root / path in planned):
            wrong = f"the run {labels['id']} is listed twice"
        if wrong:
            problems.append(Problem(f"{root / INDEX}, line {number}", wrong))
            continue
        ids.add(labels["id"])
        planned[root / path] = labels
    _report_unplanned(root, planned, problems)
    yield from planned.items()


def _report_unplanned(root: Path, planned: Mapping[Path, Any], problems: list[Problem]) -> None:
    known = {os.path.normpath(path) for path in planned}  # of the study ".", os.walk says "./a"
    parts = {path.relative_to(root).parts[0] for path in planned}
    for folder, directories, files in os.walk(root):
        if os.path.normpath(folder) in known:
            directories.clear()
            continue
        if any(name in files for name in (CONFIG, METRICS, SUMMARY)):
            problems.append(Problem(folder, f"foreign: a run that {INDEX} does not list"))
            directories.clear()
        elif files and not directories and Path(folder).relative_to(root).parts[:1] in {(part,) for part in parts}:
            problems.append(Problem(folder, f"foreign: not a run folder, and {INDEX} does not list it"))
        directories[:] = sorted(name for name in directories if not name.startswith("."))


def _read(folder: str, labels: Mapping[str, Any] | None) -> Run:
    # Plain strings here: Path objects would take longer than reading the files.
    try:
        entries = set(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        raise NotARun("missing: planned, but not run") from None
    except OSError as error:
        raise NotARun(f"cannot be read: {reason(error)}") from error
    if CONFIG not in entries:
        raise NotARun(f"not a run folder: it has no {CONFIG}" if entries else "missing: an empty folder")
    if SUMMARY not in entries:
        raise NotARun(f"unfinished: it has no {SUMMARY}; let the run finish, or resume it")
    for name in (METRICS, PROVENANCE):
        if name not in entries:
            raise NotARun(f"half-written: it has no {name}")
    found = _found(folder, ROW in entries)
    summary = found["summary"]
    try:
        row = _row(found["config"], summary, found["provenance"], labels)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARun(f"corrupt: {SUMMARY} or {CONFIG}: {type(error).__name__}: {error}") from error
    parts = gradient_parts(folder) if GRADIENTS in entries else []
    evaluations = summary.get("evaluations")
    return Run(row, f"{folder}/{METRICS}", evaluations if isinstance(evaluations, int) else None, parts)


def _found(folder: str, has_row: bool) -> dict[str, dict[str, Any]]:
    """A run's `analysis_row`."""
    if has_row:
        with contextlib.suppress(NotARun):  # a damaged one says nothing that the other files do not
            return _mapping(folder, ROW)
    try:
        config = read_config(Path(folder, CONFIG))
    except UserError as error:
        raise NotARun(f"corrupt: {error}") from error
    return analysis_row(config, _mapping(folder, SUMMARY), _mapping(folder, PROVENANCE))


def _row(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    labels: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A run's row of `runs` without its name and place. Raises KeyError, TypeError or ValueError for missing keys and
    wrong types, `NotARun` when the folder holds another run than the index says."""
    optimizer = config["optimizer.name"]
    if labels is None:
        labels = {
            "part": "runs", "kind": "compare", "task": config["game"] if "game" in config else config["task"],
            "setting": "default", "optimizer": optimizer, "variant": "default", "seed": config["seed"],
            "purpose": "test", "options": {},
        }  # fmt: skip
    else:
        _refuse_another_run(config, labels)
    signature, spread = summary["signature"], summary["stability"]
    times = summary["time_to_threshold"] or {}
    code, versions = provenance["code"], provenance.get("versions", {})
    return {
        **{key: str(labels[key]) for key in LABELS if key != "seed"},
        "seed": int(labels["seed"]),
        "options": json.dumps(labels["options"], sort_keys=True),
        "lr": _number(config.get("optimizer.lr")),
        "total_steps": int(config.get("total_steps", summary["steps"])),
        "protocol": str(Protocol.of(signature, summary["last_k"])),
        "target": _number(times.get("target")),
        "reached": bool(times["reached"]) if times else None,
        "final": float(summary["final"]),
        "last": float(summary["last"]),
        "std": float(spread["std"]),
        "detrended_std": float(spread["detrended_std"]),
        "ttt_steps": _number(times.get("steps")),
        "ttt_seconds": _number(times.get("seconds")),
        "ttt_samples": _number(times.get("samples")),
        "steps": int(summary["steps"]),
        "samples": int(summary["samples"]),
        "training_s": float(summary["training_s"]),
        "wall_s": float(summary.get("wall_s", math.nan)),
        "mean_score": float(summary.get("mean_score", summary["last"])),
        "generalization_gap": _number(summary.get("generalization_gap")),
        "commit": code.get("commit"),
        "dirty": code.get("dirty"),
        "version": signature.get("version"),
        "envpool": signature.get("envpool"),
        "torch": versions.get("torch"),
        "device": provenance.get("device"),
        "command": " ".join(map(str, provenance.get("command", []))),
    }


def _refuse_another_run(config: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
    """`NotARun` where the config has another value than the index planned."""
    planned = dict(labels["options"]) | {"seed": labels["seed"]}
    for key, value in planned.items():
        found = config.get(key, value)
        if isinstance(value, str) and isinstance(found, str):
            same = letters(value) == letters(found)  # games are planned in any spelling
        elif isinstance(value, int | float) and isinstance(found, int | float):
            same = math.isclose(value, found, rel_tol=1e-9)  # commands carry ten digits
        else:
            continue
        if not same:
            raise NotARun(f"foreign: its {CONFIG} has {key} {found}, where {INDEX} planned {value}")


def gradient_parts(folder: str | Path) -> list[str]:
    """The files of a run's gradient record."""
    return sorted(str(path) for path in Path(folder, GRADIENTS).glob(f"*{PART}") if path.name[0] != ".")


def _mapping(folder: str, name: str) -> dict[str, Any]:
    """A file of `files.write_json`."""
    try:
        value = read_json(Path(folder, name))
    except (OSError, ValueError) as error:
        raise NotARun(f"corrupt: cannot read {name}: {reason(error)}") from error
    if not isinstance(value, dict):
        raise NotARun(f"corrupt: {name} is not a JSON object")
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
