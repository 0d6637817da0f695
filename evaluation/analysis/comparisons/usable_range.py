"""How wide is the range of learning rates in which a method is near the best? Of searches that try whole grids.

    usable_range(data, "images")         # rates as near the best as the study's definition says (`near`, by task)
    usable_range(data, "images", 0.5)    # within half a unit of the task's score

A rate counts in two ways: with the other tuned options set best for that very rate ("retuned"), and with those of the
best trial ("held"), which is what becomes of a user who changes the rate and nothing else.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.analysis.comparisons.robustness import LEARNING_RATE, NEAR
from evaluation.analysis.comparisons.selection import Row, refuse_no_score, task_reference, trial_rows
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.aggregate import Array, Statistic, statistic
from evaluation.analysis.stats.bootstrap import DEFAULT, Bootstrap, Estimate
from evaluation.cli.errors import UserError
from evaluation.study.entry import flatten


@dataclass(frozen=True)
class UsableRange:
    """The rates at which a method is at most `near` below the best score of any method (`cell_best`); scores are means
    over the grid's seeds.

    `retuned` and `held` are shares of the grid's rates; `retuned_factor` and `held_factor` the largest by the smallest
    rate of those that hang together with the best one (1: it alone; 0: not even that is near the best of any method).
    """

    part: str
    cell: Cell
    optimizer: Method
    rates: int
    best: float
    best_rate: float
    cell_best: float
    near: float
    retuned: Estimate
    retuned_factor: float
    held: Estimate
    held_factor: float


@dataclass(frozen=True)
class Grid:
    """A search that tried O settings of the other options (`others`) at each of L rates, in order, with S seeds:
    `scores` (S, L, O) of `runs` (S, L, O)."""

    rates: Array
    others: Sequence[Mapping[str, Any]]
    scores: Array
    runs: NDArray[np.object_]

    @property
    def best(self) -> tuple[int, int]:
        """Which rate and which of the other settings are best."""
        means = self.scores.mean(axis=0)
        rate, other = np.unravel_index(int(means.argmax()), means.shape)
        return int(rate), int(other)


def is_grid(dataset: Dataset, part: str) -> bool:
    """Whether a part searches whole grids of learning rates."""
    definition = dataset.part_definition(part)
    tuned = flatten(dict(definition.get("space") or {}))
    return definition.get("sampler") == "grid" and any(f"{name}.".startswith(f"{LEARNING_RATE}.") for name in tuned)


def usable_range(
    dataset: Dataset, part: str, near: float | None = None, *, metric: str = "final", how: Bootstrap = DEFAULT
) -> Table[UsableRange]:
    """What rates of a part's grids are usable, for every optimizer of every cell.

    Args:
        part: of kind search, with `sampler: grid`.
        near: in units of the score; None: what the study's definition says for the task (its key `near`), else
            5 % of the task's reference range.
        metric: a score.

    The bootstrap draws the seeds of each point. Raises `UserError` where the part is no search, a search is no whole
    grid, or `metric` is no score.
    """
    refuse_no_score(metric, "the usable range is")
    how = replace(how, tasks=False)
    result: list[UsableRange] = []
    notes: list[str] = []
    for cell, (found, rows) in grids(dataset, part, metric).items():
        of_any = max(float(grid.scores.mean(axis=0).max()) for grid in found.values())
        amount = near if near is not None else _near(dataset, rows, notes)
        result += [_row(part, cell, method, grid, of_any, amount, how) for method, grid in found.items()]
    note = "; ".join([f"{how.level:.0%} intervals by the bootstrap over the seeds of each point, {how}", *notes])
    return Table(f"Learning rates at which the {metric} score is near that of the best method", result, note)


def grids(dataset: Dataset, part: str, metric: str) -> dict[Cell, tuple[dict[Method, Grid], list[Row]]]:
    """Of every cell of a part of kind search the grid of each method, and all rows. `UserError`: the part is no search,
    or a search is no whole grid."""
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in trial_rows(dataset, part, metric, "grids"):
        cells[Cell(row["task"], row["setting"])].append(row)
    found = {}
    for cell, rows in cells.items():
        methods: dict[Method, list[Row]] = defaultdict(list)
        for row in rows:
            methods[Method(row["optimizer"])].append(row)
        found[cell] = {name: _grid(f"{name} on {cell}", own, metric) for name, own in methods.items()}, rows
    return found


def _near(dataset: Dataset, rows: Sequence[Row], notes: list[str]) -> float:
    given: Mapping[str, Any] = dataset.definition.get("near") or {}
    if (task := rows[0]["task"]) in given:
        return float(given[task])
    to = task_reference(dataset, rows, notes)
    return NEAR * (to.high - to.low)


def _row(part: str, cell: Cell, method: Method, grid: Grid, of_any: float, near: float, how: Bootstrap) -> UsableRange:
    rate, other = grid.best
    bound = of_any - near
    means = grid.scores.mean(axis=0)
    flat = grid.scores.reshape(len(grid.scores), -1)
    return UsableRange(
        part,
        cell,
        method,
        rates=len(grid.rates),
        best=float(means[rate, other]),
        best_rate=float(grid.rates[rate]),
        cell_best=of_any,
        near=near,
        retuned=how.estimate(_share(grid, bound, None), flat).within(0.0, 1.0),
        retuned_factor=_factor(grid.rates, means.max(axis=1) >= bound, rate),
        held=how.estimate(_share(grid, bound, other), flat).within(0.0, 1.0),
        held_factor=_factor(grid.rates, means[:, other] >= bound, rate),
    )


def _share(grid: Grid, bound: float, other: int | None) -> Statistic:
    """Of scores (S, L * O): the share of rates that reach the bound, with the best other options or with these."""
    shape = grid.scores.shape[1:]

    @statistic
    def share(drawn: Array) -> Array:
        means = drawn.mean(axis=-2).reshape(*drawn.shape[:-2], *shape)
        found = means.max(axis=-1) if other is None else means[..., other]
        return np.asarray((found >= bound).mean(axis=-1))

    return share


def _factor(rates: Array, usable: NDArray[np.bool_], best: int) -> float:
    """The largest by the smallest of the usable rates that hang together with the best one."""
    if not usable[best]:
        return 0.0
    low = high = best
    while low > 0 and usable[low - 1]:
        low -= 1
    while high + 1 < len(usable) and usable[high + 1]:
        high += 1
    return float(rates[high] / rates[low])


def _grid(name: str, rows: Sequence[Row], metric: str) -> Grid:
    """The scores of one search in order. `UserError`: it is not a whole grid with the same seeds everywhere."""
    options = {row["run"]: json.loads(row["options"]) for row in rows}
    varied = _varied(list(options.values()))
    points: dict[tuple[float, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        held = {key: options[row["run"]].get(key) for key in varied if key != LEARNING_RATE}
        points[float(row["lr"]), json.dumps(held, sort_keys=True)][row["seed"]] = row
    rates, others = sorted({rate for rate, _ in points}), sorted({other for _, other in points})
    seeds = sorted({seed for runs in points.values() for seed in runs})
    whole = all(len(runs) == len(seeds) for runs in points.values()) and len(rates) > 1
    if not whole or len(points) != len(rates) * len(others) or len(rows) != len(points) * len(seeds):
        raise UserError(f"the search of {name} is no whole grid over the learning rate, or not finished")
    of_points = [[[points[rate, other][seed] for other in others] for rate in rates] for seed in seeds]
    scores, runs = ([[[row[name] for row in at] for at in of] for of in of_points] for name in (metric, "run"))
    every = [json.loads(other) for other in others]
    return Grid(np.array(rates), every, np.array(scores, dtype=float), np.array(runs, dtype=object))


def _varied(options: Sequence[Mapping[str, object]]) -> list[str]:
    """The options that differ between the trials."""
    names = {name for one in options for name in one}
    return sorted(name for name in names if len({json.dumps(one.get(name)) for one in options}) > 1)
