"""Does a method keep more of its score than the baseline when the setting gets harder?

``retention(data, "stress", reference_part="comparison")`` compares changes: the score in a setting minus that in the
reference setting, of the method and of the baseline. A method that starts lower and ends equal has lost less. Every
number is a normalized score (`normalization`), so a change of -0.1 is a tenth of the way from random to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.claims import estimate, p_value
from evaluation.analysis.comparisons.compare import BETTER, NOT_SHOWN, WORSE, choose_baseline
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.selection import Cell, Selection, refuse_mixed, select
from evaluation.analysis.stats.aggregate import Array, bootstrap, difference_interval, interquartile_mean, statistic
from evaluation.analysis.stats.multiple import holm, simultaneous_intervals
from evaluation.analysis.table import Table
from evaluation.cli.errors import UserError


@dataclass(frozen=True)
class RetentionRow:
    """A method and the baseline in one setting (over all tasks, or on one) against the same in the reference setting.

    `change` is an IQM minus the reference setting's IQM. The interval of the `advantage`, the method's change minus the
    baseline's, holds together with those of the table's other rows; `p` is twice the smaller share of the bootstrap's
    advantages on one side of 0.
    """

    setting: str
    task: str | None
    method: str
    baseline: str
    cells: int
    n: int
    reference_score: float
    score: float
    change: float
    change_low: float
    change_high: float
    baseline_change: float
    baseline_low: float
    baseline_high: float
    advantage: float
    advantage_low: float
    advantage_high: float
    p: float
    p_holm: float
    verdict: str
    sentence: str


def retention(
    dataset: Dataset,
    part: str,
    *,
    reference_part: str | None = None,
    reference_setting: str = "plain",
    baseline: str | None = None,
    metric: str = "final",
    seed: int = 0,
    level: float = 0.95,
    repetitions: int = 5_000,
) -> Table[RetentionRow]:
    """Changes of every method of a part from the reference setting, which may be in another part (default: the same).

    Budgets may differ between settings (that is then part of the change), protocols may not. Raises `UserError` as
    `compare.compare`, where there is no such reference setting, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    references = selection if reference_part in (None, part) else select(dataset, reference_part, metric)
    if selection.metric.kind != "score":
        raise UserError(f"what is kept is shown for a score, not for {metric!r}: final, auc, last or mean_score")
    if not any(setting == reference_setting for _, setting in references.cells):
        have = ", ".join(dict.fromkeys(setting for _, setting in references.cells))
        raise UserError(f"part {references.part} has no setting {reference_setting!r}: it has {have}")
    _refuse_two_protocols(dataset, selection, references)
    name = choose_baseline(selection, baseline)
    options: dict[str, Any] = {"seed": seed, "repetitions": repetitions}
    rows: list[dict[str, Any]] = []
    draws: list[Array] = []
    settings = dict.fromkeys(setting for _, setting in selection.cells if setting != reference_setting)
    for setting in settings:
        hard = [cell for cell in selection.cells if cell[1] == setting]
        groups: list[tuple[str | None, list[Cell]]] = [(None, hard)] if len(hard) > 1 else []
        for task, cells in [*groups, *((cell[0], [cell]) for cell in hard)]:
            easy = [(cell[0], reference_setting) for cell in cells]
            for method in selection.methods:
                if method == name or not all(
                    _has(selection, references, method, name, *pair) for pair in zip(cells, easy, strict=True)
                ):
                    continue
                scores = _matched_runs(selection, references, cells, easy, (method, name))
                row = {"setting": setting, "task": task, "method": method, "baseline": name, "cells": len(cells)}
                rows.append(row | _changes(scores, options | {"level": level}))
                draws.append(bootstrap(_advantage, *scores, **options))
    return _finish(rows, draws, selection, reference_setting, options | {"level": level})


@statistic
def _advantage(scores: Array, scores_reference: Array, scores_other: Array, scores_other_reference: Array) -> Array:
    """The change of one method minus that of another."""
    iqm = interquartile_mean.batched  # type: ignore[attr-defined]
    return np.asarray((iqm(scores) - iqm(scores_reference)) - (iqm(scores_other) - iqm(scores_other_reference)))


def _has(selection: Selection, references: Selection, method: str, baseline: str, hard: Cell, easy: Cell) -> bool:
    return all(
        name in part.cells.get(cell, {})
        for name in (method, baseline)
        for part, cell in ((selection, hard), (references, easy))
    )


def _matched_runs(
    selection: Selection, references: Selection, cells: Sequence[Cell], easy: Sequence[Cell], methods: Sequence[str]
) -> list[Array]:
    """Normalized scores (R, T) of each method in the setting and in the reference setting, in turn."""
    return [part.matrix(where, name) for name in methods for part, where in ((selection, cells), (references, easy))]


def _changes(scores: Sequence[Array], options: dict[str, Any]) -> dict[str, Any]:
    hard, easy, other_hard, other_easy = scores
    change = difference_interval(interquartile_mean, hard, easy, **options)
    other = difference_interval(interquartile_mean, other_hard, other_easy, **options)
    return {
        "n": min(array.shape[0] for array in scores),
        "reference_score": interquartile_mean(easy),
        "score": interquartile_mean(hard),
        "change": interquartile_mean(hard) - interquartile_mean(easy),
        "change_low": change.low,
        "change_high": change.high,
        "baseline_change": interquartile_mean(other_hard) - interquartile_mean(other_easy),
        "baseline_low": other.low,
        "baseline_high": other.high,
        "advantage": _advantage(*scores),
    }


def _finish(
    rows: list[dict[str, Any]], draws: list[Array], selection: Selection, reference: str, options: dict[str, Any]
) -> Table[RetentionRow]:
    """What takes all rows together: adjusted p values, simultaneous intervals, verdicts, sentences."""
    level = options["level"]
    for row, drawn in zip(rows, draws, strict=True):
        sides = min((~(drawn > 0)).sum(), (~(drawn < 0)).sum()) + 1  # NaN speaks for neither side
        row["p"] = min(1.0, 2 * float(sides) / (drawn.size + 1))
    if rows:
        adjusted = holm([row["p"] for row in rows])
        advantages = [row["advantage"] for row in rows]
        for row, p, interval in zip(
            rows, adjusted, simultaneous_intervals(advantages, np.stack(draws, axis=1), level), strict=True
        ):
            row |= {"p_holm": float(p), "advantage_low": interval.low, "advantage_high": interval.high}
            shown = p <= 1 - level and (interval.low > 0 or interval.high < 0)
            row["verdict"] = (BETTER if row["advantage"] > 0 else WORSE) if shown else NOT_SHOWN
            row["sentence"] = _sentence(row, selection, reference)
    note = (
        f"{level:.0%} intervals: stratified bootstrap over the {selection.unit} of each cell, "
        f"{options['repetitions']:,} repetitions, seed {options['seed']}; p adjusted by Holm over this table"
    )
    title = f"{selection.metric.words}: what is kept of that in {reference}"
    return Table(title, [RetentionRow(**row) for row in rows], note)


def _sentence(row: dict[str, Any], selection: Selection, reference: str) -> str:
    where = f"{row['task']}, {row['setting']}" if row["task"] else row["setting"]
    change = estimate(row["change"], row["change_low"], row["change_high"])
    other = estimate(row["baseline_change"], row["baseline_low"], row["baseline_high"])
    advantage = estimate(row["advantage"], row["advantage_low"], row["advantage_high"])
    cells = f"{row['cells']} cell{'s' * (row['cells'] != 1)} x {row['n']} {selection.unit}"
    return (
        f"{where}: from {reference}, {row['method']} changes by {change} and {row['baseline']} by {other} (IQM of the "
        f"{selection.metric.words}, normalized; {cells}); an advantage of {advantage}, Holm-adjusted p "
        f"{p_value(row['p_holm'])}: {row['verdict']}."
    )


def _refuse_two_protocols(dataset: Dataset, selection: Selection, references: Selection) -> None:
    rows = dataset.rows(
        "SELECT run, task, protocol FROM runs WHERE part IN (?, ?) AND purpose = 'test' ORDER BY run",
        selection.part,
        references.part,
    )
    # A cell of each run's own: budgets may differ.
    refuse_mixed([row | {"setting": row["run"], "total_steps": 0} for row in rows])
