"""Scores over all tasks: aggregates, probability of improvement, performance profiles, on normalized scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.analysis.comparisons.claims import size
from evaluation.analysis.comparisons.compare import Comparison
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.data.run_key import Cell, RunKey
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, dot
from evaluation.plots.study_data import Found, Part, StudyData, apart, dots, names_high, profiles

STATISTICS = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap ↓"}
PROFILE_POINTS = 141
NORMALIZED = "Normalized by two reference scores of each task"
INCOMPLETE = "no optimizer has runs on all tasks"


def aggregates(study: StudyData, part: Part) -> Figure | Omitted:
    """IQM, median, mean and optimality gap of normalized final scores over tasks, with intervals."""
    comparison = study.comparison(part, "final")
    panels = []
    for group in _groups(study, comparison):
        rows = [row for row in comparison.aggregates if row.group == group]
        names = tuple(name for name in study.optimizers if any(row.method.name == name for row in rows))
        for statistic, words in STATISTICS.items():
            found = {row.method.name: (row.value, row.n) for row in rows if row.statistic == statistic}
            x, y = Axis("normalized score", share=statistic), Axis(share="names")
            panels.append(Panel(group.group, words, x, y, dots(part, group, found, names), categories=names))
    caption = (
        f"Final scores over tasks ({_sizes(comparison)}). {NORMALIZED} ({_references(comparison)}). "
        f"Median: over tasks of the mean over runs; ↓: lower is better. Bars: {comparison.how.words}."
    )
    how: dict[str, Any] = {"names": ("setting", "statistic", "normalized_score", "optimizer"), "aggregate": True}
    how["per_panel"] = names_high(panels, 2.1)
    return part.figure("aggregates", "Aggregate scores", panels, caption, INCOMPLETE, **how)


def improvement(study: StudyData, part: Part) -> Figure | Omitted:
    """Probability that a run of each method beats one of the baseline: over all tasks and settings, in a comparison of
    optimizers also in each setting."""
    comparison = study.comparison(part, "final")
    pairs = sorted(comparison.pairs, key=lambda row: study.place(RunKey.of(part.name, row.cell, row.method)))
    groups = list(dict.fromkeys(row.cell for row in pairs))
    panels = []
    for group in groups if part.kind == "compare" else groups[:1]:
        rows = [row for row in pairs if row.cell == group]
        names = tuple(row.method.name for row in rows)
        points = tuple(
            dot(row.method.name, row.improvement, place, n=row.n, runs=RunKey.of(part.name, group, row.method))
            for place, row in enumerate(rows)
        )
        x, y = Axis(f"P(better than {comparison.baseline})", low=-0.02, high=1.02, share="x"), Axis(share="names")
        panels.append(Panel(group.group, "", x, y, points, (Mark("x", 0.5),), names))
    unit = "random settings" if part.kind == "robustness" else "runs"
    over = f" ({size(pairs[0].cells, pairs[0].n, unit)})" if pairs else ""
    caption = (
        f"P(better than {comparison.baseline}), the probability of improvement: how often a run has a better final "
        f"score than one of {comparison.baseline}, mean over tasks{over}; right of the line: more often than not. "
        f"Bars: {comparison.how.words}, each on its own; the verdicts of the report are corrected for their number."
    )
    how: dict[str, Any] = {"names": ("setting", "", "probability", "method"), "aggregate": True}
    how["per_panel"] = names_high(panels, 2.5)
    reason = "there is one optimizer only, or one variant, or none has runs on all tasks of the baseline"
    title = f"Probability of improvement over {comparison.baseline}"
    return part.figure("improvement", title, panels, caption, reason, **how)


def performance_profiles(study: StudyData, part: Part) -> Found:
    """Share of all runs above each normalized final score."""
    comparison, selection = study.comparison(part, "final"), select(study.data, part.name, "final")
    panels = []
    for group in _groups(study, comparison):
        cells = [cell for cell in selection.cells if group.setting in ("", cell.setting)]
        complete = {row.method.name: row.method for row in comparison.aggregates if row.group == group}
        names = [name for name in study.optimizers if name in complete]
        found = {part.runs(group, name): selection.matrix(cells, complete[name]) for name in names}
        every = np.concatenate([scores.ravel() for scores in found.values()])
        at = np.linspace(min(0.0, every.min()) - 0.02, max(1.0, every.max()) + 0.02, PROFILE_POINTS)
        y = Axis("share of runs above", low=-0.03, high=1.03, share="share")
        lines = profiles(study, found, at)
        panels.append(Panel(group.group, "", Axis("normalized score"), y, lines, (Mark("x", 1.0),)))
    caption = (
        f"Share of the runs of all tasks ({_sizes(comparison)}) whose normalized final score is above the value below; "
        f"further right and higher is better. {NORMALIZED} (the higher one dashed). Band: pointwise {study.how.words}."
    )
    how: dict[str, Any] = {"names": ("setting", "", "normalized_score", "share"), "aggregate": True}
    figure = part.figure("performance-profiles", "Performance profiles", panels, caption, INCOMPLETE, **how)
    return apart(figure, study.baseline(part))


def _groups(study: StudyData, comparison: Comparison) -> list[Cell]:
    """All settings together, then each, in the study's order."""
    found = {row.group for row in comparison.aggregates}
    return [group for group in (Cell(setting=name) for name in ("", *study.settings)) if group in found]


def _sizes(comparison: Comparison) -> str:
    rows = list(comparison.aggregates)
    cells, n = sorted({row.cells for row in rows}), sorted({row.n for row in rows})
    of = f"{cells[0]}" if len(cells) == 1 else f"{cells[0]} to {cells[-1]}"
    return f"{of} tasks and settings x {'-'.join(map(str, dict.fromkeys((n[0], n[-1]))))} seeds" if rows else "no runs"


def _references(comparison: Comparison) -> str:
    return "; ".join(f"{task} {reference.ends}" for task, reference in comparison.references.items())
