"""A grid of learning rates by step size: does a method still differ where its steps are as large as the baseline's?

A clip shrinks steps, so at one learning rate two methods take steps of two sizes, and a wider range of rates may be
nothing but a shifted one. `matched_grid` sorts the runs of a grid by their *effective step* (`Dataset.effective_steps`,
measured, not set) into bins of half a decade, and compares a method with the baseline over the bins that both have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.claims import estimate, number
from evaluation.analysis.comparisons.compare import BETTER, NOT_SHOWN, WORSE, choose_baseline
from evaluation.analysis.comparisons.matched import MIN_RUNS
from evaluation.analysis.comparisons.robustness import BINS_PER_DECADE, NEAR
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.selection import Cell, Selection, select
from evaluation.analysis.stats.aggregate import Array, percentiles
from evaluation.analysis.table import Table
from evaluation.cli.errors import UserError

ALL = "all"
Bins = dict[int, Array]  # number of the bin -> normalized scores of the runs in it


@dataclass(frozen=True)
class MatchedGridRow:
    """A method against the baseline over the bins of effective steps in which both have `MIN_RUNS` runs or more.

    `area` is the mean over these bins of the normalized score of a bin (its runs' mean, cut to [0, 1]), `near` the
    share of them within `NEAR` of the cell's best bin of any method; `step_low` and `step_high` are their ends. The row
    of task and setting "all" is over the bins of all cells. Without a bin in common all numbers are NaN.
    """

    part: str
    task: str
    setting: str
    method: str
    baseline: str
    bins: int
    step_low: float
    step_high: float
    near: float
    baseline_near: float
    area: float
    area_low: float
    area_high: float
    baseline_area: float
    difference: float
    difference_low: float
    difference_high: float
    sentence: str


@dataclass
class _Common:
    """What a method and the baseline have in one bin."""

    number: int
    best: float  # of the cell
    method: Array
    baseline: Array


def matched_grid(
    dataset: Dataset,
    part: str,
    *,
    baseline: str | None = None,
    metric: str = "final",
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 5_000,
) -> Table[MatchedGridRow]:
    """Every method of a grid against the baseline at the same effective step, by task and setting and over all.

    The bootstrap draws runs within each bin. Raises `UserError` for a part that is no grid, a metric that is no score,
    runs without a record of their gradients, and as `selection.select`.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "grid" or selection.metric.kind != "score":
        raise UserError("step sizes are compared along a grid for scores in a part of kind grid")
    name = choose_baseline(selection, baseline)
    cells, without = _binned(dataset, selection)
    if not cells:
        raise UserError(f"no run of part {part} has a record of its gradients, which tells its effective step")
    rows = []
    for method in (method for method in selection.methods if method != name):
        every: list[_Common] = []
        for cell, methods in cells.items():
            best = max(_cut_mean(scores) for bins in methods.values() for scores in bins.values())
            pairs = _common(methods.get(method, {}), methods.get(name, {}), best)
            every += pairs
            rows.append(_row(part, cell, method, name, pairs, seed, level, repetitions))
        if len(cells) > 1:
            rows.append(_row(part, (ALL, ALL), method, name, every, seed, level, repetitions))
    note = (
        f"bins of half a decade of the effective step with {MIN_RUNS} runs of both or more; {level:.0%} intervals by "
        f"the bootstrap over the runs of each bin, {repetitions:,} repetitions, seed {seed}, each on its own"
    )
    if without:
        note += f"; {without} runs without a finite effective step (diverged, or not recorded) are left out"
    return Table(f"{selection.metric.words} along the grid at the same effective step as {name}", rows, note)


def _binned(dataset: Dataset, selection: Selection) -> tuple[dict[Cell, dict[str, Bins]], int]:
    """(task, setting) -> method -> bins of enough runs; and how many runs have no finite effective step."""
    found = dataset.rows("SELECT run, setting FROM runs WHERE part = ?", selection.part)
    setting = {row["run"]: row["setting"] for row in found}
    steps = {run: step for run, step in dataset.effective_steps().items() if math.isfinite(step)}
    scores: dict[Cell, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    without = 0
    for cell, methods in selection.cells.items():
        for method in methods:
            values = normalize(methods[method], selection.references[cell[0]])
            for run, value in zip(selection.runs[cell][method], values, strict=True):
                if run in steps:
                    bin_number = math.floor(math.log10(steps[run]) * BINS_PER_DECADE)
                    scores[cell[0], setting[run]][method][bin_number].append(float(value))
                else:
                    without += 1
    cells = {
        cell: {
            method: {key: np.array(values) for key, values in bins.items() if len(values) >= MIN_RUNS}
            for method, bins in methods.items()
        }
        for cell, methods in scores.items()
    }
    return {cell: methods for cell, methods in cells.items() if any(methods.values())}, without


def _common(method: Bins, baseline: Bins, best: float) -> list[_Common]:
    return [_Common(key, best, method[key], baseline[key]) for key in sorted(method.keys() & baseline.keys())]


def _cut_mean(scores: Array) -> float:
    return float(np.clip(scores.mean(), 0.0, 1.0))


def _row(
    part: str, cell: Cell, method: str, baseline: str, pairs: list[_Common], seed: int, level: float, repetitions: int
) -> MatchedGridRow:
    where = f"{cell[0]}, {cell[1]}" if cell[0] != ALL else "all settings"
    known: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
    sentence = f"{where}: {method} and {baseline} have no effective step in common."
    if pairs:
        own = np.array([_cut_mean(pair.method) for pair in pairs])
        its = np.array([_cut_mean(pair.baseline) for pair in pairs])
        bounds = np.array([pair.best - NEAR for pair in pairs])
        rng = np.random.default_rng(seed)
        own_drawn = _redrawn([pair.method for pair in pairs], repetitions, rng)
        difference_drawn = own_drawn - _redrawn([pair.baseline for pair in pairs], repetitions, rng)
        area, difference = (percentiles(draws, level) for draws in (own_drawn, difference_drawn))
        step_low = 10.0 ** (min(pair.number for pair in pairs) / BINS_PER_DECADE)
        step_high = 10.0 ** ((max(pair.number for pair in pairs) + 1) / BINS_PER_DECADE)
        near, baseline_near = (own >= bounds).mean(), (its >= bounds).mean()
        means = (own.mean(), *area, its.mean(), own.mean() - its.mean(), *difference)
        values = (step_low, step_high, near, baseline_near, *means)
        known = {name: float(value) for name, value in zip(_NUMBERS, values, strict=True)}
        sentence = f"{where}: {_said(method, baseline, len(pairs), known)}"
    return MatchedGridRow(part, *cell, method, baseline, len(pairs), **known, sentence=sentence)


_NUMBERS = (
    *("step_low", "step_high", "near", "baseline_near", "area", "area_low", "area_high", "baseline_area"),
    *("difference", "difference_low", "difference_high"),
)


def _said(method: str, baseline: str, bins: int, row: Mapping[str, float]) -> str:
    steps = f"{bins} half decade{'s' * (bins > 1)} from {number(row['step_low'])} to {number(row['step_high'])}"
    area = estimate(row["area"], row["area_low"], row["area_high"])
    difference = estimate(row["difference"], row["difference_low"], row["difference_high"])
    shown = BETTER if row["difference_low"] > 0 else WORSE if row["difference_high"] < 0 else NOT_SHOWN
    return (
        f"at the same effective step ({steps}) {method} has a mean normalized score of {area} against "
        f"{number(row['baseline_area'])} of {baseline}; difference {difference}: {shown}."
    )


def _redrawn(bins: list[Array], repetitions: int, rng: np.random.Generator) -> Array:
    """Mean over bins of the cut mean score of as many runs drawn with replacement: (repetitions,)."""
    means = [scores[rng.integers(scores.size, size=(repetitions, scores.size))].mean(axis=1) for scores in bins]
    return np.asarray(np.clip(np.stack(means), 0.0, 1.0).mean(axis=0))
