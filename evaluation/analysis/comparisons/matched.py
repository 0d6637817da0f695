"""The baseline at the method's step size: clipping shrinks steps, and smaller steps alone may explain a difference.

The *effective step* of a run is the size of an update relative to the weights (`Dataset.effective_steps`): measured,
not set. `matched_steps` looks through all parts of the study (searches, grids, random settings) for the baseline's runs
whose effective step (without a record of gradients, whose learning rate) is nearest to the method's. `matched_grid`
sorts the runs of a grid of learning rates into bins of half a decade of it, since a wider range of rates may be nothing
but a shifted one, and compares a method with the baseline over the bins that both have.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np

from evaluation.analysis.comparisons.claims import interval, number, p_value, where
from evaluation.analysis.comparisons.compare import choose_baseline
from evaluation.analysis.comparisons.robustness import BINS_PER_DECADE, NEAR
from evaluation.analysis.comparisons.selection import Row, Selection, run_rows, select
from evaluation.analysis.comparisons.verdicts import Contrast, Verdict, contrast, judge
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, interquartile_mean
from evaluation.analysis.stats.bootstrap import DEFAULT, UNKNOWN, Bootstrap, Estimate
from evaluation.cli.errors import UserError

FACTOR = 1.5  # two effective steps that differ by less are taken as matched
MIN_RUNS = 3  # at one setting or in one bin: fewer, as a search's trials have, give no interval and so no claim
GRADIENTS, RATE = "update to weight", "learning rate"


@dataclass(frozen=True)
class MatchedRow:
    """A method against the baseline's runs of nearly the same effective step, on one task in one setting.

    `baseline_step` is the effective step of the baseline in the comparison itself, `matched_step` that of the runs
    shown here (`matched` names their part and variant). Where the study has fewer than `MIN_RUNS` of one setting
    within a factor `FACTOR`, `n_matched` is 0 and all numbers after it are NaN.
    """

    cell: Cell
    method: Method
    baseline: Method
    measure: str
    step: float
    baseline_step: float
    n: int
    iqm: Estimate
    matched: str = ""
    n_matched: int = 0
    matched_step: float = math.nan
    matched_iqm: Annotated[Estimate, Columns("matched")] = UNKNOWN
    difference: Estimate = UNKNOWN
    improvement: Estimate = UNKNOWN
    p: float = math.nan
    p_holm: float = math.nan
    verdict: Verdict = Verdict.NOT_SHOWN
    sentence: str = ""


def matched_steps(
    dataset: Dataset,
    part: str | None = None,
    *,
    baseline: str | None = None,
    metric: str = "final",
    how: Bootstrap = DEFAULT,
) -> Table[MatchedRow]:
    """Every method of a part of kind compare against the baseline at its own effective step, cell by cell.

    Runs of the baseline of another budget or protocol than the cell's are no candidates. p values are adjusted by Holm
    over the table. Raises `UserError` as `compare.compare`, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "compare" or selection.metric.kind != "score":
        raise UserError("step sizes are matched for scores in a part of kind compare")
    chosen = choose_baseline(selection, baseline)
    every = {row["run"]: row for row in run_rows(dataset, metric)}
    measured, rates = dataset.effective_steps(), {run: row["lr"] for run, row in every.items()}
    rows: list[MatchedRow] = []
    contrasts: dict[int, Contrast] = {}  # by the place of their row
    for cell, methods in selection.runs.items():
        for method in (method for method in methods if chosen in methods and method != chosen):
            pair = methods[method], methods[chosen]
            measure, steps = GRADIENTS, measured
            if any(math.isnan(_median_step(measured, runs)) for runs in pair):
                measure, steps = RATE, rates
            step, baseline_step = (_median_step(steps, runs) for runs in pair)
            values = selection.cells[cell][method]
            iqm = how.estimate(interquartile_mean, values)
            row = MatchedRow(cell, method, chosen, measure, step, baseline_step, values.size, iqm)
            if match := _nearest(every.values(), every[methods[chosen][0]], metric, steps, step):
                contrasts[len(rows)] = contrast(values, np.array(match.values), how)
                named = f"{match.part} {match.variant}"
                row = replace(row, matched=named, n_matched=len(match.values), matched_step=match.step)
            rows.append(row)
    for (place, one), judged in zip(contrasts.items(), judge(list(contrasts.values()), how), strict=True):
        rows[place] = replace(rows[place], matched_iqm=one.baseline, **vars(judged))
    note = f"{how.level:.0%} intervals by the bootstrap over runs, {how}"
    done = [replace(row, sentence=_sentence(row)) for row in rows]
    return Table(f"{selection.metric.words} against {chosen} at the same effective step", done, note)


class _Match(NamedTuple):
    """Runs at one setting of the options: how far their effective step lies from another, and their values."""

    distance: float
    part: str
    variant: str
    step: float
    values: list[float]


def _nearest(rows: Iterable[Row], like: Row, metric: str, steps: Mapping[str, float], step: float) -> _Match | None:
    """Of the runs comparable with `like`, those of one setting whose effective step is nearest to `step`, if near."""
    same = ("task", "setting", "optimizer", "protocol", "total_steps")
    settings: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if all(row[key] == like[key] for key in same) and not math.isnan(row[metric]):
            settings[row["part"], row["variant"]].append(row)
    matches = []
    for setting, found in settings.items():
        its = _median_step(steps, [row["run"] for row in found])
        distance = abs(math.log(its / step))
        if len(found) >= MIN_RUNS and distance <= math.log(FACTOR):  # NaN, a step that is not known, is not near
            matches.append(_Match(distance, *setting, its, [row[metric] for row in found]))
    return min(matches, default=None)


def _median_step(steps: Mapping[str, float], runs: Sequence[str]) -> float:
    """The median effective step of runs; NaN where it is not known."""
    known = [steps[run] for run in runs if steps.get(run)]
    return float(np.median(known)) if known else math.nan


def _sentence(row: MatchedRow) -> str:
    at = f"{row.measure} {number(row.step)}, {row.baseline}'s in the comparison {number(row.baseline_step)}"
    if not row.n_matched:
        missing = f"no {MIN_RUNS} runs of {row.baseline} at one setting within a factor {FACTOR:g}"
        return f"{where(row.cell)}: {row.method} ({at}) has no match: {missing}."
    return (
        f"{where(row.cell)}: at matched step size ({at}, matched {number(row.matched_step)}: {row.matched}, "
        f"{row.n_matched} runs) {row.method} reaches an IQM of {interval(row.iqm)} against {interval(row.matched_iqm)} "
        f"of {row.baseline}; probability of improvement {interval(row.improvement)}, Holm-adjusted p "
        f"{p_value(row.p_holm)}: {row.verdict}."
    )


# Along a grid --------------------------------------------------------------------------------------------------------


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


class _Common(NamedTuple):
    """What a method and the baseline have in one bin: its number, the cell's best bin, the scores of both."""

    number: int
    best: float
    method: Array
    baseline: Array


def matched_grid(
    dataset: Dataset, part: str, *, baseline: str | None = None, metric: str = "final", how: Bootstrap = DEFAULT
) -> Table[MatchedGridRow]:
    """Every method of a grid against the baseline at the same effective step, by task and setting and over all.

    The bootstrap draws runs within each bin. Raises `UserError` for a part that is no grid, a metric that is no score,
    runs without a record of their gradients, and as `selection.select`.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "grid" or selection.metric.kind != "score":
        raise UserError("step sizes are compared along a grid for scores in a part of kind grid")
    chosen = choose_baseline(selection, baseline)
    cells, without = _binned(selection, dataset.effective_steps())
    if not cells:
        raise UserError(f"no run of part {part} has a record of its gradients, which tells its effective step")
    rows = []
    for method in (method for method in selection.methods if method != chosen):
        common: dict[Cell, list[_Common]] = {}
        for cell, bins in cells.items():
            best = max(_cut_mean(scores) for scores in bins.values())
            numbers = sorted(key for one, key in bins if one == method and (chosen, key) in bins)
            common[cell] = [_Common(key, best, bins[method, key], bins[chosen, key]) for key in numbers]
        if len(cells) > 1:
            common[Cell()] = [pair for pairs in common.values() for pair in pairs]
        for cell, pairs in common.items():
            rows.append(_grid_row(MatchedGridRow(part, cell, method, chosen, len(pairs)), pairs, how))
    note = (
        f"bins of half a decade of the effective step with {MIN_RUNS} runs of both or more; {how.level:.0%} intervals "
        f"by the bootstrap over the runs of each bin, {how}, each on its own"
    )
    if without:
        note += f"; {without} runs without a finite effective step (diverged, or not recorded) are left out"
    return Table(f"{selection.metric.words} along the grid at the same effective step as {chosen}", rows, note)


def _binned(
    selection: Selection, steps: Mapping[str, float]
) -> tuple[dict[Cell, dict[tuple[Method, int], Array]], int]:
    """Task and setting -> method and number of a bin -> normalized scores of the runs in it, where these are enough;
    and how many runs have no finite effective step."""
    cells: dict[Cell, dict[tuple[Method, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    without = 0
    for cell, methods in selection.cells.items():
        for method in methods:
            scores = normalize(methods[method], selection.references[cell.task])
            for run, score in zip(selection.runs[cell][method], scores, strict=True):
                if math.isfinite(steps.get(run, math.nan)):
                    bin_number = math.floor(math.log10(steps[run]) * BINS_PER_DECADE)
                    cells[replace(cell, point="")][method, bin_number].append(float(score))
                else:
                    without += 1
    large = {
        cell: {key: np.array(scores) for key, scores in bins.items() if len(scores) >= MIN_RUNS}
        for cell, bins in cells.items()
    }
    return {cell: bins for cell, bins in large.items() if bins}, without


def _cut_mean(scores: Array) -> float:
    return float(np.clip(scores.mean(), 0.0, 1.0))


def _grid_row(row: MatchedGridRow, pairs: Sequence[_Common], how: Bootstrap) -> MatchedGridRow:
    """The row with its numbers and its sentence."""
    method, baseline, at = row.method, row.baseline, where(row.cell)
    if not pairs:
        return replace(row, sentence=f"{at}: {method} and {baseline} have no effective step in common.")
    numbers, best, own_scores, its_scores = zip(*pairs, strict=True)
    own, its = (np.array([_cut_mean(scores) for scores in bins]) for bins in (own_scores, its_scores))
    near = np.array(best) - NEAR
    rng = np.random.default_rng(how.seed)
    drawn, its_drawn = (_redrawn(bins, how, rng) for bins in (own_scores, its_scores))
    area, baseline_area = how.around(own.mean(), drawn), float(its.mean())
    [judged] = judge([Contrast(area, Estimate(baseline_area), drawn - its_drawn)], how)
    step_low, step_high = (10.0 ** (end / BINS_PER_DECADE) for end in (min(numbers), max(numbers) + 1))
    steps = f"{len(pairs)} half decade{'s' * (len(pairs) > 1)} from {number(step_low)} to {number(step_high)}"
    return replace(
        row,
        step_low=step_low,
        step_high=step_high,
        near=float((own >= near).mean()),
        baseline_near=float((its >= near).mean()),
        area=area,
        baseline_area=baseline_area,
        difference=judged.difference,
        sentence=(
            f"{at}: at the same effective step ({steps}) {method} has a mean normalized score of {interval(area)} "
            f"against {number(baseline_area)} of {baseline}; difference {interval(judged.difference)}: "
            f"{judged.verdict}."
        ),
    )


def _redrawn(bins: Sequence[Array], how: Bootstrap, rng: np.random.Generator) -> Array:
    """Mean over bins of the cut mean score of as many runs drawn with replacement: (repetitions,)."""
    means = [scores[rng.integers(scores.size, size=(how.repetitions, scores.size))].mean(axis=1) for scores in bins]
    return np.asarray(np.clip(np.stack(means), 0.0, 1.0).mean(axis=0))
