"""A grid of learning rates by step size: does a method still differ where its steps are as large as the baseline's?

A clip shrinks steps, so at one learning rate two methods take steps of two sizes, and a wider range of rates may be
nothing but a shifted one. `matched_grid` sorts the runs of a grid by their *effective step* (`Dataset.effective_steps`,
measured, not set) into bins of half a decade, and compares a method with the baseline over the bins that both have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from evaluation.analysis.comparisons.claims import interval, number, where
from evaluation.analysis.comparisons.compare import choose_baseline
from evaluation.analysis.comparisons.matched import MIN_RUNS
from evaluation.analysis.comparisons.robustness import BINS_PER_DECADE, NEAR
from evaluation.analysis.comparisons.selection import Selection, select
from evaluation.analysis.comparisons.verdicts import Contrast, judge
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array
from evaluation.analysis.stats.bootstrap import UNKNOWN, Bootstrap, Estimate
from evaluation.cli.errors import UserError

Bins = dict[int, Array]  # number of the bin -> normalized scores of the runs in it


@dataclass(frozen=True)
class MatchedGridRow:
    """A method against the baseline over the bins of effective steps in which both have `MIN_RUNS` runs or more.

    `area` is the mean over these bins of the normalized score of a bin (its runs' mean, cut to [0, 1]), `near` the
    share of them within `NEAR` of the cell's best bin of any method; `step_low` and `step_high` are their ends. The row
    over all cells is over the bins of all of them. Without a bin in common all numbers are NaN.
    """

    part: str
    cell: Annotated[Cell, Columns("task", "setting", every="all")]
    method: Method
    baseline: Method
    bins: int
    step_low: float = math.nan
    step_high: float = math.nan
    near: float = math.nan
    baseline_near: float = math.nan
    area: Estimate = UNKNOWN
    baseline_area: float = math.nan
    difference: Estimate = UNKNOWN
    sentence: str = ""


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
    how: Bootstrap = Bootstrap(),  # noqa: B008  (frozen)
) -> Table[MatchedGridRow]:
    """Every method of a grid against the baseline at the same effective step, by task and setting and over all.

    The bootstrap draws runs within each bin. Raises `UserError` for a part that is no grid, a metric that is no score,
    runs without a record of their gradients, and as `selection.select`.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "grid" or selection.metric.kind != "score":
        raise UserError("step sizes are compared along a grid for scores in a part of kind grid")
    chosen = choose_baseline(selection, baseline)
    cells, without = _binned(dataset, selection)
    if not cells:
        raise UserError(f"no run of part {part} has a record of its gradients, which tells its effective step")
    rows = []
    for method in (method for method in selection.methods if method != chosen):
        every: list[_Common] = []
        for cell, methods in cells.items():
            best = max(_cut_mean(scores) for bins in methods.values() for scores in bins.values())
            own, its = methods.get(method, {}), methods.get(chosen, {})
            pairs = [_Common(key, best, own[key], its[key]) for key in sorted(own.keys() & its.keys())]
            every += pairs
            rows.append(_row(MatchedGridRow(part, cell, method, chosen, len(pairs)), pairs, how))
        if len(cells) > 1:
            rows.append(_row(MatchedGridRow(part, Cell(), method, chosen, len(every)), every, how))
    note = (
        f"bins of half a decade of the effective step with {MIN_RUNS} runs of both or more; {how.level:.0%} intervals "
        f"by the bootstrap over the runs of each bin, {how}, each on its own"
    )
    if without:
        note += f"; {without} runs without a finite effective step (diverged, or not recorded) are left out"
    return Table(f"{selection.metric.words} along the grid at the same effective step as {chosen}", rows, note)


def _binned(dataset: Dataset, selection: Selection) -> tuple[dict[Cell, dict[Method, Bins]], int]:
    """Task and setting -> method -> bins of enough runs; and how many runs have no finite effective step."""
    steps = {run: step for run, step in dataset.effective_steps().items() if math.isfinite(step)}
    scores: dict[Cell, dict[Method, dict[int, list[float]]]] = {}
    without = 0
    for cell, methods in selection.cells.items():
        here = scores.setdefault(replace(cell, point=""), defaultdict(lambda: defaultdict(list)))
        for method in methods:
            values = normalize(methods[method], selection.references[cell.task])
            for run, value in zip(selection.runs[cell][method], values, strict=True):
                if run in steps:
                    here[method][math.floor(math.log10(steps[run]) * BINS_PER_DECADE)].append(float(value))
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


def _cut_mean(scores: Array) -> float:
    return float(np.clip(scores.mean(), 0.0, 1.0))


def _row(row: MatchedGridRow, pairs: list[_Common], how: Bootstrap) -> MatchedGridRow:
    """The row with its numbers and its sentence."""
    method, baseline, at = row.method, row.baseline, where(row.cell)
    if not pairs:
        return replace(row, sentence=f"{at}: {method} and {baseline} have no effective step in common.")
    own = np.array([_cut_mean(pair.method) for pair in pairs])
    its = np.array([_cut_mean(pair.baseline) for pair in pairs])
    bounds = np.array([pair.best - NEAR for pair in pairs])
    rng = np.random.default_rng(how.seed)
    drawn = _redrawn([pair.method for pair in pairs], how, rng)
    area, baseline_area = how.around(own.mean(), drawn), float(its.mean())
    difference_drawn = drawn - _redrawn([pair.baseline for pair in pairs], how, rng)
    [judged] = judge([Contrast(area, Estimate(baseline_area), difference_drawn)], how)
    low, high = min(pair.number for pair in pairs), max(pair.number for pair in pairs) + 1
    step_low, step_high = (10.0 ** (end / BINS_PER_DECADE) for end in (low, high))
    steps = f"{len(pairs)} half decade{'s' * (len(pairs) > 1)} from {number(step_low)} to {number(step_high)}"
    return replace(
        row,
        step_low=step_low,
        step_high=step_high,
        near=float((own >= bounds).mean()),
        baseline_near=float((its >= bounds).mean()),
        area=area,
        baseline_area=baseline_area,
        difference=judged.difference,
        sentence=(
            f"{at}: at the same effective step ({steps}) {method} has a mean normalized score of {interval(area)} "
            f"against {number(baseline_area)} of {baseline}; difference {interval(judged.difference)}: "
            f"{judged.verdict}."
        ),
    )


def _redrawn(bins: list[Array], how: Bootstrap, rng: np.random.Generator) -> Array:
    """Mean over bins of the cut mean score of as many runs drawn with replacement: (repetitions,)."""
    means = [scores[rng.integers(scores.size, size=(how.repetitions, scores.size))].mean(axis=1) for scores in bins]
    return np.asarray(np.clip(np.stack(means), 0.0, 1.0).mean(axis=0))
