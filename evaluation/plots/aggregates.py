"""Scores over all tasks: aggregates, probability of improvement, performance profiles, on normalized scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.analysis.comparisons.compare import ALL, Comparison
from evaluation.cli.errors import UserError
from evaluation.plots import estimates
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, series
from evaluation.plots.study_data import Found, Part, StudyData, figure_or_reason, which

STATISTICS = {
    "iqm": "IQM",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap ↓",
}
PROFILE_POINTS = 141
NORMALIZED = "Normalized: 0 is a random policy, 1 the reference score"


def aggregates(study: StudyData) -> Found:
    """IQM, median, mean and optimality gap of normalized final scores over tasks, with intervals."""
    return [_aggregates(study, part) for part in study.parts("compare")]


def _aggregates(study: StudyData, part: Part) -> Figure | Omitted:
    name = f"aggregates{part.suffix}"
    try:
        comparison = study.comparison(part, "final")
    except UserError as error:
        return Omitted(name, str(error))
    panels = []
    for group in groups(study, comparison):
        rows = [row for row in comparison.aggregates if row.group == group]
        names = tuple(optimizer for optimizer in study.optimizers if any(row.method == optimizer for row in rows))
        for statistic, words in STATISTICS.items():
            points = []
            for row in rows:
                if row.statistic == statistic:
                    how: dict[str, Any] = {"low": row.low, "high": row.high, "n": row.n}
                    how["runs"] = which(part, "", "" if group == ALL else group, row.method)
                    points.append(series(row.method, row.value, names.index(row.method), **how))
            x = Axis("normalized score", share=statistic)
            panels.append(Panel(group, words, x, Axis(share="names"), tuple(points), categories=names))
    caption = (
        f"Final scores over tasks ({_sizes(comparison)}). {NORMALIZED} ({_references(comparison)}). "
        f"Median: over tasks of the mean over runs; ↓: lower is better. Bars: {estimates.words(comparison)}."
    )
    height = 0.55 + 0.135 * max((len(panel.categories) for panel in panels), default=1)
    how = {"row_name": "setting", "column_name": "statistic", "columns": ("normalized_score", "optimizer")}
    how |= {"per_panel": (2.1, max(1.0, height)), "aggregate": True}
    return figure_or_reason(
        name, panels, "no optimizer has runs on all tasks", part.title("Aggregate scores"), caption, **how
    )


def improvement(study: StudyData) -> Found:
    """Probability that a run of each optimizer beats one of the baseline, over tasks."""
    return [_improvement(study, part) for part in study.parts("compare")]


def _improvement(study: StudyData, part: Part) -> Figure | Omitted:
    name = f"improvement{part.suffix}"
    try:
        comparison = study.comparison(part, "final")
    except UserError as error:
        return Omitted(name, str(error))
    panels = []
    for group in groups(study, comparison):
        rows = [row for row in comparison.pairs if row.group == group]
        names = tuple(optimizer for optimizer in study.optimizers if any(row.method == optimizer for row in rows))
        points = []
        for row in rows:
            how: dict[str, Any] = {"low": row.improvement_low, "high": row.improvement_high, "n": row.n}
            how["runs"] = which(part, "", "" if group == ALL else group, row.method)
            points.append(series(row.method, row.improvement, names.index(row.method), **how))
        x = Axis(f"P(better than {comparison.baseline})", low=-0.02, high=1.02, share="x")
        panels.append(Panel(group, "", x, Axis(share="names"), tuple(points), (Mark("x", 0.5),), names))
    caption = (
        f"Probability that a run of the optimizer has a better final score than one of {comparison.baseline}, mean "
        f"over tasks ({_sizes(comparison)}); right of the line: better more often than not. Bars: "
        f"{estimates.words(comparison)}, each on its own; the verdicts of the report are corrected for their number."
    )
    height = 0.55 + 0.135 * max((len(panel.categories) for panel in panels), default=1)
    how = {"row_name": "setting", "column_name": "", "columns": ("probability", "optimizer"), "aggregate": True}
    how["per_panel"] = (2.5, max(1.0, height))
    reason = "there is one optimizer only, or none has runs on all tasks of the baseline"
    title = part.title(f"Probability of improvement over {comparison.baseline}")
    return figure_or_reason(name, panels, reason, title, caption, **how)


def performance_profiles(study: StudyData) -> Found:
    """Share of all runs above each normalized final score."""
    return [_profiles(study, part) for part in study.parts("compare")]


def _profiles(study: StudyData, part: Part) -> Figure | Omitted:
    name = f"performance-profiles{part.suffix}"
    try:
        comparison, selection = study.comparison(part, "final"), study.selection(part, "final")
    except UserError as error:
        return Omitted(name, str(error))
    panels = []
    for group in groups(study, comparison):
        cells = [cell for cell in selection.cells if group in (ALL, cell[1])]
        complete = {row.method for row in comparison.aggregates if row.group == group}
        found = {one: selection.matrix(cells, one) for one in study.optimizers if one in complete}
        every = np.concatenate([scores.ravel() for scores in found.values()])
        at = np.linspace(min(0.0, every.min()) - 0.02, max(1.0, every.max()) + 0.02, PROFILE_POINTS)
        lines = []
        for optimizer, scores in found.items():
            share, low, high = estimates.profile(scores, at, study)
            how: dict[str, Any] = {"low": low, "high": high, "n": scores.shape[0], "kind": "step"}
            how["runs"] = which(part, "", "" if group == ALL else group, optimizer)
            lines.append(series(optimizer, at, share, **how))
        y = Axis("share of runs above", low=-0.03, high=1.03, share="share")
        panels.append(Panel(group, "", Axis("normalized score"), y, tuple(lines), (Mark("x", 1.0),)))
    caption = (
        f"Share of the runs of all tasks ({_sizes(comparison)}) whose normalized final score is above the value below; "
        f"further right and higher is better. {NORMALIZED} (dashed). Band: pointwise {estimates.words(study)}."
    )
    how = {"row_name": "setting", "column_name": "", "columns": ("normalized_score", "share"), "aggregate": True}
    reason = "no optimizer has runs on all tasks"
    return figure_or_reason(name, panels, reason, part.title("Performance profiles"), caption, **how)


def groups(study: StudyData, comparison: Comparison) -> list[str]:
    """All settings together, then each, in the study's order."""
    found = {row.group for row in comparison.aggregates}
    return [name for name in (ALL, *study.settings) if name in found]


def _sizes(comparison: Comparison) -> str:
    rows = list(comparison.aggregates)
    cells, n = sorted({row.cells for row in rows}), sorted({row.n for row in rows})
    of = f"{cells[0]}" if len(cells) == 1 else f"{cells[0]} to {cells[-1]}"
    return f"{of} tasks and settings x {'-'.join(map(str, dict.fromkeys((n[0], n[-1]))))} seeds" if rows else "no runs"


def _references(comparison: Comparison) -> str:
    return "; ".join(f"{task} {text.partition(';')[0]}" for task, text in comparison.references.items())
