"""How much does a method depend on its settings? Sensitivity to one option, and what random settings give.

    sensitivity(data)              # IQM by learning rate, of searches, grids and robustness parts
    robustness(data)               # share of random settings near the best, area under their distribution
    robustness(data, "rates")      # the same of the points of a grid

Both return tables with intervals from an explicit seed. Which of two methods is better at random settings:
``compare(data, part)`` of the robustness part.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from evaluation.analysis.comparisons.selection import Row, Selection, refuse_mixed, run_rows, select
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, Statistic, interquartile_mean, statistic
from evaluation.analysis.stats.bootstrap import Bootstrap, Estimate
from evaluation.cli.errors import UserError

LEARNING_RATE = "optimizer.lr"
SENSITIVITY_KINDS = ("search", "grid", "robustness")
BINS_PER_DECADE = 2  # where nearly every run has a value of its own
NEAR = 0.05  # of the reference range: "within 5 points of 100"


@dataclass(frozen=True)
class SensitivityRow:
    """Scores of an optimizer at one value of an option (`value_low` = `value_high`), or over a bin of values."""

    part: str
    cell: Cell
    optimizer: str
    value: float
    value_low: float
    value_high: float
    n: int
    iqm: Annotated[Estimate, Columns("")]


@dataclass(frozen=True)
class RobustnessRow:
    """What an optimizer reaches at random settings of its options, or at the points of a grid.

    `best` is the best setting's score, in the task's units; `near` the share of settings within `NEAR` of the reference
    range of the best setting of *any* optimizer of the cell (`cell_best`). `area` is the mean normalized score, each
    cut to [0, 1]: the area under the share of settings that reach at least a score, over that score.
    """

    part: str
    cell: Cell
    optimizer: Method
    settings: int
    best: float
    cell_best: float
    near: Estimate
    area: Estimate


def sensitivity(
    dataset: Dataset,
    part: str | None = None,
    *,
    option: str = LEARNING_RATE,
    metric: str = "final",
    how: Bootstrap = Bootstrap(repetitions=2_000),  # noqa: B008  (frozen)
) -> Table[SensitivityRow]:
    """IQM of a score by the value of a numeric option, for every optimizer of every cell.

    `part`: default all searches, grids and robustness parts. Where most values occur once (random searches), they are
    put into bins of half a decade. The other options vary along: in a search these are the scores of its trials, not of
    the best ones. Raises `UserError` for an unknown part, an option that no run has, and runs of two protocols.
    """
    if metric not in ("final", "auc", "last", "mean_score"):
        raise UserError(f"sensitivity is shown for a score, not for {metric!r}: final, auc, last or mean_score")
    rows = run_rows(dataset, metric)
    chosen = [row for row in rows if (row["part"] == part if part else row["kind"] in SENSITIVITY_KINDS)]
    if part and not chosen:
        raise UserError(f"{dataset.name} has no runs of a part {part!r}")
    chosen = _with_diverged(chosen, metric)
    found = [(row, value) for row in chosen if (value := _option(row, option)) is not None]
    if chosen and not found:
        raise UserError(f"no run of these parts has a number {option}")
    groups: dict[tuple[str, Cell, str], list[tuple[float, float]]] = defaultdict(list)
    for name in dict.fromkeys(row["part"] for row, _ in found):
        refuse_mixed([row for row, _ in found if row["part"] == name])
    for row, value in found:
        groups[row["part"], Cell(row["task"], row["setting"]), row["optimizer"]].append((value, row[metric]))
    result = []
    for labels, points in groups.items():
        for values, scores in _bins(points):
            first, last = float(min(values)), float(max(values))
            middle = first
            if first < last:
                middle = float(np.exp(np.mean(np.log(values)))) if first > 0 else float(np.mean(values))
            iqm = how.estimate(interquartile_mean, scores)
            result.append(SensitivityRow(*labels, middle, first, last, scores.size, iqm))
    note = f"IQM of the runs, diverged ones as the worst; {how.level:.0%} intervals by the bootstrap, seed {how.seed}"
    return Table(f"{metric} score by {option}", result, note)


def _with_diverged(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Rows in which a diverged run (NaN) has the worst score of its task and setting; without those that have none."""
    worst: dict[tuple[str, str], float] = {}
    for row in rows:
        if not math.isnan(row[metric]):
            cell = row["task"], row["setting"]
            worst[cell] = min(row[metric], worst.get(cell, math.inf))
    known = [row for row in rows if (row["task"], row["setting"]) in worst]
    return [row | {metric: worst[row["task"], row["setting"]]} if math.isnan(row[metric]) else row for row in known]


def robustness(
    dataset: Dataset,
    part: str | None = None,
    *,
    metric: str = "final",
    how: Bootstrap = Bootstrap(),  # noqa: B008  (frozen)
) -> Table[RobustnessRow]:
    """What the optimizers of a robustness part (default: the study's only one) reach at random settings, or those of a
    grid at its points.

    The bootstrap draws settings; of a grid, whose points are all there are, it draws the runs of each point. Raises
    `UserError` where there is no such part, and as `selection.select`.
    """
    kinds = {row["part"]: row["kind"] for row in dataset.rows("SELECT DISTINCT part, kind FROM runs ORDER BY part")}
    names = [name for name, kind in kinds.items() if kind == "robustness"]
    if part is None and len(names) != 1:
        raise UserError(
            f"{dataset.name} has {len(names) or 'no'} parts of kind robustness: name one of {', '.join(names)}"
        )
    name = names[0] if part is None else part
    if kinds.get(name, "robustness") not in ("robustness", "grid"):
        raise UserError(f"part {name} is a {kinds[name]}, not of kind robustness or grid")
    selection = select(dataset, name, metric)
    if selection.metric.kind != "score":
        raise UserError(f"robustness is shown for a score, not for {metric!r}: final, auc, last or mean_score")
    random = selection.kind == "robustness"
    how = replace(how, tasks=random)
    rows = []
    for cell, methods in _settings(selection).items():
        best = max(float(scores.mean(axis=0).max()) for scores in methods.values())
        for method in (method for method in selection.methods if method in methods):
            scores = methods[method]
            statistics = _near_and_area(selection, cell, best)
            row = RobustnessRow(
                name, cell, method, scores.shape[1], float(scores.mean(axis=0).max()), best,
                *(how.estimate(one, scores) for one in statistics),
            )  # fmt: skip
            rows.append(row)
    drawn, where = ("settings", "random settings") if random else ("the runs of each point", "the points of the grid")
    note = f"{how.level:.0%} intervals by the bootstrap over {drawn}, {how}"
    return Table(f"{selection.metric.words} at {where}", rows, note)


def _settings(selection: Selection) -> dict[Cell, dict[Method, Array]]:
    """Task and setting -> method -> scores (R, S) of R runs at each of S settings of its options.

    Random settings are one "run" each, a mean over their seeds; what is drawn of them are the settings.
    """
    if selection.kind == "robustness":
        return {
            cell: {method: values[None, :] for method, values in methods.items()}
            for cell, methods in selection.cells.items()
        }
    points: dict[Cell, dict[Method, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for cell, methods in selection.cells.items():
        for method, values in methods.items():
            points[replace(cell, point="")][method].append(values)
    return {
        cell: {
            method: np.stack([one[: min(map(len, some))] for one in some], axis=1) for method, some in methods.items()
        }
        for cell, methods in points.items()
    }


def _near_and_area(selection: Selection, cell: Cell, best: float) -> tuple[Statistic, Statistic]:
    """Of scores (R, S): the share of the settings within `NEAR` of the best, and the mean cut normalized score."""
    to = selection.references[cell.task]
    bound = best - NEAR * (to.high - to.low)

    @statistic
    def near(drawn: Array) -> Array:
        return np.asarray((drawn.mean(axis=-2) >= bound).mean(axis=-1))

    @statistic
    def area(drawn: Array) -> Array:
        return np.asarray(np.clip(normalize(drawn.mean(axis=-2), to), 0.0, 1.0).mean(axis=-1))

    return near, area


def _option(row: Row, option: str) -> float | None:
    """A run's value of an option, where it is a number; the learning rate is known even where nobody set it."""
    if option == LEARNING_RATE:
        return None if row["lr"] is None else float(row["lr"])
    value: Any = json.loads(row["options"]).get(option)
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _bins(points: Sequence[tuple[float, float]]) -> list[tuple[list[float], Array]]:
    """(value, score) pairs -> the values and the scores of each distinct value, or of each bin of them."""
    by_value: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for value, score in points:
        by_value[value].append((value, score))
    positive = all(0 < value < math.inf for value in by_value)
    if positive and np.median([len(same) for same in by_value.values()]) < 2 < len(points):
        bins: dict[float, list[tuple[float, float]]] = defaultdict(list)
        for value, score in points:
            bins[math.floor(math.log10(value) * BINS_PER_DECADE)].append((value, score))
        by_value = bins
    return [
        ([value for value, _ in by_value[key]], np.array([score for _, score in by_value[key]]))
        for key in sorted(by_value)
    ]
