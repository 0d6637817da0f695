"""The baseline at the method's step size: clipping shrinks steps, and smaller steps alone may explain a difference.

The *effective step* of a run is the size of an update relative to the weights (`Dataset.effective_steps`); without a
record of its gradients, the learning rate.
`matched_steps` looks through all parts of the study (searches, grids, random settings) for the baseline's runs whose
effective step is nearest to the method's, and compares the two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from evaluation.analysis.comparisons.claims import interval, number, p_value, where
from evaluation.analysis.comparisons.compare import choose_baseline
from evaluation.analysis.comparisons.selection import run_rows, select
from evaluation.analysis.comparisons.verdicts import Contrast, Verdict, contrast, judge
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method, RunKey
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import interquartile_mean
from evaluation.analysis.stats.bootstrap import UNKNOWN, Bootstrap, Estimate
from evaluation.cli.errors import UserError

FACTOR = 1.5  # two effective steps that differ by less are taken as matched
MIN_RUNS = 3  # of the baseline at one setting: fewer, as a search's trials have, give no interval and so no claim
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
    how: Bootstrap = Bootstrap(),  # noqa: B008  (frozen)
) -> Table[MatchedRow]:
    """Every method of a part of kind compare against the baseline at its own effective step, cell by cell.

    Runs of the baseline of another budget or protocol than the cell's are no candidates. p values are adjusted by Holm
    over the table. Raises `UserError` as `compare.compare`, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "compare" or selection.metric.kind != "score":
        raise UserError("step sizes are matched for scores in a part of kind compare")
    chosen = choose_baseline(selection, baseline)
    search = _Search(dataset, metric)
    rows: list[MatchedRow] = []
    contrasts: dict[int, Contrast] = {}  # by the place of their row
    for cell, methods in selection.runs.items():
        for method in (method for method in methods if chosen in methods and method != chosen):
            values = selection.cells[cell][method]
            measure, step, baseline_step, match = search.match(methods[method], methods[chosen])
            iqm = how.estimate(interquartile_mean, values)
            row = MatchedRow(cell, method, chosen, measure, step, baseline_step, values.size, iqm)
            if match is not None:
                contrasts[len(rows)] = contrast(values, np.array(match.values), how)
                named = f"{match.runs.part} {match.runs.variant}"
                row = replace(row, matched=named, n_matched=len(match.values), matched_step=match.step)
            rows.append(row)
    for (place, one), judged in zip(contrasts.items(), judge(list(contrasts.values()), how), strict=True):
        rows[place] = replace(
            rows[place], matched_iqm=one.baseline, difference=judged.difference, improvement=one.improvement,
            p=one.p, p_holm=judged.p_holm, verdict=judged.verdict,
        )  # fmt: skip
    note = f"{how.level:.0%} intervals by the bootstrap over runs, {how}"
    done = [replace(row, sentence=_sentence(row)) for row in rows]
    return Table(f"{selection.metric.words} against {chosen} at the same effective step", done, note)


@dataclass(frozen=True)
class _Match:
    """Runs of the baseline at one setting of its options, their values and their effective step."""

    runs: RunKey
    values: list[float]
    step: float


class _Search:
    """Finds the runs of an optimizer whose effective step is nearest to that of given runs."""

    def __init__(self, dataset: Dataset, metric: str) -> None:
        self.steps = dataset.effective_steps()
        self.metric = metric
        self.rows = {row["run"]: row for row in run_rows(dataset, metric)}

    def match(self, runs: Sequence[str], own: Sequence[str]) -> tuple[str, float, float, _Match | None]:
        """For the runs of a method and the baseline's `own` in one cell: what is measured, the effective steps of both
        (NaN: not known), and the baseline's runs that match."""
        measure = GRADIENTS if self._step(runs, GRADIENTS) and self._step(own, GRADIENTS) else RATE
        step, own_step = self._step(runs, measure), self._step(own, measure)
        if not step:
            return measure, math.nan, own_step or math.nan, None
        like = self.rows[own[0]]
        groups: dict[RunKey, list[str]] = defaultdict(list)
        for run, other in self.rows.items():
            same = all(other[key] == like[key] for key in ("task", "setting", "optimizer", "protocol", "total_steps"))
            if same and not math.isnan(other[self.metric]):
                groups[RunKey(part=other["part"], variant=other["variant"])].append(run)
        found = [
            _Match(key, [self.rows[run][self.metric] for run in group], its)
            for key, group in groups.items()
            if len(group) >= MIN_RUNS and (its := self._step(group, measure))
        ]

        def distance(match: _Match) -> tuple[float, str, str]:
            return abs(math.log(match.step / step)), match.runs.part, match.runs.variant

        best = min(found, key=distance, default=None)
        if best is not None and distance(best)[0] > math.log(FACTOR):
            best = None
        return measure, step, own_step or math.nan, best

    def _step(self, runs: Sequence[str], measure: str) -> float | None:
        """The median effective step of runs; None where it is not known."""
        steps = self.steps if measure == GRADIENTS else {run: self.rows[run]["lr"] for run in runs}
        known = [steps[run] for run in runs if steps.get(run)]
        return float(np.median(known)) if known else None


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
