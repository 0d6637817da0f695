"""Does a method keep more of its score than the baseline when the setting gets harder?

``retention(data, "stress", reference_part="comparison")`` compares changes: the score in a setting minus that in the
reference setting, of the method and of the baseline. A method that starts lower and ends equal has lost less. Every
number is a normalized score (`normalization`), so a change of -0.1 is a tenth of the way from random to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from evaluation.analysis.comparisons.claims import interval, p_value, size, where
from evaluation.analysis.comparisons.compare import bootstrap_note, choose_baseline, families_note
from evaluation.analysis.comparisons.selection import refuse_no_score, refuse_two_protocols, run_rows, select
from evaluation.analysis.comparisons.verdicts import EXPLORATORY, PRIMARY, Contrast, Verdict, judge_families
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, interquartile_mean, statistic
from evaluation.analysis.stats.bootstrap import DEFAULT, Bootstrap, Estimate
from evaluation.cli.errors import UserError


@dataclass(frozen=True)
class RetentionRow:
    """A method and the baseline in one setting (over all tasks, or on one) against the same in the reference setting.

    `change` is an IQM minus the reference setting's IQM. The interval of the `advantage`, the method's change minus the
    baseline's, holds together with those of the family's other rows (over all tasks of a setting: primary); `p` is that
    of its bootstrap t.
    """

    cell: Annotated[Cell, Columns("setting", "task")]
    method: Method
    baseline: Method
    cells: int
    n: int
    family: str
    reference_score: float
    score: float
    change: Estimate
    baseline_change: Annotated[Estimate, Columns("baseline")]
    advantage: Estimate
    p: float
    p_holm: float
    verdict: Verdict
    sentence: str


def retention(
    dataset: Dataset,
    part: str,
    *,
    reference_part: str | None = None,
    reference_setting: str = "plain",
    baseline: str | None = None,
    metric: str = "final",
    how: Bootstrap = DEFAULT,
) -> Table[RetentionRow]:
    """Changes of every method of a part from the reference setting, which may be in another part (default: the same).

    Budgets may differ between settings (that is then part of the change), protocols may not. Raises `UserError` as
    `compare.compare`, where there is no such reference setting, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    references = selection if reference_part in (None, part) else select(dataset, reference_part, metric)
    refuse_no_score(metric, "what is kept is")
    settings = list(dict.fromkeys(cell.group for cell in references.cells))
    if reference_setting not in settings:
        have = ", ".join(settings)
        raise UserError(f"part {references.part} has no setting {reference_setting!r}: it has {have}")
    both = (selection.part, references.part)
    refuse_two_protocols(run_rows(dataset, metric, "part IN (?, ?) AND purpose = 'test'", *both))
    chosen = choose_baseline(selection, baseline)
    easy = {cell.task: cell for cell in references.cells if cell.group == reference_setting}
    groups: dict[Cell, list[Cell]] = {}
    for cell in (cell for cell in selection.cells if cell.group != reference_setting):
        groups.setdefault(replace(cell, task=""), []).append(cell)
    found: list[tuple[Cell, Method, int, list[Array]]] = []
    for group, hard in groups.items():
        for place, cells in [*([(group, hard)] if len(hard) > 1 else []), *((cell, [cell]) for cell in hard)]:
            sides = ((selection, cells), (references, [easy.get(cell.task, Cell()) for cell in cells]))
            for method in (method for method in selection.methods if method != chosen):
                pair = (method, chosen)
                if all(name in side.cells.get(cell, {}) for name in pair for side, at in sides for cell in at):
                    scores = [side.matrix(at, name) for name in pair for side, at in sides]
                    found.append((place, method, len(cells), scores))
    contrasts = [_contrast(scores, how) for *_, scores in found]
    several = any(not at.task for at, *_ in found)
    names = [(replace(at, task=""), method) for at, method, *_ in found]
    primary = [None if several and at.task else (at, method) for at, method, *_ in found]
    rows = []
    every = judge_families(contrasts, primary, names, how)
    for (at, method, count, scores), one, name, judged in zip(found, contrasts, primary, every, strict=True):
        family = EXPLORATORY if name is None else PRIMARY
        runs = min(array.shape[0] for array in scores)
        hard_score, easy_score = map(interquartile_mean, scores[:2])
        about = f"(IQM of the {selection.metric.words}, normalized; {size(count, runs, selection.unit)})"
        sentence = (
            f"{where(at)}: from {reference_setting}, {method} changes by {interval(one.method)} and {chosen} by "
            f"{interval(one.baseline)} {about}; an advantage of {interval(judged.difference)}, Holm-adjusted p "
            f"{p_value(judged.p_holm)}: {judged.verdict}{' (exploratory)' * (family == EXPLORATORY)}."
        )
        numbers = (count, runs, family, easy_score, hard_score, one.method, one.baseline, judged.difference)
        rows.append(RetentionRow(at, method, chosen, *numbers, one.p, judged.p_holm, judged.verdict, sentence))
    note = f"{bootstrap_note(selection, how)}; {families_note()}"
    return Table(f"{selection.metric.words}: what is kept of that in {reference_setting}", rows, note)


@statistic
def _advantage(scores: Array, scores_reference: Array, scores_other: Array, scores_other_reference: Array) -> Array:
    """The change of one method minus that of another."""
    iqm = interquartile_mean.batched  # type: ignore[attr-defined]
    return np.asarray((iqm(scores) - iqm(scores_reference)) - (iqm(scores_other) - iqm(scores_other_reference)))


def _contrast(scores: Sequence[Array], how: Bootstrap) -> Contrast:
    """The change of a method beside the baseline's, of the normalized scores (R, T) of each in the setting and in the
    reference setting, in turn."""
    drawn = how.draws(_advantage, *scores)
    own, other = (how.difference(interquartile_mean, *scores[i : i + 2]) for i in (0, 2))
    return Contrast(own, other, drawn, p=drawn.p_value(own.value - other.value))
