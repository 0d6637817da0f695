"""Which run of a study: what tells it apart from all others, and its folder."""

from __future__ import annotations

from typing import NamedTuple

from evaluation.files import folder_name


class Arm(NamedTuple):
    """The runs that differ in variant and seed alone: an optimizer on a task in a setting, in a part."""

    part: str
    task: str
    setting: str
    optimizer: str

    def __str__(self) -> str:
        return "/".join(self)


class RunId(NamedTuple):
    """A run of a study. As text it is the path of the run folder in the study folder, which is never read back: the
    study's index holds the fields, and names that are too long for a folder are shortened."""

    part: str
    task: str
    setting: str
    optimizer: str
    variant: str
    seed: int

    @property
    def arm(self) -> Arm:
        return Arm(*self[:4])

    def __str__(self) -> str:
        return "/".join((*map(folder_name, self[:5]), f"s{self.seed}"))
