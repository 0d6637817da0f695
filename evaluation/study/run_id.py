"""Which run of a study: what tells it apart from all others, and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """Where runs that differ in variant and seed alone belong."""

    part: str
    task: str
    setting: str
    optimizer: str

    def __str__(self) -> str:
        return "/".join(self)


class RunId(NamedTuple):
    """A run of a study. As text it is the path of the run folder in the study folder, which is never read back: the
    study's index holds the fields."""

    part: str
    task: str
    setting: str
    optimizer: str
    variant: str
    seed: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> RunId:
        """The run of a line of the index."""
        return cls(*(entry[name] for name in cls._fields))

    @property
    def cell(self) -> Cell:
        return Cell(*self[:4])

    def joined(self, separator: str) -> str:
        """All fields as one name."""
        return separator.join((*self[:5], f"s{self.seed}"))

    def __str__(self) -> str:
        return self.joined("/")
