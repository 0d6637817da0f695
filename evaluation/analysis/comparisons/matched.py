"""The baseline at the method's step size: clipping shrinks steps, and smaller steps alone may explain a difference.

The *effective step* of a run is the size of an update relative to the weights (`Dataset.effective_steps`); without a
record of its gradients, the learning rate.
`matched_steps` looks through all parts of the study (searches, grids, random settings) for the baseline's runs whose
effective step is nearest to the method's, and compares the two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.claims import estimate, number, p_value
from evaluation.analysis.comparisons.compare import NOT_SHOWN, choose_baseline, verdict
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.selection import areas_under_curves, select
from evaluation.analysis.stats.aggregate import (
    Array,
    Interval,
    bootstrap_interval,
    difference_draws,
    interquartile_mean,
    probability_of_improvement,
)
from evaluation.analysis.stats.multiple import holm, rank_test, simultaneous_intervals
from evaluation.analysis.table import Table
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

    task: str
    setting: str
    method: str
    baseline: str
    measure: str
    step: float
    baseline_step: float
    n: int
    iqm: float
    iqm_low: float
    iqm_high: float
    matched: str
    n_matched: int
    matched_step: float
    matched_iqm: float
    matched_low: float
    matched_high: float
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


def matched_steps(
    dataset: Dataset,
    part: str | None = None,
    *,
    baseline: str | None = None,
    metric: str = "final",
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 5_000,
) -> Table[MatchedRow]:
    """Every method of a part of kind compare against the baseline at its own effective step, cell by cell.

    Runs of the baseline of another budget or protocol than the cell's are no candidates. p values are adjusted by Holm
    over the table. Raises `UserError` as `compare.compare`, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "compare" or selection.metric.kind != "score":
        raise UserError("step sizes are matched for scores in a part of kind compare")
    name = choose_baseline(selection, baseline)
    search = _Search(dataset, metric)
    rows: list[dict[str, Any]] = []
    draws: list[Array] = []
    for cell in selection.cells:
        own = selection.runs[cell].get(name)
        for method, runs in selection.runs[cell].items():
            if own is None or method == name:
                continue
            row, found = search.match(runs, own)
            values = selection.cells[cell][method]
            labels = {"task": cell[0], "setting": cell[1], "method": method, "baseline": name}
            interval = bootstrap_interval(interquartile_mean, values, seed=seed, level=level, repetitions=repetitions)
            row |= labels | {"n": values.size, "iqm": interquartile_mean(values), "iqm_low": interval.low}
            row |= {"iqm_high": interval.high, "n_matched": len(found)}
            if found:
                other = np.array(found)
                options: Any = {"seed": seed, "level": level, "repetitions": repetitions}
                row |= _against(values, other, options)
                draws.append(difference_draws(interquartile_mean, values, other, seed=seed, repetitions=repetitions))
            rows.append(row)
    _adjust([row for row in rows if row["n_matched"]], draws, level)
    note = f"{level:.0%} intervals by the bootstrap over runs, {repetitions:,} repetitions, seed {seed}"
    done = [MatchedRow(**(_NOTHING | row | {"sentence": _sentence(_NOTHING | row)})) for row in rows]
    return Table(f"{selection.metric.words} against {name} at the same effective step", done, note)


_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "matched_step",
        "matched_iqm",
        "matched_low",
        "matched_high",
        "difference",
        "difference_low",
        "difference_high",
        "improvement",
        "improvement_low",
        "improvement_high",
        "p",
        "p_holm",
    ),
    math.nan,
) | {"matched": "", "verdict": NOT_SHOWN}


class _Search:
    """Finds the runs of an optimizer whose effective step is nearest to that of given runs."""

    def __init__(self, dataset: Dataset, metric: str) -> None:
        self.steps = dataset.effective_steps()
        self.rows = {row["run"]: row for row in dataset.rows("SELECT * FROM runs ORDER BY run")}
        areas = areas_under_curves(dataset) if metric == "auc" else {}
        self.values = {run: areas[run] if areas else row[metric] for run, row in self.rows.items()}

    def match(self, runs: Sequence[str], own: Sequence[str]) -> tuple[dict[str, Any], list[float]]:
        """For the runs of a method and the baseline's `own` in one cell: what is known about steps, and the values of
        the baseline's matched runs."""
        measure = GRADIENTS if self._step(runs, GRADIENTS) and self._step(own, GRADIENTS) else RATE
        step, own_step = self._step(runs, measure), self._step(own, measure)
        row = {"measure": measure, "step": step or math.nan, "baseline_step": own_step or math.nan}
        if not step:
            return row, []
        like = self.rows[own[0]]
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for run, other in self.rows.items():
            same = all(other[key] == like[key] for key in ("task", "setting", "optimizer", "protocol", "total_steps"))
            if same and not math.isnan(self.values[run]):
                groups[other["part"], other["variant"]].append(run)
        found = {labels: self._step(group, measure) for labels, group in groups.items() if len(group) >= MIN_RUNS}
        near = {labels: abs(math.log(its / step)) for labels, its in found.items() if its}
        if not near or min(near.values()) > math.log(FACTOR):
            return row, []
        best = min(near, key=lambda labels: (near[labels], labels))
        row |= {"matched": " ".join(best), "matched_step": found[best]}
        return row, [self.values[run] for run in groups[best]]

    def _step(self, runs: Sequence[str], measure: str) -> float | None:
        """The median effective step of runs; None where it is not known."""
        steps = self.steps if measure == GRADIENTS else {run: self.rows[run]["lr"] for run in runs}
        known = [steps[run] for run in runs if steps.get(run)]
        return float(np.median(known)) if known else None


def _against(x: Array, y: Array, options: dict[str, Any]) -> dict[str, Any]:
    """The values of a method against those of the matched runs."""
    of_y = bootstrap_interval(interquartile_mean, y, **options)
    improvement = bootstrap_interval(probability_of_improvement, x, y, **options)
    return {
        "matched_iqm": interquartile_mean(y),
        "matched_low": of_y.low,
        "matched_high": of_y.high,
        "difference": interquartile_mean(x) - interquartile_mean(y),
        "improvement": probability_of_improvement(x, y),
        "improvement_low": improvement.low,
        "improvement_high": improvement.high,
        "p": rank_test(x, y),
    }


def _adjust(rows: Sequence[dict[str, Any]], draws: Sequence[Array], level: float) -> None:
    """What takes all rows together: adjusted p values, simultaneous intervals, verdicts."""
    if not rows:
        return
    together = simultaneous_intervals([row["difference"] for row in rows], np.stack(draws, axis=1), level)
    for row, p, interval in zip(rows, holm([row["p"] for row in rows]), together, strict=True):
        improvement = Interval(row["improvement_low"], row["improvement_high"])
        row |= {"p_holm": float(p), "difference_low": interval.low, "difference_high": interval.high}
        row["verdict"] = verdict(improvement, float(p), level)


def _sentence(row: Mapping[str, Any]) -> str:
    where, baseline, measure = f"{row['task']}, {row['setting']}", row["baseline"], row["measure"]
    steps = f"{measure} {number(row['step'])}, {baseline}'s in the comparison {number(row['baseline_step'])}"
    if not row["n_matched"]:
        missing = f"no {MIN_RUNS} runs of {baseline} at one setting within a factor {FACTOR:g}"
        return f"{where}: {row['method']} ({steps}) has no match: {missing}."
    x = estimate(row["iqm"], row["iqm_low"], row["iqm_high"])
    y = estimate(row["matched_iqm"], row["matched_low"], row["matched_high"])
    improvement = estimate(row["improvement"], row["improvement_low"], row["improvement_high"])
    return (
        f"{where}: at matched step size ({steps}, matched {number(row['matched_step'])}: {row['matched']}, "
        f"{row['n_matched']} runs) {row['method']} reaches an IQM of {x} against {y} of {baseline}; probability of "
        f"improvement {improvement}, Holm-adjusted p {p_value(row['p_holm'])}: {row['verdict']}."
    )
