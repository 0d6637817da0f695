"""What the figures of a study ask of its data set: its parts, its names in their order, its runs by cell."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.comparisons.compare import BASELINES, Comparison, compare
from evaluation.analysis.comparisons.selection import Row, run_rows
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.diverged import replaced, worst_score
from evaluation.analysis.data.run_key import Cell, RunKey
from evaluation.analysis.stats.aggregate import above, share
from evaluation.analysis.stats.bootstrap import MIN_RUNS, TOO_FEW, Band, Bootstrap, Estimate
from evaluation.plots import style, words
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, Series, curve, dot
from evaluation.plots.words import Words

Curves = Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]  # steps and values of each run
Found = list[Figure | Omitted]
PLAIN = ("sgd", "adamw", "rmsprop", "adagrad")  # baselines where there is no adam
TOGETHER = len(style.COLOURS)  # lines in one panel, each in a colour of its own
ACROSS = 4  # columns of small multiples


@dataclass(frozen=True)
class Part:
    """One part of a study. `several`: there are others of its kind, and figures have to be told apart by name."""

    name: str
    kind: str
    several: bool

    @property
    def suffix(self) -> str:
        """At the end of a figure's name."""
        return f"-{self.name}" if self.several else ""

    def title(self, text: str) -> str:
        """A figure's title."""
        return f"{text} ({self.name})" if self.several else text

    def runs(self, cell: Cell, optimizer: str) -> RunKey:
        """The runs of an optimizer in a cell."""
        return RunKey(self.name, cell.task, cell.setting, optimizer)

    def figure(
        self, name: str, title: str, panels: list[Panel], caption: str, reason: str, **options: Any
    ) -> Figure | Omitted:
        """The figure of this part, or for which `reason` there is none."""
        return figure_or_reason(name + self.suffix, panels, reason, self.title(title), caption, **options)


class StudyData:
    """A data set as figures need it.

    Args:
        data: the tables.
        seed: of every bootstrap.
        repetitions: of the bootstrap of bands.
        baseline: the optimizer that the others are compared with (None: adam where it is).
    """

    def __init__(self, data: Dataset, *, seed: int = 0, repetitions: int = 2_000, baseline: str | None = None) -> None:
        self.data = data
        self.chosen = baseline
        self.how = Bootstrap(seed, repetitions=repetitions)
        self._comparisons: dict[tuple[str, str], Comparison] = {}

    @functools.cached_property
    def runs(self) -> list[Row]:
        """The table `runs`, by name of the run, with the final scores that comparisons have."""
        return run_rows(self.data, "final")

    @functools.cached_property
    def _worst(self) -> dict[tuple[str, str, str], float]:
        """What the evaluation of a diverged run counts as, by part, task and setting."""
        found = self.data.rows(
            """SELECT part, task, setting, min("value") FILTER (isfinite("value")) AS worst
            FROM evaluations JOIN runs USING (run) GROUP BY ALL ORDER BY ALL"""
        )
        lowest = {(row["part"], row["task"], row["setting"]): row["worst"] for row in found}
        return {
            key: worst_score([math.nan if worst is None else worst], self.data.reference(key[1]))
            for key, worst in lowest.items()
        }

    @functools.cached_property
    def optimizers(self) -> list[str]:
        """All optimizers of the data set, in the order of legends."""
        return style.order(row["optimizer"] for row in self.runs)

    @functools.cached_property
    def looks(self) -> dict[str, style.Look]:
        """How each optimizer looks in every figure."""
        return style.looks(self.optimizers)

    @functools.cached_property
    def tasks(self) -> list[str]:
        """Tasks as the definition orders them, others by name."""
        return self._ordered("task", "tasks")

    @functools.cached_property
    def settings(self) -> list[str]:
        """Settings as the definition orders them, others by name."""
        return self._ordered("setting", "settings")

    @functools.cached_property
    def words(self) -> dict[str, Words]:
        """What scores and steps are called, by task."""
        return words.of_tasks(self.data)

    def scores_in_words(self) -> str:
        """The scores of all tasks, in captions."""
        return ", or ".join(dict.fromkeys(self.words[task].evaluation for task in self.tasks))

    def place(self, runs: RunKey) -> tuple[int, ...]:
        """Where runs stand by task, setting and optimizer; before all others what is over all of these."""
        orders = ((self.tasks, runs.task), (self.settings, runs.setting), (self.optimizers, runs.optimizer))
        return tuple(names.index(name) if name in names else -1 for names, name in orders)

    def parts(self, *kinds: str) -> list[Part]:
        """The parts of these kinds that have runs: kinds in the order asked for, then as the definition orders them."""
        found = {row["part"]: row["kind"] for row in self.runs if row["kind"] in kinds}
        names = as_listed(sorted(found), self.data.definition.get("parts"))
        names.sort(key=lambda name: kinds.index(found[name]))
        return [Part(name, found[name], len(found) > 1) for name in names]

    def of(self, part: Part) -> list[Row]:
        """The runs of a part."""
        return [row for row in self.runs if row["part"] == part.name]

    def compared(self, runs: RunKey) -> list[Row]:
        """The test runs of a comparison of this optimizer here: what variants of it are compared with."""
        key = {"task": runs.task, "setting": runs.setting, "optimizer": runs.optimizer}
        key |= {"kind": "compare", "purpose": "test"}
        return [row for row in self.runs if key.items() <= row.items()]

    def cells(self, part: Part) -> Iterator[tuple[Cell, dict[RunKey, list[Row]]]]:
        """(task and setting, the runs of each optimizer) of a part, tasks outermost, all in their order."""
        for cell in (Cell(task, setting) for task in self.tasks for setting in self.settings):
            here = [row for row in self.of(part) if (row["task"], row["setting"]) == (cell.task, cell.setting)]
            runs_of = {name: [row for row in here if row["optimizer"] == name] for name in self.optimizers}
            if here:
                yield cell, {part.runs(cell, name): runs for name, runs in runs_of.items() if runs}

    @functools.cached_property
    def _evaluations(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        found = self.data.rows(
            """SELECT run, list(step ORDER BY step) AS steps, list(value ORDER BY step) AS scores
            FROM evaluations GROUP BY run"""
        )
        return {row["run"]: (np.array(row["steps"]), np.array(row["scores"])) for row in found}

    def curves(self, runs: Iterable[Row]) -> Curves:
        """All evaluations of each run; diverged ones by the rule of `data.diverged`."""
        found = []
        for row in runs:
            at, scores = self._evaluations[row["run"]]
            found.append((at, replaced(scores, self._worst[row["part"], row["task"], row["setting"]])))
        return found

    def comparison(self, part: Part, metric: str) -> Comparison:
        """`compare.compare` of a part, made once; `UserError` where its runs cannot be compared."""
        key = part.name, metric
        if key not in self._comparisons:
            options: dict[str, Any] = {"baseline": self.baseline(part), "how": Bootstrap(self.how.seed)}
            self._comparisons[key] = compare(self.data, part.name, metric=metric, **options)
        return self._comparisons[key]

    def baseline(self, part: Part) -> str | None:
        """The optimizer that the others are compared with: the given one, else `compare`'s default, else a plain one,
        else the first. None in an ablation, whose variants are compared with the whole method."""
        if part.kind == "ablation":
            return None
        names = style.order(row["optimizer"] for row in self.of(part))
        return next((name for name in (self.chosen, BASELINES[0], *PLAIN) if name in names), names[0])

    def _ordered(self, column: str, key: str) -> list[str]:
        names = style.natural_order(row[column] for row in self.runs)
        return as_listed(names, self.data.definition.get(key))


def band_of(key: RunKey, curves: Curves, how: Bootstrap) -> Series:
    """The interquartile mean of the runs' curves with its band, at every step that any of them has: over those that
    have it, and `n` says how many these are."""
    steps = np.unique(np.concatenate([np.array([], dtype=np.int64), *(at for at, _ in curves)]))
    values = np.full((len(curves), steps.size), np.nan)
    for row, (at, found) in zip(values, curves, strict=True):
        row[np.searchsorted(steps, at)] = found
    has = ~np.isnan(values)
    ends = np.full((3, steps.size), np.nan)
    for runs in np.unique(has, axis=1).T:  # mostly one: all runs have all steps
        here = (runs == has.T).all(axis=1)
        ends[:, here] = how.band(values[runs][:, here])
    return curve(key, steps, Band(*ends), n=has.sum(axis=0))


def targets(runs: Iterable[Row]) -> list[float]:
    """The targets of runs, each once."""
    found = {row["target"] for row in runs if row["target"] is not None}
    return sorted(target for target in found if not math.isnan(target))


def target_marks(axis: Literal["x", "y"], runs_of: Mapping[RunKey, Iterable[Row]]) -> tuple[Mark, ...]:
    """The targets of a cell's runs on an axis."""
    return tuple(Mark(axis, target) for target in targets(itertools.chain(*runs_of.values())))


def dots(part: Part, cell: Cell, found: Mapping[str, tuple[Estimate, int]], names: Sequence[str]) -> tuple[Series, ...]:
    """The estimate of each optimizer and its number of runs, at the place of its name among `names`."""
    return tuple(
        dot(name, estimate, names.index(name), n=n, runs=part.runs(cell, name))
        for name, (estimate, n) in found.items()
        if name in names
    )


def profiles(study: StudyData, scores: Mapping[RunKey, ArrayLike], at: NDArray[np.float64]) -> tuple[Series, ...]:
    """The share of each optimizer's scores (R,) or (R, T) above each value of `at`, with its band."""
    return tuple(
        curve(key, at, study.how.band(above(found, at), share), kind="step", n=len(np.asarray(found)))
        for key, found in scores.items()
    )


def apart(figure: Figure | Omitted, baseline: str | None) -> Found:
    """A figure of curves by task and setting; where more than `TOGETHER` optimizers would lie on each other small
    multiples: a row an optimizer, in each of its panels the baseline in grey. Of more than `ACROSS` tasks and settings
    one such figure a task."""
    if isinstance(figure, Omitted) or len(figure.labels()) <= TOGETHER:
        return [figure]
    if len(figure.panels) > ACROSS and len(figure.rows()) > 1:
        of_task = {row: tuple(panel for panel in figure.panels if panel.row == row) for row in figure.rows()}
        alike = [
            replace(figure, name=f"{figure.name}-{row}", panels=panels, family=figure.name, member=row)
            for row, panels in of_task.items()
        ]
        return [one for figure in alike for one in apart(figure, baseline)]
    panels = []
    for name in (name for name in figure.labels() if name != baseline):
        for panel in figure.panels:
            behind = [replace(one, role="baseline") for one in panel.series if one.label == baseline]
            mine = [one for one in panel.series if one.label == name]
            place = ", ".join(filter(None, (panel.row, panel.column)))
            note = "" if mine else "no runs"
            panels.append(replace(panel, row=name, column=place, series=(*behind, *mine), note=note))
    grey = f" Grey in every panel: {baseline}." if baseline in figure.labels() else ""
    names = ("optimizer", "cell", *figure.names[2:])
    shape: dict[str, Any] = {"panels": tuple(panels), "names": names, "per_panel": (1.9, 1.2)}
    return [replace(figure, caption=f"{figure.caption} Each optimizer has its own row.{grey}", **shape)]


def names_high(panels: Sequence[Panel], width: float) -> tuple[float, float]:
    """The size of panels whose categories are names, one a line."""
    return width, max(1.0, 0.55 + 0.135 * max((len(panel.categories) for panel in panels), default=1))


def steps_axis(label: str, **options: Any) -> Axis:
    """The x axis of training steps."""
    return Axis(label, si=True, **options)


def figure_or_reason(
    name: str, panels: list[Panel], reason: str, title: str, caption: str, **options: Any
) -> Figure | Omitted:
    """The figure, or why there is none when nothing is drawn on any panel."""
    if all(panel.empty for panel in panels):
        return Omitted(name, reason)
    if any(panel.lacks_intervals for panel in panels):
        caption += f" Without an interval: {TOO_FEW}, fewer than {MIN_RUNS} (of median times fewer than five)."
    return Figure(name, title, caption, tuple(panels), **options)


def as_listed(names: Sequence[str], given: Any) -> list[str]:
    """Names in the order that a definition gives them in; those that it does not name last, as they are."""
    listed = list(given) if isinstance(given, Mapping | list) else []
    return sorted(names, key=lambda name: listed.index(name) if name in listed else len(listed))
