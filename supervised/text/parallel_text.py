"""Plain parallel text: train.en and train.de, valid.*, test.*, one sentence a line, also compressed (.gz)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from evaluation.cli.errors import UserError, reason
from evaluation.runs.resources import human_bytes
from supervised.text.corpus import SPLITS, Corpus, Row

CHUNK = 1 << 20
LONGEST_LINE = 1 << 20  # bytes: what is longer is no sentence, and no text


class ParallelText(Corpus):
    """Files of a folder (FOLDER/train.en) or with a prefix (PREFIX.train.en).

    A line ends with a line feed and with nothing else (Unicode knows other separators, which occur within sentences).
    """

    def __init__(self, path: Path, source: str, target: str) -> None:
        self.name, self.source, self.target = path.resolve().name, source, target
        self._path = path
        self._streams: dict[str, tuple[int, Iterator[Row]]] = {}  # split -> next row's number, rows from it

    def identity(self) -> dict[str, Any]:
        files = [self._file(split, language) for split in SPLITS for language in (self.source, self.target)]
        sizes = {path.name: path.stat().st_size for path in files}
        return {"corpus": self.name, "source": self.source, "target": self.target, "bytes": sizes}

    def fingerprint(self) -> str:
        digests = "".join(self._read_through(split, one)[1] for split in SPLITS for one in (self.source, self.target))
        return hashlib.sha256(digests.encode()).hexdigest()

    def rows(self, split: str) -> int:
        counts = {language: self._read_through(split, language)[0] for language in (self.source, self.target)}
        one, other = counts.values()
        if one != other:
            lines = " and ".join(f"{self._file(split, name)} has {count:,}" for name, count in counts.items())
            raise UserError(f"line counts differ: {lines} lines; sentence pairs are lines with the same number")
        if not one:
            raise UserError(f"{self._file(split, self.source)} is empty")
        return one

    def block(self, split: str, start: int, stop: int) -> list[Row]:
        position, stream = self._streams.pop(split, (start + 1, iter(())))
        if position > start:
            position, stream = 0, self._rows(split)
        rows = list(itertools.islice(stream, start - position, stop - position))
        self._streams[split] = (stop, stream)
        return rows

    def _rows(self, split: str) -> Iterator[Row]:
        source, target = self._file(split, self.source), self._file(split, self.target)
        with _open(source) as one, _open(target) as other:
            for first, (left, right) in enumerate(zip(_lines(one, source), _lines(other, target), strict=True)):
                if not first:
                    left, right = left.removeprefix("\ufeff"), right.removeprefix("\ufeff")
                yield left, right

    @functools.cache  # noqa: B019 - one corpus a process
    def _read_through(self, split: str, language: str) -> tuple[int, str]:
        """Number of lines and digest of a file."""
        path = self._file(split, language)
        lines, last, digest = 0, b"\n", hashlib.sha256()
        try:
            with _open(path) as file:
                while chunk := file.read(CHUNK):
                    lines, last = lines + chunk.count(b"\n"), chunk[-1:]
                    digest.update(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read: {reason(error)}") from error
        return lines + (last != b"\n"), digest.hexdigest()

    def _file(self, split: str, language: str) -> Path:
        name = f"{split}.{language}"
        plain = self._path / name if self._path.is_dir() else self._path.with_name(f"{self._path.name}.{name}")
        for path in (plain, plain.with_name(f"{plain.name}.gz")):
            if path.is_file():
                return path
        names = f"{', '.join(SPLITS)}.{self.source} and .{self.target}"
        raise UserError(
            f"there is no {plain}: --data takes dict-ende, wmt14, a folder with {names} (a sentence a line; also .gz) "
            "or the prefix of such files"
        )


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(file: IO[bytes], path: Path) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path} has a line of more than {human_bytes(LONGEST_LINE)}: it is no text with a sentence a line"
            )
        yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
