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
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from evaluation.analysis.comparisons.selection import (
    Row,
    Selection,
    part_kinds,
    refuse_mixed,
    refuse_no_score,
    run_rows,
    select,
)
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import Reference, limits_of, normalize, widened
from evaluation.analysis.data.protocol import Protocol
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, Statistic, counted, interquartile_mean, statistic
from evaluation.analysis.stats.bootstrap import DEFAULT, Bootstrap, Estimate
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
    refuse_no_score(metric, "sensitivity is")
    rows = run_rows(dataset, metric)
    chosen = [row for row in rows if (row["part"] == part if part else row["kind"] in SENSITIVITY_KINDS)]
    if part and not chosen:
        raise UserError(f"{dataset.name} has no runs of a part {part!r}")
    chosen = [row for row in chosen if not math.isnan(row[metric])]  # where all of a task without references diverged
    found = [(row, value) for row in chosen if (value := _option(row, option)) is not None]
    if chosen and not found:
        raise UserError(f"no run of these parts has a number {option}")
    for name in dict.fromkeys(row["part"] for row, _ in found):
        refuse_mixed([row for row, _ in found if row["part"] == name])
    groups: dict[tuple[str, Cell, str], list[tuple[float, float]]] = defaultdict(list)
    protocols: dict[tuple[str, Cell, str], str] = {}
    for row, value in found:
        labels = row["part"], _cell(row), row["optimizer"]
        groups[labels].append((value, row[metric]))
        protocols[labels] = row["protocol"]
    result = []
    for labels, points in groups.items():
        limits = limits_of(Protocol.read(protocols[labels]).fields)
        for values, scores in _bins(points):
            first, last = float(values.min()), float(values.max())
            middle = first
            if first < last:
                middle = float(np.exp(np.log(values).mean()) if first > 0 else values.mean())
            iqm = how.estimate(interquartile_mean, scores).within(*widened(limits, scores))
            result.append(SensitivityRow(*labels, middle, first, last, scores.size, iqm))
    note = f"IQM of the runs, diverged ones as the worst; {how.level:.0%} intervals by the bootstrap, seed {how.seed}"
    return Table(f"{metric} score by {option}", result, note)


def _cell(row: Row) -> Cell:
    return Cell(row["task"], row["setting"])


def robustness(
    dataset: Dataset, part: str | None = None, *, metric: str = "final", how: Bootstrap = DEFAULT
) -> Table[RobustnessRow]:
    """What the optimizers of a robustness part (default: the study's only one) reach at random settings, or those of a
    grid at its points.

    The bootstrap draws settings; of a grid, whose points are all there are, it draws the runs of each point. Raises
    `UserError` where there is no such part, and as `selection.select`.
    """
    kinds = part_kinds(dataset)
    names = [name for name, kind in kinds.items() if kind == "robustness"]
    if part is None and len(names) != 1:
        raise UserError(
            f"{dataset.name} has {len(names) or 'no'} parts of kind robustness: name one of {', '.join(names)}"
        )
    name = names[0] if part is None else part
    if kinds.get(name, "robustness") not in ("robustness", "grid"):
        raise UserError(f"part {name} is a {kinds[name]}, not of kind robustness or grid")
    selection = select(dataset, name, metric)
    refuse_no_score(metric, "robustness is")
    random = selection.kind == "robustness"
    how = replace(how, tasks=random)
    rows = []
    for cell, methods in _settings(selection).items():
        best = {method: float(scores.mean(axis=0).max()) for method, scores in methods.items()}
        of_any = max(best.values())
        near, area = _near_and_area(selection.references[cell.task], of_any, random)
        for method in (method for method in selection.methods if method in methods):
            scores = methods[method]
            shares = (how.estimate(of, scores).within(0.0, 1.0) for of in (near, area))
            rows.append(RobustnessRow(name, cell, method, scores.shape[1], best[method], of_any, *shares))
    drawn, where = ("settings", "random settings") if random else ("the runs of each point", "the points of the grid")
    note = f"{how.level:.0%} intervals by the bootstrap over {drawn}, {how}"
    return Table(f"{selection.metric.words} at {where}", rows, note)


def _settings(selection: Selection) -> dict[Cell, dict[Method, Array]]:
    """Task and setting -> method -> scores (R, S) of R runs at each of S settings of its options.

    Random settings are one "run" each, a mean over their seeds; what is drawn of them are the settings.
    """
    points: dict[Cell, dict[Method, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for cell, methods in selection.cells.items():
        for method, values in methods.items():
            settings = values[:, None] if selection.kind == "robustness" else [values]
            points[replace(cell, point="")][method].extend(settings)
    return {
        cell: {
            method: np.stack([one[: min(map(len, some))] for one in some], axis=1) for method, some in methods.items()
        }
        for cell, methods in points.items()
    }


def _near_and_area(to: Reference, best: float, random: bool) -> tuple[Statistic, Statistic]:
    """Of scores (R, S): the share of the settings, `random` ones or all there are, within `NEAR` of the best, and the
    mean cut normalized score."""
    bound = best - NEAR * (to.high - to.low)

    @counted if random else statistic
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


def _bins(points: Sequence[tuple[float, float]]) -> list[tuple[Array, Array]]:
    """(value, score) pairs -> the values and the scores of each distinct value, or of each bin of them."""
    distinct = Counter(value for value, _ in points)
    positive = all(0 < value < math.inf for value in distinct)
    binned = positive and np.median([*distinct.values()]) < 2 < len(points)
    bins: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for value, score in points:
        bins[math.floor(math.log10(value) * BINS_PER_DECADE) if binned else value].append((value, score))
    return [(np.array(some)[:, 0], np.array(some)[:, 1]) for _, some in sorted(bins.items())]
