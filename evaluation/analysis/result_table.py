"""Results as tables: a list of records of one kind, with what a page or a file needs to show them."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.bootstrap import TOO_FEW, Estimate
from evaluation.files import atomic_write

Record = TypeVar("Record")


class Columns:
    """``cell: Annotated[Cell, Columns("group", "task")]``: the columns of a field of a record that are not named after
    it. Of a `Cell` "task" and, under any other name, its `group`, in this order (`every` where it is over all of them);
    of an `Estimate` what stands before _low and _high."""

    def __init__(self, *names: str, every: str | None = None) -> None:
        self.names = names
        self.every = every


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
        """One mapping a record, a plain value a column, in the order of its fields."""
        hints = get_type_hints(type(self.records[0]), include_extras=True) if self.records else {}
        return [
            {
                column: value
                for name, hint in hints.items()
                for column, value in _flat(name, getattr(record, name), *getattr(hint, "__metadata__", ()))
            }
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


def _flat(field: str, value: Any, columns: Columns | None = None) -> Iterator[tuple[str, Any]]:
    """The columns of one field: the only place where results lose their types."""
    if isinstance(value, Estimate):
        before = "".join(f"{name}_" for name in (columns.names if columns else (field,)) if name)
        none = math.isnan(value.low) and not math.isnan(value.value)
        low, high = (TOO_FEW, TOO_FEW) if none else (value.low, value.high)
        yield from ((field, value.value), (f"{before}low", low), (f"{before}high", high))
    elif isinstance(value, Cell):
        names, every = (columns.names, columns.every) if columns else (("task", "setting"), None)
        for name in names:
            yield name, (value.task or every) if name == "task" else (not value.setting and every) or value.group
    else:
        yield field, value.name if isinstance(value, Method) else value
