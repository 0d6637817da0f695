"""The figures of a meta-learning (`asgc-meta learn`): the way of the learned options, and of the tasks' returns."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from asgc.meta import KINDS, PARAMETERS, Preset
from evaluation.cli.errors import UserError
from evaluation.meta import definition
from evaluation.meta.around_cli import read_around
from evaluation.meta.learners import read_path
from evaluation.plots import style
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, series
from evaluation.plots.study_data import Found, figure_or_reason

_STEPS = Axis("meta-training step")
_EVERY = "all layers"


class LearnedData:
    """The folder of a meta-learning as figures need it. `preset`: what it ended with; None: it has not ended.

    Raises:
        UserError: its files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.definition = definition.load(folder / definition.DEFINITION)
        self.steps = read_path(folder)
        self.preset = _learned(folder / f"{self.definition.name}.json")
        self.around = read_around(folder, self.preset)
        self.looks = style.looks([*map(self.label, self.kinds), *self._tasks, _EVERY])

    @property
    def _tasks(self) -> tuple[str, ...]:
        return (*self.definition.tasks, *self.definition.held_out)

    @functools.cached_property
    def kinds(self) -> tuple[str, ...]:
        """Those with options of their own, and one that stands for the others."""
        own = self.definition.space.kinds
        others = [kind for kind in KINDS if kind not in own]
        return (*own, *others[:1])

    def label(self, kind: str) -> str:
        """Of a kind's line."""
        own = self.definition.space.kinds
        return kind if kind in own else "other layers" if own else _EVERY

    def line(self, label: str, values: list[float]) -> Any:
        """A value by step."""
        return series(label, [row["step"] for row in self.steps], values, n=1)

    def figure(
        self, name: str, title: str, panels: list[Panel], caption: str, reason: str, **options: Any
    ) -> Figure | Omitted:
        """The figure of this learning, or for which `reason` there is none."""
        return figure_or_reason(name, panels, reason, title, caption, member=self.definition.name, **options)


def _learned(file: Path) -> Preset | None:
    try:
        return Preset.load(file) if file.is_file() else None
    except ValueError as error:
        raise UserError(str(error)) from error


def options(learned: LearnedData) -> Found:
    """Every learned option by step, a line each kind of layer; where options change with the share of training that is
    done, those at its end beside them."""
    ends = ("values", "late") if learned.definition.space.by_share else ("values",)
    panels = []
    for name in learned.definition.space.names:
        axis = Axis("", log=PARAMETERS[name].log)
        if name == "lr":
            rates = [row["lr"] for row in learned.steps]
            panels.append(Panel(name, _column("values", ends), _STEPS, axis, (learned.line(_EVERY, rates),)))
            continue
        for end in ends:
            lines = tuple(
                learned.line(learned.label(kind), [row[end][kind][name] for row in learned.steps])
                for kind in learned.kinds
            )
            panels.append(Panel(name, _column(end, ends), _STEPS, axis, lines))
    caption = (
        "Learned options before each step of meta-training, by kind of layer"
        + ("; at the start and at the end of a training, between which they change. " if len(ends) > 1 else ". ")
        + "One meta-training, so nothing is said of other seeds."
    )
    how: dict[str, Any] = {"names": ("option", "when", "step", "value"), "per_panel": (3.4, 1.7)}
    return [learned.figure("learned-options", "Learned options", panels, caption, "no step yet", **how)]


def returns(learned: LearnedData) -> Found:
    """The mean return of each task over the particles (or runs) of a step."""
    panels = []
    for task in learned.definition.tasks:
        known = [(row["step"], row["returns"][task]) for row in learned.steps if math.isfinite(row["returns"][task])]
        line = series(task, [step for step, _ in known], [value for _, value in known], n=1)
        panels.append(Panel(task, "", _STEPS, Axis("return"), (line,)))
    caption = (
        "Mean return of each task in each step of meta-training, of those that did not diverge; higher is better. Over "
        "truncations it rises and falls with the part of a run that a step sees."
    )
    how: dict[str, Any] = {"names": ("task", "", "step", "return"), "per_panel": (3.4, 1.7)}
    return [learned.figure("learning-returns", "Returns while learning", panels, caption, "no step yet", **how)]


def sensitivity(learned: LearnedData) -> Found:
    """The return with one option at a time moved away from what was learned (`asgc-meta around`)."""
    rows = learned.around
    if not rows:
        return [Omitted("sensitivity", "nothing has been moved away from what is learned (`asgc-meta around`)")]
    panels, middle = [], {"offset": 0.0, "returns": rows[0]["returns"]}
    for name in dict.fromkeys(row["option"] for row in rows[1:]):
        moved = sorted(
            (row for row in (*rows[1:], middle) if row.get("option", name) == name), key=lambda x: x["offset"]
        )
        for task in rows[0]["returns"]:
            found = np.array([row["returns"][task] for row in moved], np.float64)  # (settings, seeds), NaN: diverged
            ends = {"low": found.min(1), "high": found.max(1), "n": found.shape[1]}
            line = series(task, [row["offset"] for row in moved], found.mean(1), **ends)
            learned_as = Mark("x", 0.0), Mark("y", float(np.mean(rows[0]["returns"][task])))
            panels.append(Panel(name, task, Axis("moved by"), Axis("", share=task), (line,), learned_as))
    caption = (
        "Mean return over seeds with one option moved away from what was learned, in all layers, by so many units of "
        "the learned vector; band: the worst and the best seed. Dashed: as learned. A gap: a run diverged."
    )
    how: dict[str, Any] = {"names": ("option", "task", "moved_by", "return"), "per_panel": (2.2, 1.4)}
    return [learned.figure("sensitivity", "Sensitivity", panels, caption, "nothing finite", **how)]


def _column(end: str, ends: tuple[str, ...]) -> str:
    return {"values": "at the start", "late": "at the end"}[end] if len(ends) > 1 else ""
