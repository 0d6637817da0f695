"""Writing files so that a killed process or a full disk never leaves half of one under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST_NAME = 255  # bytes that file systems take as the name of a file or folder
LONGEST_PATH = 4095  # bytes of a whole path
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
ESCAPE = "\\"  # before text that would be taken for such a number (a setting that is called "Infinity"), or begins so


# torch.save meets a full disk as a RuntimeError of its zip writer, which keeps no errno.
_TORCH_WRITE_ERROR = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos")


def is_write_error(error: BaseException) -> bool:
    """Whether something could not be written or read, whichever library says so."""
    return isinstance(error, OSError) or (
        isinstance(error, RuntimeError) and bool(_TORCH_WRITE_ERROR.search(str(error)))
    )


def fsync(path: Path) -> None:
    """Force a file's contents, or a directory's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write into; renamed to `path` if the block ends well, removed if it does not.

    >>> with atomic_path(run / "model.pt") as temporary:
    ...     torch.save(state, temporary)
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def atomic_write(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: a reader sees the old or the new file, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may be no text


def encode_float(value: float) -> float | str:
    """A number as valid JSON: itself, or one of the strings "NaN", "Infinity", "-Infinity".

    JSON has no such numbers, null would not tell them apart, and Python's ``float``, JavaScript's ``Number`` and
    DuckDB's ``CAST(... AS DOUBLE)`` all read these three spellings.
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def to_json(value: Any) -> Any:
    """`value` with mappings and sequences made plain and non-finite floats spelled as `encode_float` does; text that
    reads like one of them gets a backslash."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return f"{ESCAPE}{value}" if value.lstrip(ESCAPE) in NON_FINITE else value
    if not isinstance(value, bool) and hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    return encode_float(value) if isinstance(value, float) else value


def from_json(value: Any) -> Any:
    """The inverse of `to_json` for what `json.loads` returned: the three strings become floats again, text is text."""
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, str) and value.lstrip(ESCAPE) in NON_FINITE:
        return NON_FINITE.get(value) or value.removeprefix(ESCAPE)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    atomic_write(path, json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def folder_name(name: str, longest: int = LONGEST_NAME) -> str:
    """`name`, or where it is longer than file systems take its beginning and a hash of the whole."""
    if len(name.encode()) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[: longest - 17].decode(errors='ignore')}-{digest}"


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of a SQLite database in this file, whatever its folders are called (`a?b`, `100%`).

    Raises:
        ValueError: a name is no text in UTF-8, which URLs are.
    """
    from sqlalchemy import URL

    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError("its path is no text in UTF-8") from error
    # With the driver's name: of "sqlite:///a%3Fb/x.db" MLflow makes the folder "a%3Fb", though it is not used.
    return URL.create("sqlite+pysqlite", database=str(path.absolute())).render_as_string(hide_password=False)


def tail(path: Path, start: int = 0, size: int = 4096) -> str:
    """The last `size` bytes of a text file that grows, or what there is of it behind the byte `start`."""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - size))
        return file.read().decode(errors="replace")
