"""Atomic checkpoints: the last two kept, the newest whole one loaded, whatever killed the process that wrote them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.cli.errors import DISK_FULL, UserError, reason
from evaluation.files import from_json, fsync, is_write_error, to_json
from evaluation.runs.resources import available_disk, human_bytes

MANIFEST = "manifest.json"
_NAME = re.compile(r"(\d{6,})-step-\d+")
_TEMPORARY = ".tmp-"
_CHUNK = 1 << 22


class CheckpointError(UserError):
    """A checkpoint could not be written. The earlier ones are untouched and nothing half-written is left."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the files that the `write` callback put into `path`, and what was given as `meta`."""

    path: Path
    step: int
    meta: dict[str, Any] = field(default_factory=dict)


def to_stderr(message: str) -> None:
    """Where messages go when the caller has no display."""
    print(message, file=sys.stderr, flush=True)


class CheckpointStore:
    """The folder ``checkpoints/`` of a run.

    One checkpoint is one directory ``NNNNNN-step-S`` (N counts the saves, so the same step can be saved twice) with
    the caller's files and ``manifest.json``: the size and CRC-32 of every file. `save` writes a temporary sibling,
    fsyncs its files and directories, renames it and fsyncs the parent; only then older checkpoints go. So there is
    always a whole one after the first, and up to ``keep + 1`` of them on the disk while one is written.

    Cost beyond writing the bytes themselves: one CRC-32 pass over the file cache on a save (0.4 s a GB, measured on one
    core), and one read of every file on `latest`.
    """

    def __init__(self, folder: Path, *, keep: int = 2, message: Callable[[str], None] = to_stderr) -> None:
        self.folder = folder
        self.keep = keep
        self._message = message
        self._damaged: set[Path] = set()  # found by `latest`: must not take the place of a whole one

    def save(self, step: int, write: Callable[[Path], None], meta: Mapping[str, Any] | None = None) -> Checkpoint:
        """Call `write(directory)` and make what it wrote into that (empty) directory the newest checkpoint.

        `meta` is a small JSON-able mapping kept in the manifest. Raises `CheckpointError` when the disk is full or
        cannot be written; any other exception of `write` passes through. In both cases the temporary directory is
        removed.
        """
        self._make_folder(step)
        number = max(map(_number, self._all()), default=-1) + 1
        final = self.folder / f"{number:06d}-step-{step}"
        temporary = self.folder / f"{_TEMPORARY}{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write(temporary)
            _seal(temporary, step, to_json(meta or {}))
            temporary.rename(final)
            fsync(self.folder)
        except BaseException as error:
            free = available_disk(self.folder)
            shutil.rmtree(temporary, ignore_errors=True)
            if is_write_error(error):
                raise CheckpointError(self._failure(step, error, free)) from error
            raise
        self._prune(final)
        return Checkpoint(final, step, from_json(to_json(meta or {})))

    def latest(self, check: Callable[[Checkpoint], None] = lambda checkpoint: None) -> Checkpoint | None:
        """The newest checkpoint whose files all have the sizes and checksums of its manifest; None when there is none.

        Reads every file of it once. Each newer one that is damaged is passed over with a message; `UserError` when all
        are, since starting over would then throw away a run. Removes nothing, so another process may look at a run
        that goes on. `check` raises `UserError` for a whole one that cannot serve: then an older one may; if none does,
        that error is raised.
        """
        refused: dict[str, list[str]] = {}  # reason -> names: what is wrong with the run is so of each of them
        error: UserError | None = None
        for path in reversed(self._all()):
            try:
                manifest = _check(path)
            except (OSError, ValueError, KeyError, TypeError) as damage:
                self._message(f"checkpoint {path.name} is damaged ({reason(damage)}): passed over")
                self._damaged.add(path)
                continue
            checkpoint = Checkpoint(path, manifest["step"], from_json(manifest["meta"]))
            try:
                check(checkpoint)
            except UserError as refusal:
                refused.setdefault(str(refusal), []).append(path.name)
                error = error or refusal
                continue
            for why, names in refused.items():
                self._message(f"checkpoint {', '.join(names)} cannot serve: {why}")
            return checkpoint
        if error is not None:
            raise error
        if self._all():
            raise UserError(f"every checkpoint in {self.folder} is damaged: choose another --run-dir to start over")
        return None

    def clean(self) -> None:
        """Remove what a killed process left half-written. Only for the process that holds the run's lock."""
        if self.folder.is_dir():
            for path in self.folder.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(path, ignore_errors=True)

    def remove_all(self) -> None:
        """Remove every checkpoint and the folder itself: a finished run keeps only its model."""
        for path in self._all():
            shutil.rmtree(path, ignore_errors=True)
        self.clean()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _all(self) -> list[Path]:
        """Oldest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((path for path in found if _NAME.fullmatch(path.name) and path.is_dir()), key=_number)

    def _make_folder(self, step: int) -> None:
        if self.folder.is_dir():
            return
        try:
            self.folder.mkdir(parents=True)
            fsync(self.folder.parent)
        except OSError as error:
            raise CheckpointError(
                f"cannot write the checkpoint of step {step} into {self.folder}: {reason(error)}"
            ) from error

    def _prune(self, newest: Path) -> None:
        """Keep `newest` and the ones before it that are not known to be damaged, `keep` in all."""
        whole = [path for path in self._all() if path not in self._damaged]
        kept = {newest, *whole[-self.keep :]}
        for path in self._all():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _failure(self, step: int, error: BaseException, free: int) -> str:
        kept = self._all()
        intact = f"{kept[-1].name} is intact" if kept else "there is no earlier one"
        # NumPy and torch lose the errno of a short write; what else an OSError may be, its errno says.
        remedy = "free some space" if getattr(error, "errno", None) in {None, *DISK_FULL} else "mend that"
        return (
            f"cannot write the checkpoint of step {step} into {self.folder} ({reason(error)}; "
            f"{human_bytes(free)} free): {intact}; {remedy}, then go on with --resume"
        )


def _number(path: Path) -> int:
    return int(path.name.split("-", 1)[0])


def _seal(directory: Path, step: int, meta: Any) -> None:
    """Write the manifest and force everything in `directory` onto the disk."""
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        fsync(path)
    body = {"step": step, "meta": meta, "files": files}
    manifest = directory / MANIFEST
    manifest.write_text(
        json.dumps({"body": body, "crc32": _body_crc32(body)}, indent=1, allow_nan=False), encoding="utf-8"
    )
    fsync(manifest)
    for folder, _, _ in os.walk(directory, topdown=False):
        fsync(Path(folder))


def _check(directory: Path) -> dict[str, Any]:
    """The manifest's body. Raises ValueError or OSError for the first file that is not as it says."""
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    body: dict[str, Any] = manifest["body"]
    if _body_crc32(body) != manifest["crc32"]:
        raise ValueError(f"the checksum of {MANIFEST} does not match")
    for name, expected in body["files"].items():
        path = directory / name
        if path.stat().st_size != expected["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}")
        if _crc32(path) != expected["crc32"]:
            raise ValueError(f"the checksum of {name} does not match")
    return body


def _body_crc32(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True, allow_nan=False).encode())


def _crc32(path: Path) -> int:
    buffer = memoryview(bytearray(_CHUNK))
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:count], checksum)
    return checksum
