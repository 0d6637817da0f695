"""How much does a method depend on its settings? Sensitivity to one option, and what random settings give.

    sensitivity(data)              # IQM by learning rate, of searches, grids and robustness parts
    robustness(data)               # share of random settings near the best, area under their distribution
    robustness(data, "rates")      # the same of the points of a grid

Both return `tables.Table`s with intervals from an explicit seed. Which of two methods is better at random settings:
``compare(data, part)`` of the robustness part.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.selection import Row, Selection, areas_under_curves, refuse_mixed, select
from evaluation.analysis.stats.aggregate import Array, bootstrap_interval, interquartile_mean, statistic
from evaluation.analysis.table import Table
from evaluation.cli.errors import UserError

SENSITIVITY_KINDS = ("search", "grid", "robustness")
BINS_PER_DECADE = 2  # where nearly every run has a value of its own
NEAR = 0.05  # of the reference range: "within 5 points of 100"


@dataclass(frozen=True)
class SensitivityRow:
    """Scores of an optimizer at one value of an option (`value_low` = `value_high`), or over a bin of values."""

    part: str
    task: str
    setting: str
    optimizer: str
    value: float
    value_low: float
    value_high: float
    n: int
    iqm: float
    low: float
    high: float


@dataclass(frozen=True)
class RobustnessRow:
    """What an optimizer reaches at random settings of its options, or at the points of a grid.

    `best` is the best setting's score, in the task's units; `near` the share of settings within `NEAR` of the reference
    range of the best setting of *any* optimizer of the cell (`cell_best`). `area` is the mean normalized score, each
    cut to [0, 1]: the area under the share of settings that reach at least a score, over that score.
    """

    part: str
    task: str
    setting: str
    optimizer: str
    settings: int
    best: float
    cell_best: float
    near: float
    near_low: float
    near_high: float
    area: float
    area_low: float
    area_high: float


def sensitivity(
    dataset: Dataset,
    part: str | None = None,
    *,
    option: str = "optimizer.lr",
    metric: str = "final",
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 2_000,
) -> Table[SensitivityRow]:
    """IQM of a score by the value of a numeric option, for every optimizer of every cell.

    `part`: default all searches, grids and robustness parts. Where most values occur once (random searches), they are
    put into bins of half a decade. The other options vary along: in a search these are the scores of its trials, not of
    the best ones. Raises `UserError` for an unknown part, an option that no run has, and runs of two protocols.
    """
    if metric not in ("final", "auc", "last", "mean_score"):
        raise UserError(f"sensitivity is shown for a score, not for {metric!r}: final, auc, last or mean_score")
    rows = dataset.rows("SELECT * FROM runs ORDER BY run")
    chosen = [row for row in rows if (row["part"] == part if part else row["kind"] in SENSITIVITY_KINDS)]
    if part and not chosen:
        raise UserError(f"{dataset.name} has no runs of a part {part!r}")
    if metric == "auc":
        areas = areas_under_curves(dataset)
        chosen = [row | {"auc": areas[row["run"]]} for row in chosen]
    chosen = _with_diverged(chosen, metric)
    found = [(row, value) for row in chosen if (value := _option(row, option)) is not None]
    if chosen and not found:
        raise UserError(f"no run of these parts has a number {option}")
    groups: dict[tuple[str, str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for name in dict.fromkeys(row["part"] for row, _ in found):
        refuse_mixed([row for row, _ in found if row["part"] == name])
    for row, value in found:
        groups[row["part"], row["task"], row["setting"], row["optimizer"]].append((value, row[metric]))
    result = []
    for labels, points in groups.items():
        for values, scores in _bins(points):
            low, high = bootstrap_interval(interquartile_mean, scores, seed=seed, level=level, repetitions=repetitions)
            middle = float(np.exp(np.mean(np.log(values)))) if min(values) > 0 else float(np.mean(values))
            first, last = float(min(values)), float(max(values))
            middle = middle if first < last else first
            iqm = interquartile_mean(scores)
            result.append(SensitivityRow(*labels, middle, first, last, scores.size, iqm, low, high))
    how = f"IQM of the runs, diverged ones as the worst; {level:.0%} intervals by the bootstrap, seed {seed}"
    return Table(f"{metric} score by {option}", result, how)


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
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 5_000,
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
    rows = []
    for cell, methods in _settings(dataset, selection).items():
        best = max(float(scores.mean(axis=0).max()) for scores in methods.values())
        for method in (method for method in selection.methods if method in methods):
            rows.append(_robustness_row(selection, cell, method, methods[method], best, seed, level, repetitions))
    drawn = "settings" if selection.kind == "robustness" else "the runs of each point"
    note = f"{level:.0%} intervals by the bootstrap over {drawn}, {repetitions:,} repetitions, seed {seed}"
    where = "at random settings" if selection.kind == "robustness" else "at the points of the grid"
    return Table(f"{selection.metric.words} {where}", rows, note)


def _settings(dataset: Dataset, selection: Selection) -> dict[tuple[str, str], dict[str, Array]]:
    """(task, setting) -> method -> scores (R, S) of R runs at each of S settings of its options.

    Random settings are one "run" each, a mean over their seeds; what is drawn of them are the settings.
    """
    if selection.kind == "robustness":
        return {
            cell: {method: values[None, :] for method, values in methods.items()}
            for cell, methods in selection.cells.items()
        }
    found = dataset.rows("SELECT run, setting FROM runs WHERE part = ?", selection.part)
    setting = {row["run"]: row["setting"] for row in found}
    points: dict[tuple[str, str], dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for cell, methods in selection.cells.items():
        for method, values in methods.items():
            points[cell[0], setting[selection.runs[cell][method][0]]][method].append(values)
    return {
        cell: {
            method: np.stack([one[: min(map(len, some))] for one in some], axis=1) for method, some in methods.items()
        }
        for cell, methods in points.items()
    }


def _robustness_row(
    selection: Selection,
    cell: tuple[str, str],
    method: str,
    scores: Array,
    best: float,
    seed: int,
    level: float,
    repetitions: int,
) -> RobustnessRow:
    to = selection.references[cell[0]]
    bound = best - NEAR * (to.high - to.low)

    @statistic
    def near(drawn: Array) -> Array:
        return np.asarray((drawn.mean(axis=-2) >= bound).mean(axis=-1))

    @statistic
    def area(drawn: Array) -> Array:
        return np.asarray(np.clip(normalize(drawn.mean(axis=-2), to), 0.0, 1.0).mean(axis=-1))

    drawing: dict[str, Any] = {
        "seed": seed,
        "level": level,
        "repetitions": repetitions,
        "tasks": selection.kind == "robustness",
    }
    (near_low, near_high), (area_low, area_high) = (bootstrap_interval(one, scores, **drawing) for one in (near, area))
    return RobustnessRow(
        part=selection.part,
        task=cell[0],
        setting=cell[1],
        optimizer=method,
        settings=scores.shape[1],
        best=float(scores.mean(axis=0).max()),
        cell_best=best,
        near=near(scores),
        near_low=near_low,
        near_high=near_high,
        area=area(scores),
        area_low=area_low,
        area_high=area_high,
    )


def _option(row: Row, option: str) -> float | None:
    """A run's value of an option, where it is a number; the learning rate is known even where nobody set it."""
    if option == "optimizer.lr":
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
