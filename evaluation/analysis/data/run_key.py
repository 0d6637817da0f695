"""What tells runs of a study apart: the part, the task, the setting, the optimizer, the variant and the seed.

A *method* is what a comparison compares: an optimizer, or a variant of one. A *cell* is where it does so: a task in a
setting, and in a grid at one of its points. A `RunKey` names runs: with fields left empty all that agree in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ALL = "all settings"  # how the cell of all tasks and settings is called


@dataclass(frozen=True)
class RunKey:
    """Which runs: those of this part, task, setting, ...; what is empty stands for any."""

    part: str = ""
    task: str = ""
    setting: str = ""
    optimizer: str = ""
    variant: str = ""

    @classmethod
    def of(cls, part: str, cell: Cell, method: Method) -> RunKey:
        """The runs of a method in a cell."""
        return cls(part, cell.task, cell.setting, method.optimizer, cell.point or method.variant)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> RunKey:
        """The runs that a row of the table `runs` belongs with: those that differ from it in their seed only."""
        return cls(*(row[field.name] for field in fields(cls)))

    def labels(self) -> dict[str, str]:
        """The fields that are given, by name."""
        return {name: value for name, value in asdict(self).items() if value}


NOBODY = RunKey()  # where it is not said


@dataclass(frozen=True)
class Method:
    """An optimizer or, with `variant`, that variant of it. `name` is how the part calls it: an ablation of one
    optimizer by the variant alone."""

    optimizer: str
    variant: str = ""
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.optimizer)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Cell:
    """A task in a setting, in a grid at one `point`; over all tasks, or over all settings, where these are empty."""

    task: str = ""
    setting: str = ""
    point: str = ""

    @property
    def group(self) -> str:
        """The setting, with the point, in words."""
        return ", ".join(name for name in (self.setting, self.point) if name) or ALL

    def __str__(self) -> str:
        return f"{self.task} ({self.group})"
