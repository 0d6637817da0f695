"""Is one optimizer better than another? Numbers with intervals, and sentences that say no more than they show.

    result = compare(load("runs/control"))                 # Comparison: final scores, everything against adam
    result.sentences                                        # one for each claim, losses included
    result.cells, result.aggregates, result.pairs, result.cell_pairs    # Tables: .rows(), .csv(), iteration

Everything is a stratified bootstrap (`aggregate`) from one seed, which is in the result. A method is *better* than the
baseline if both say so: the interval of its probability of improvement lies above 1/2, and the exact rank test's p
value, adjusted by Holm for all comparisons of the same table, is below 1 - level; *worse* likewise; else *no difference
shown*, which is not the same as "equal".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from evaluation.analysis.comparisons import claims
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.selection import Cell, Metric, Selection, select
from evaluation.analysis.stats.aggregate import (
    Array,
    Interval,
    Statistic,
    bootstrap_interval,
    difference_draws,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
    statistic,
)
from evaluation.analysis.stats.censored import median_time, restricted_mean_time
from evaluation.analysis.stats.multiple import holm, rank_test, simultaneous_intervals
from evaluation.analysis.table import Table
from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean

ALL = "all settings"  # the group of all cells; the others are named after their setting
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
FEW_RUNS = 5
BASELINES = ("adam", "full", "default")  # the first of these that is there, where none is named


@dataclass(frozen=True)
class CellRow:
    """One method on one task in one setting, in the task's own units. Of a time, `mean` is the mean of min(time, end of
    the run), `median` the time by which half of the runs were there, and `reached` how many were."""

    task: str
    setting: str
    method: str
    n: int
    reached: int | None
    mean: float
    mean_low: float
    mean_high: float
    median: float
    median_low: float
    median_high: float
    iqm: float
    iqm_low: float
    iqm_high: float


@dataclass(frozen=True)
class AggregateRow:
    """One statistic of one method over the cells of a group, on normalized values."""

    group: str
    method: str
    statistic: str
    value: float
    low: float
    high: float
    cells: int
    n: int  # runs in each cell


@dataclass(frozen=True)
class PairRow:
    """A method against the baseline, over the cells of a group or (with `task`) on one of them.

    `center` is the IQM, of a time the mean of min(time, end of the run); normalized, but for a single cell. The
    interval of the `difference` (method minus baseline) holds together with those of the table's other rows.
    """

    group: str
    task: str | None
    method: str
    baseline: str
    cells: int
    n: int
    n_baseline: int
    center: float
    center_low: float
    center_high: float
    baseline_center: float
    baseline_low: float
    baseline_high: float
    difference: float
    difference_low: float
    difference_high: float
    improvement: float
    improvement_low: float
    improvement_high: float
    p: float
    p_holm: float
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `notes` are what a reader has to know besides: see `selection.Selection`."""

    study: str
    part: str
    metric: Metric
    baseline: str
    methods: list[str]
    level: float
    seed: int
    repetitions: int
    cells: Table[CellRow]
    aggregates: Table[AggregateRow]
    pairs: Table[PairRow]
    cell_pairs: Table[PairRow]
    references: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """One for each pair over groups of cells."""
        return [pair.sentence for pair in self.pairs]


def compare(
    dataset: Dataset,
    part: str | None = None,
    *,
    baseline: str | None = None,
    metric: str = "final",
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 5_000,
) -> Comparison:
    """Compare the methods of a part with a baseline (default: adam, or in an ablation the variant full or default).

    `metric` is one of `selection.METRICS`. `seed` is the bootstrap's. Raises `UserError` as `selection.select` does,
    and for an unknown baseline.
    """
    selection = select(dataset, part, metric)
    chosen = choose_baseline(selection, baseline)
    work = _Work(selection, chosen, seed, level, repetitions)
    groups = _groups(selection)
    words, adjusted = selection.metric.words, f"p adjusted by Holm over the rows of this table; {work.how}"
    pairs = [
        work.pair(name, None, cells, method)
        for name, cells in groups.items()
        for method in _complete(selection, cells, chosen)
    ]
    cell_pairs = [
        work.pair(cell[1], cell[0], [cell], method)
        for cell in selection.cells
        for method in _complete(selection, [cell], chosen)
    ]
    return Comparison(
        study=dataset.name,
        part=selection.part,
        metric=selection.metric,
        baseline=chosen,
        methods=selection.methods,
        level=level,
        seed=seed,
        repetitions=repetitions,
        cells=Table(f"{words} by task and setting", work.cell_rows(), work.how),
        aggregates=Table(f"{words} over tasks, normalized", work.aggregate_rows(groups), work.how),
        pairs=Table(f"{words} against {chosen}", work.finish(pairs), adjusted),
        cell_pairs=Table(f"{words} against {chosen} by task and setting", work.finish(cell_pairs), adjusted),
        references={task: f"0 = {to.low:g}, 1 = {to.high:g}; {to.source}" for task, to in selection.references.items()},
        notes=selection.notes + _missing(selection, groups),
    )


@dataclass
class _Pair:
    """A row of pairs before the correction for many comparisons."""

    row: dict[str, Any]
    draws: Array  # of the difference


@dataclass
class _Work:
    """The bootstrap of one comparison."""

    selection: Selection
    baseline: str
    seed: int
    level: float
    repetitions: int

    @property
    def how(self) -> str:
        return (
            f"{self.level:.0%} intervals: stratified bootstrap over the {self.selection.unit} of each cell, "
            f"{self.repetitions:,} repetitions, seed {self.seed}"
        )

    def interval(self, statistic: Statistic, *scores: Array) -> Interval:
        return bootstrap_interval(statistic, *scores, seed=self.seed, level=self.level, repetitions=self.repetitions)

    def pair(self, group: str, task: str | None, cells: Sequence[Cell], method: str) -> _Pair:
        """A method against the baseline: normalized over cells, or in a task's own units on one cell."""
        selection = self.selection
        if task is None:
            x, y = (selection.matrix(cells, name) for name in (method, self.baseline))
            horizon = 1.0
        else:
            x, y = (selection.cells[cells[0]][name][:, None] for name in (method, self.baseline))
            horizon = selection.horizons.get(cells[0], 1.0)
        is_time = selection.metric.kind == "time"
        center = partial(restricted_mean_time, horizon=horizon) if is_time else interquartile_mean
        of_x, of_y = self.interval(center, x), self.interval(center, y)
        draws = difference_draws(center, x, y, seed=self.seed, repetitions=self.repetitions)
        x_good, y_good = selection.oriented(x), selection.oriented(y)
        improvement = self.interval(probability_of_improvement, x_good, y_good)
        row = {
            "group": group,
            "task": task,
            "method": method,
            "baseline": self.baseline,
            "cells": len(cells),
            "n": x.shape[0],
            "n_baseline": y.shape[0],
            "center": center(x),
            "center_low": of_x.low,
            "center_high": of_x.high,
            "baseline_center": center(y),
            "baseline_low": of_y.low,
            "baseline_high": of_y.high,
            "difference": center(x) - center(y),
            "improvement": probability_of_improvement(x_good, y_good),
            "improvement_low": improvement.low,
            "improvement_high": improvement.high,
            "p": rank_test(x_good, y_good),
        }
        return _Pair(row, draws)

    def finish(self, pairs: Sequence[_Pair]) -> list[PairRow]:
        """The rows of a table of pairs, corrected for their number."""
        if not pairs:
            return []
        adjusted = holm([pair.row["p"] for pair in pairs])
        differences = [pair.row["difference"] for pair in pairs]
        together = simultaneous_intervals(differences, np.stack([pair.draws for pair in pairs], axis=1), self.level)
        rows = []
        for pair, p, interval in zip(pairs, adjusted, together, strict=True):
            row = pair.row | {"difference_low": interval.low, "difference_high": interval.high, "p_holm": float(p)}
            row["verdict"] = verdict(Interval(row["improvement_low"], row["improvement_high"]), float(p), self.level)
            row["sentence"] = claims.sentence(row, self.selection.metric, self.selection.unit)
            rows.append(PairRow(**row))
        return rows

    def cell_rows(self) -> list[CellRow]:
        """Every method of every cell on its own."""
        return [
            self._cell_row(cell, method, methods[method])
            for cell, methods in self.selection.cells.items()
            for method in self.selection.methods
            if method in methods
        ]

    def _cell_row(self, cell: Cell, method: str, values: Array) -> CellRow:
        is_time = self.selection.metric.kind == "time"
        statistics: dict[str, Statistic] = {"mean": mean, "median": _run_median, "iqm": interquartile_mean}
        if is_time:
            horizon = self.selection.horizons[cell]
            statistics |= {"mean": partial(restricted_mean_time, horizon=horizon), "median": median_time}
        row: dict[str, float] = {}
        for name, of_runs in statistics.items():
            low, high = self.interval(of_runs, values)
            row |= {name: of_runs(values), f"{name}_low": low, f"{name}_high": high}
        reached = int(np.isfinite(values).sum()) if is_time else None
        return CellRow(task=cell[0], setting=cell[1], method=method, n=values.size, reached=reached, **row)

    def aggregate_rows(self, groups: Mapping[str, Sequence[Cell]]) -> list[AggregateRow]:
        """Every statistic of every method that has runs on all cells of a group."""
        rows = []
        for group, cells in groups.items():
            for method in _complete(self.selection, cells):
                scores = self.selection.matrix(cells, method)
                for name, of_cells in STATISTICS[self.selection.metric.kind].items():
                    low, high = self.interval(of_cells, scores)
                    value = of_cells(scores)
                    rows.append(AggregateRow(group, method, name, value, low, high, len(cells), scores.shape[0]))
        return rows


@statistic
def _run_median(scores: Array) -> Array:
    """Median over all runs of one task, (R, 1)."""
    return np.asarray(np.median(scores, axis=(-2, -1)))


@statistic
def _share_reached(scores: Array) -> Array:
    """Share of all runs that reached the target."""
    return np.asarray(np.isfinite(scores).mean(axis=(-2, -1)))


STATISTICS: dict[str, dict[str, Statistic]] = {
    "score": {"iqm": interquartile_mean, "median": median, "mean": mean, "optimality_gap": optimality_gap},
    "spread": {"iqm": interquartile_mean, "median": median, "mean": mean},
    "time": {
        "restricted_mean": partial(restricted_mean_time, horizon=1.0),
        "median_time": median_time,
        "reached": _share_reached,
    },
}


def verdict(improvement: Interval, p: float, level: float) -> str:
    """What the interval of a probability of improvement and an adjusted p value say together."""
    if p <= 1 - level and improvement.low > 0.5:
        return BETTER
    return WORSE if p <= 1 - level and improvement.high < 0.5 else NOT_SHOWN


def choose_baseline(selection: Selection, baseline: str | None) -> str:
    """The baseline's name: the given one, else the first of `BASELINES` that the part has. `UserError`: not there."""
    names = ", ".join(selection.methods)
    if baseline is None:
        for name in BASELINES:
            if name in selection.methods:
                return name
        raise UserError(f"part {selection.part} has no {BASELINES[0]}: name a baseline of {names}")
    if baseline not in selection.methods:
        hint = did_you_mean(baseline, selection.methods)
        raise UserError(f"part {selection.part} has no runs of the baseline {baseline!r}{hint}: it has {names}")
    return baseline


def _groups(selection: Selection) -> dict[str, list[Cell]]:
    """All cells, if there are several settings, and those of each setting."""
    settings: dict[str, list[Cell]] = {}
    for cell in selection.cells:
        settings.setdefault(cell[1], []).append(cell)
    return ({ALL: list(selection.cells)} if len(settings) > 1 else {}) | settings


def _complete(selection: Selection, cells: Sequence[Cell], baseline: str | None = None) -> list[str]:
    """The methods with runs on all of `cells`; given a baseline, those that can be compared with it."""
    complete = [name for name in selection.methods if all(name in selection.cells[cell] for cell in cells)]
    if baseline is None:
        return complete
    return [name for name in complete if name != baseline] if baseline in complete else []


def _missing(selection: Selection, groups: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Notes on methods that not all cells have, and on cells with few runs."""
    notes = []
    for group, cells in groups.items():
        for method in selection.methods:
            if lacks := [cell for cell in cells if method not in selection.cells[cell]]:
                where = ", ".join(f"{task} ({setting})" for task, setting in lacks)
                notes.append(f"{method} is left out of {group}: it has no runs on {where}")
    fewest = min(values.size for methods in selection.cells.values() for values in methods.values())
    if fewest == 1:
        notes.append(f"some cells have a single {selection.unit.removesuffix('s')}, of which there is no interval")
    elif fewest < FEW_RUNS:
        notes.append(
            f"some cells have {fewest} {selection.unit}: bootstrap intervals of fewer than {FEW_RUNS} are too narrow"
        )
    return notes
