"""What a source of sentence pairs is, and when a pair is broken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

SPLITS = ("train", "valid", "test")

Row = tuple[str, str]  # source and target; bytes that are no UTF-8 are lone surrogates (`surrogateescape`)


class Corpus(ABC):
    """Sentence pairs of the splits "train", "valid" and "test", by number.

    Attributes:
        name: for people, and for a folder that is called after it.
        source, target: languages, as "en" and "de".
        licence: of the text; "" where it is not known.
        lines: what a row's number, from 1, is called ("line").
        vocab_size: subwords that go with its size.
        remote: its identity is not to be had without a network.
    """

    name: str
    source: str
    target: str
    licence = ""
    lines = "line"
    vocab_size = 32_000
    remote = False

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells it from others, without reading it whole: name, languages, sizes. JSON-able.

        Raises:
            UserError: it is not there; says what to get and where to put it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of its text; may read all of it."""

    @abstractmethod
    def rows(self, split: str) -> int:
        """Number of its rows, broken ones included.

        Raises:
            UserError: the split is not there, or its two sides do not have the same number of lines.
        """

    @abstractmethod
    def block(self, split: str, start: int, stop: int) -> list[Row]:
        """The rows from `start` up to `stop`; cheap where blocks are asked for in ascending order."""


def fault(row: Row) -> str | None:
    """Why a row cannot be used: "empty", "NUL" or "invalid UTF-8"; None: it can."""
    for text in row:
        if not text or text.isspace():
            return "empty"
        if "\0" in text:
            return "NUL"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return "invalid UTF-8"
    return None
