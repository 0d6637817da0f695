"""metrics.jsonl: one JSON object a line, one line a key (step, split, name).

    {"step": 5000, "samples": 20000, "wall_s": 12.5, "split": "eval", "name": "return", "value": -20.4}

NaN and infinite values are the strings "NaN", "Infinity", "-Infinity" (`files.encode_float` says why).
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from evaluation.cli.errors import DISK_FULL, UserError
from evaluation.files import encode_float


class MetricRow(NamedTuple):
    """One value: `step` in the trainer's steps, `samples` consumed so far, `wall_s` seconds of the run (see
    `clock`)."""

    step: int
    samples: int
    wall_s: float
    split: str
    name: str
    value: float


class MetricsWriter:
    """Appends rows to a file. Every `log` reaches the operating system at once, so a killed process loses none of them;
    `length` forces them onto the disk. Where the disk is full, rows are held until there is room.

    Attributes:
        held: bytes of the rows that wait.
    """

    def __init__(self, path: Path, *, length: int = 0) -> None:
        """Open `path`, cut to its first `length` bytes (what a checkpoint recorded; 0 for a new run)."""
        rows = read_prefix(path, length) if length else []
        self._file = path.open("ab", buffering=0)
        self._file.truncate(length)
        self._length = length
        self.held = b""
        # Steps of one metric only ever grow, so its last step is all it takes to see a duplicate.
        self._last_step = {(row.split, row.name): row.step for row in rows}

    def log(self, step: int, samples: int, wall_s: float, split: str, values: Mapping[str, float]) -> list[MetricRow]:
        """Append one row for each of `values`, all or (on an error) none, and return them.

        ValueError: `step` is not above the last one of that split and name, so the key (step, split, name) would come
        twice or out of order. OSError: it cannot be written, for another reason than a full disk. The file ends with
        its last whole row in any case.
        """
        rows = [
            MetricRow(int(step), int(samples), float(wall_s), split, name, float(value))
            for name, value in values.items()
        ]
        for row in rows:
            last = self._last_step.get((row.split, row.name))
            if last is not None and row.step <= last:
                raise ValueError(f"metric {row.split}/{row.name} at step {row.step}: step {last} is already logged")
        lines = "".join(
            json.dumps({**row._asdict(), "value": encode_float(row.value)}, allow_nan=False) + "\n" for row in rows
        )
        try:
            self._append(lines.encode())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self.held += lines.encode()
        for row in rows:
            self._last_step[row.split, row.name] = row.step
        return rows

    def length(self) -> int:
        """Force what was logged onto the disk and return the file's length in bytes, for a checkpoint.

        OSError: there is no room for the rows that are held.
        """
        self._append(b"")
        os.fsync(self._file.fileno())
        return self._length

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        """Write what is held, then `data`, or nothing."""
        data = self.held + data
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self._length)
            raise OSError(error.errno, error.strerror, str(self._file.name)) from error
        self._length += len(data)
        self.held = b""


def read_rows(path: Path) -> Iterator[MetricRow]:
    """The rows of a metrics.jsonl, in the order logged.

    A last line that a killed process left unfinished is dropped, and so are lines of blanks (rows that were given up);
    damage anywhere else is a `UserError` with its line and what to do.
    """
    return _rows(path, path.read_bytes())


def read_prefix(path: Path, length: int) -> list[MetricRow]:
    """The rows in the first `length` bytes of a metrics.jsonl, all of which must be there and whole.

    Raises:
        UserError: they are not; says what to do.
    """
    data = path.read_bytes()[:length] if path.exists() else b""
    if len(data) < length:
        raise UserError(
            f"{path} has {len(data)} bytes, the checkpoint was taken at {length}: it was changed by another program; "
            "put the file back as it was, or start over in another --run-dir"
        )
    return list(_rows(path, data + b"\n"))  # so that its last line is none that may be unfinished


def _rows(path: Path, data: bytes) -> Iterator[MetricRow]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):
            return  # nothing, or a line without its newline
        if not line.strip(b" "):
            continue
        try:
            row = json.loads(line)
            yield MetricRow(
                row["step"], row["samples"], float(row["wall_s"]), row["split"], row["name"], float(row["value"])
            )
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                return  # the disk may hold the newline of a line without all of the line, after a power failure
            # Blanks of the same number keep the length that checkpoints have recorded.
            blank = f"LC_ALL=C sed -i '{number}s/./ /g' {shlex.quote(str(path))}"
            raise UserError(f"{path}, line {number}: not a row of metrics; to go on without it: {blank}") from error
