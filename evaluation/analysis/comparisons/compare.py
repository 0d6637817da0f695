"""Is one optimizer better than another? Numbers with intervals, and sentences that say no more than they show.

    result = compare(load("runs/control"))                 # Comparison: final scores, everything against adam
    result.sentences                                        # one for each claim, losses included
    result.cells, result.aggregates, result.pairs, result.cell_pairs    # Tables: .rows(), .csv(), iteration

Intervals hold at few runs (`stats.bootstrap`) and come from one seed, which is in the result. `verdicts.judge` says
when a method is *better* or *worse* than the baseline; else *no difference* is *shown*, which is not "equal".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np

from evaluation.analysis.comparisons.claims import interval, p_value, size, where
from evaluation.analysis.comparisons.selection import Metric, Selection, select
from evaluation.analysis.comparisons.tuning_noise import TuningNoise, contrast_tuned, estimate, tuning_noise
from evaluation.analysis.comparisons.verdicts import (
    EXPLORATORY,
    PRIMARY,
    STRICTER,
    Contrast,
    Verdict,
    contrast,
    judge_families,
)
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import Reference
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import (
    Array,
    Statistic,
    counted,
    interquartile_mean,
    mean,
    median,
    median_time,
    optimality_gap,
    restricted_mean_time,
    statistic,
)
from evaluation.analysis.stats.bootstrap import DEFAULT, MIN_RUNS, SHOWING_TWO_KINDS, UNKNOWN, Bootstrap, Estimate
from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean

BASELINES = ("adam", "full", "default")  # the first of these that is there, where none is named


@dataclass(frozen=True)
class CellRow:
    """One method on one task in one setting, in the task's own units. Of a time, `mean` is the mean of min(time, end of
    the run), `median` the time by which half of the runs were there, and `reached` how many were. Of a spread, `score`
    is the IQM of the final score, beside which it has to be read. `diverged` runs count as the worst
    (`data.diverged`)."""

    cell: Cell
    method: Method
    n: int
    diverged: int
    reached: int | None
    mean: Estimate
    median: Estimate
    iqm: Estimate
    score: Estimate = UNKNOWN


@dataclass(frozen=True)
class AggregateRow:
    """One statistic of one method over the cells of a group, on normalized values."""

    group: Annotated[Cell, Columns("group")]
    method: Method
    statistic: str
    value: Annotated[Estimate, Columns("")]
    cells: int
    n: int  # runs in each cell
    diverged: int  # of all cells


@dataclass(frozen=True)
class PairRow:
    """A method against the baseline, over the cells of a group or on one cell.

    `center` is the IQM, of a time the mean of min(time, end of the run); normalized, but for a single cell. The
    interval of the `difference` (method minus baseline) holds together with those of the family's other rows. Of a
    spread, `score` and `baseline_score` are the IQMs of the final score: who spreads less is better only if its score
    is not the lower one, and worse only if not the higher one.
    """

    cell: Annotated[Cell, Columns("group", "task")]
    method: Method
    baseline: Method
    cells: int
    n: int
    n_baseline: int
    diverged: int
    diverged_baseline: int
    family: str
    center: Estimate
    baseline_center: Annotated[Estimate, Columns("baseline")]
    difference: Estimate
    improvement: Estimate
    p: float
    p_holm: float
    verdict: Verdict
    sentence: str = ""
    score: Estimate = UNKNOWN
    baseline_score: Estimate = UNKNOWN


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `notes` are what a reader has to know besides: see `selection.Selection`."""

    part: str
    kind: str
    metric: Metric
    baseline: Method
    how: Bootstrap
    cells: Table[CellRow]
    aggregates: Table[AggregateRow]
    pairs: Table[PairRow]
    cell_pairs: Table[PairRow]
    references: dict[str, Reference] = field(default_factory=dict)
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
    how: Bootstrap = DEFAULT,
) -> Comparison:
    """Compare the methods of a part with a baseline (default: adam, or in an ablation the variant full or default).

    `metric` is one of `selection.METRICS`. Raises `UserError` as `selection.select` does, and for an unknown baseline.
    """
    selection = select(dataset, part, metric)
    chosen = choose_baseline(selection, baseline)
    groups = _groups(selection)
    noise, words = tuning_noise(dataset, selection, how), selection.metric.words
    note = "; ".join(filter(None, [bootstrap_note(selection, how), noise.words]))
    adjusted = f"{families_note()}; {note}"
    scores = select(dataset, part, "final") if selection.metric.kind == "spread" else None
    pairs = _pair_rows(selection, scores, chosen, groups, noise, how)
    gates = {row.method: row.p_holm for row in pairs if row.family == PRIMARY}
    return Comparison(
        part=selection.part,
        kind=selection.kind,
        metric=selection.metric,
        baseline=chosen,
        how=how,
        cells=Table(f"{words} by task and setting", _cell_rows(selection, scores, noise, how), note),
        aggregates=Table(f"{words} over tasks, normalized", _aggregate_rows(selection, groups, noise, how), note),
        pairs=Table(f"{words} against {chosen}", pairs, adjusted),
        cell_pairs=Table(
            f"{words} against {chosen} by task and setting",
            _pair_rows(selection, scores, chosen, {cell: [cell] for cell in selection.cells}, noise, how, gates),
            adjusted,
        ),
        references=selection.references,
        notes=selection.notes + _missing(selection, groups),
    )


def families_note() -> str:
    """How p values were adjusted."""
    without = f"times {STRICTER} where the method's primary row shows nothing"
    return f"p adjusted by Holm over the primary rows, and over the exploratory ones ({without})"


def bootstrap_note(selection: Selection, how: Bootstrap) -> str:
    """How the intervals over the runs of cells were made."""
    return f"{how.level:.0%} intervals: bootstrap t over the {selection.unit} of each cell, {how}"


def _pair_rows(
    selection: Selection,
    scores: Selection | None,
    baseline: Method,
    groups: Mapping[Cell, Sequence[Cell]],
    noise: TuningNoise,
    how: Bootstrap,
    gates: Mapping[Method, float] = MappingProxyType({}),
) -> list[PairRow]:
    """Every method against the baseline over the cells of each group, corrected for their number. A single cell
    (`Cell.task` is given) is in the task's own units, else values are normalized. The first group, unless it is a
    single cell, is over all of them: primary. `scores` are beside spreads; `gates` are p values of primary rows."""
    found: list[tuple[tuple[Any, ...], Contrast]] = []  # the fields of a row before the judgement
    is_time = selection.metric.kind == "time"
    for group, cells in groups.items():
        horizon = selection.horizons.get(group, 1.0)
        center = partial(restricted_mean_time, horizon=horizon) if is_time else interquartile_mean
        methods = _complete(selection, cells)
        for method in (method for method in methods if baseline in methods and method != baseline):
            x, y = (_values(selection, group, cells, one) for one in (method, baseline))
            one = contrast(x, y, how, center, selection.metric.higher_is_better)
            of_x, of_y = (noise.moves(selection, cells, side, not group.task) for side in (method, baseline))
            one = contrast_tuned(one, x, y, (of_x, of_y), how, center, selection.metric.higher_is_better)
            if selection.metric.kind == "score":
                low, high = selection.limits(cells, normalized=not group.task)
            else:
                low, high = selection.metric.floor, horizon if is_time else math.inf
            one = replace(one, method=one.method.within(low, high), baseline=one.baseline.within(low, high))
            family = PRIMARY if group == next(iter(groups)) and not group.task else EXPLORATORY
            lost = (sum(selection.diverged[cell][side] for cell in cells) for side in (method, baseline))
            about = (group, method, baseline, len(cells), x.shape[0], y.shape[0], *lost, family)
            found.append(((*about, one.method, one.baseline), one))
    rows, contrasts = [], [one for _, one in found]
    names = [method for (_, method, *_), _ in found]
    primary = [name if PRIMARY in about else None for name, (about, _) in zip(names, found, strict=True)]
    for (about, _), judged in zip(found, judge_families(contrasts, primary, names, how, gates), strict=True):
        row = PairRow(*about, **vars(judged))
        if scores is not None:
            row = _beside_the_score(row, scores, groups[row.cell], how)
        rows.append(replace(row, sentence=_sentence(row, selection.metric, selection.unit)))
    return rows


def _values(selection: Selection, group: Cell, cells: Sequence[Cell], method: Method) -> Array:
    """Values (R,) of a single cell in its units, or normalized ones (R, T) of several."""
    return selection.cells[group][method] if group.task else selection.matrix(cells, method)


def _beside_the_score(row: PairRow, scores: Selection, cells: Sequence[Cell], how: Bootstrap) -> PairRow:
    """A row of spreads with the final scores: to be steady at a lower one is no win, unsteady at a higher no loss."""
    both = (_values(scores, row.cell, cells, method) for method in (row.method, row.baseline))
    own, its = (how.estimate(interquartile_mean, values) for values in both)
    ahead = own.value - its.value
    contradicted = (row.verdict == Verdict.BETTER and ahead < 0) or (row.verdict == Verdict.WORSE and ahead > 0)
    return replace(row, score=own, baseline_score=its, verdict=Verdict.NOT_SHOWN if contradicted else row.verdict)


def _sentence(row: PairRow, metric: Metric, unit: str) -> str:
    x, y, normalized = interval(row.center), f"{interval(row.baseline_center)} of {row.baseline}", not row.cell.task
    if metric.kind == "score":
        said = f"{row.method} reaches an IQM of {x} against {y}"
        what = metric.words + (", normalized" if normalized else "")
    elif metric.kind == "time":
        said = f"{row.method} takes {x}{' of the run' if normalized else metric.unit} on average against {y}"
        what = f"{metric.words}; a run that misses it counts with its whole length"
    else:
        said = f"the scores of {row.method} spread by {x} against {y}"
        what = f"IQM of the {metric.words}" + (", as a share of the reference range" if normalized else "")
        what += f", at final scores of {interval(row.score)} and {interval(row.baseline_score)}"
    runs = str(row.n) if row.n == row.n_baseline else f"{row.n} and {row.n_baseline}"
    over = size(row.cells, runs, unit) if normalized else f"{runs} {unit}"
    tested = f"probability of improvement {interval(row.improvement)}, Holm-adjusted p {p_value(row.p_holm)}"
    verdict = f"{row.verdict}{' (exploratory)' * (row.family == EXPLORATORY)}"
    return f"{where(row.cell)}: {said} ({what}; {over}); {tested}: {verdict}."


def _cell_rows(selection: Selection, scores: Selection | None, noise: TuningNoise, how: Bootstrap) -> list[CellRow]:
    """Every method of every cell on its own."""
    is_time, rows = selection.metric.kind == "time", []
    for cell in selection.cells:
        statistics: list[Statistic] = [mean, _run_median, interquartile_mean]
        if is_time:
            statistics[:2] = partial(restricted_mean_time, horizon=selection.horizons[cell]), median_time
        for method in _complete(selection, [cell]):
            values = selection.cells[cell][method]
            reached = int(np.isfinite(values).sum()) if is_time else None
            moves = noise.moves(selection, [cell], method, normalized=False)
            middle, half, iqm = (estimate(of, values, moves, how) for of in statistics)
            if selection.metric.kind == "score":
                limits = selection.limits([cell], normalized=False)
                middle, half, iqm = (one.within(*limits) for one in (middle, half, iqm))
            else:
                middle = middle.within(selection.metric.floor, selection.horizons.get(cell, math.inf))
                half, iqm = half.within(selection.metric.floor, math.inf), iqm.within(selection.metric.floor, math.inf)
            lost, beside = selection.diverged[cell][method], UNKNOWN
            if scores is not None:
                beside = how.estimate(interquartile_mean, scores.cells[cell][method])
            rows.append(CellRow(cell, method, values.size, lost, reached, middle, half, iqm, beside))
    return rows


def _aggregate_rows(
    selection: Selection, groups: Mapping[Cell, Sequence[Cell]], noise: TuningNoise, how: Bootstrap
) -> list[AggregateRow]:
    """Every statistic of every method that has runs on all cells of a group."""
    rows = []
    for group, cells in groups.items():
        for method in _complete(selection, cells):
            scores, moves = selection.matrix(cells, method), noise.moves(selection, cells, method)
            lost = sum(selection.diverged[cell][method] for cell in cells)
            for name, of_cells in STATISTICS[selection.metric.kind].items():
                value = estimate(of_cells, scores, moves, how)
                if selection.metric.kind == "score" and name != "optimality_gap":
                    value = value.within(*selection.limits(cells, normalized=True))
                else:
                    value = value.within(selection.metric.floor, 1.0 if name == "restricted_mean" else math.inf)
                rows.append(AggregateRow(group, method, name, value, len(cells), scores.shape[0], lost))
    return rows


@statistic
def _run_median(scores: Array) -> Array:
    """Median over all runs of one task, (R, 1)."""
    return np.asarray(np.median(scores, axis=(-2, -1)))


@counted
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


def choose_baseline(selection: Selection, baseline: str | None) -> Method:
    """The baseline of this name, else the first of `BASELINES` that the part has. `UserError`: not there."""
    methods = {method.name: method for method in selection.methods}
    names = ", ".join(methods)
    if baseline is None:
        baseline = next((name for name in BASELINES if name in methods), None)
    if baseline is None:
        if len(methods) == 1:
            raise UserError(f"part {selection.part} has runs of {names} alone: nothing to compare them with")
        raise UserError(f"part {selection.part} has no {BASELINES[0]}: say --baseline, one of {names}")
    if baseline not in methods:
        hint = did_you_mean(baseline, list(methods))
        raise UserError(f"part {selection.part} has no runs of the baseline {baseline!r}{hint}: it has {names}")
    return methods[baseline]


def _groups(selection: Selection) -> dict[Cell, list[Cell]]:
    """All cells, if there are several settings, and those of each setting (and point)."""
    settings: dict[Cell, list[Cell]] = {}
    for cell in selection.cells:
        settings.setdefault(replace(cell, task=""), []).append(cell)
    return ({Cell(): list(selection.cells)} if len(settings) > 1 else {}) | settings


def _complete(selection: Selection, cells: Sequence[Cell]) -> list[Method]:
    """The methods with runs on all of `cells`."""
    return [method for method in selection.methods if all(method in selection.cells[cell] for cell in cells)]


def _missing(selection: Selection, groups: Mapping[Cell, Sequence[Cell]]) -> list[str]:
    """Notes on methods that not all cells have, and on cells with few runs."""
    notes = []
    for group, cells in groups.items():
        for method in selection.methods:
            if lacks := [str(cell) for cell in cells if method not in selection.cells[cell]]:
                notes.append(f"{method} is left out of {group.group}: it has no runs on {', '.join(lacks)}")
    fewest, unit = min(values.size for of in selection.cells.values() for values in of.values()), selection.unit
    if fewest < MIN_RUNS:
        notes.append(f"some cells have {fewest} {unit if fewest > 1 else unit[:-1]}: too few for an interval")
    elif fewest < SHOWING_TWO_KINDS:
        missed = 2.0 ** (1 - fewest)
        notes.append(
            f"some cells have {fewest} {unit}: where half of the seeds collapse, they are all of one kind in "
            f"{missed:.0%} of all cases, which no interval can tell"
        )
    return notes
