"""Results as tables: a list of records of one kind, with what a page or a file needs to show them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from evaluation.files import atomic_write

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class Table(Generic[Record]):
    """Records (dataclasses of one kind) under a title; `note` says how they were computed."""

    title: str
    records: Sequence[Record]
    note: str = ""

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a record, in the order of its fields."""
        return [
            {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}  # type: ignore[arg-type]
            for record in self.records
        ]

    def csv(self) -> str:
        """The table as CSV with a header; numbers to the last bit."""
        rows, text = self.rows(), io.StringIO()
        if rows:
            writer = csv.DictWriter(text, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write `csv()` to a file, atomically."""
        atomic_write(path, self.csv())
