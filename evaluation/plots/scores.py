"""Scores of a study's comparison: learning curves, final scores, times to the target, stability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.compare import CellRow
from evaluation.cli.errors import UserError
from evaluation.plots import estimates
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, seeds_in_words, series
from evaluation.plots.study_data import Found, Part, Row, StudyData, counts, figure_or_reason, steps_axis, which

SCORE = "mean return of the evaluation episodes"
TARGET = "Dashed grey: the task's target."


def learning_curves(study: StudyData) -> Found:
    """Score by step: interquartile mean over seeds and its band, one line an optimizer."""
    return [_learning_curves(study, part) for part in study.parts("compare")]


def _learning_curves(study: StudyData, part: Part) -> Figure | Omitted:
    panels, n = [], []
    for task, setting, cell in study.cells(study.of(part)):
        lines = []
        for optimizer, runs in cell.items():
            steps, scores = study.curves(runs)
            if steps.size:
                middle, low, high = estimates.iqm_curve(scores, study)
                how = {"low": low, "high": high, "n": len(runs), "runs": which(part, task, setting, optimizer)}
                lines.append(series(optimizer, steps, middle, **how))
        n += counts(cell)
        marks = tuple(Mark("y", target) for target in study.targets(cell))
        panels.append(Panel(task, setting, steps_axis(), Axis("return", share=task), tuple(lines), marks))
    caption = (
        f"Line: interquartile mean over seeds of the {SCORE}; band: pointwise {estimates.words(study)}. "
        f"{seeds_in_words(n)} for each optimizer. {TARGET}"
    )
    name = f"learning-curves{part.suffix}"
    reason = "no evaluation steps that all seeds of an optimizer have"
    return figure_or_reason(
        name, panels, reason, part.title("Learning curves"), caption, columns=("step", "iqm_return")
    )


def final_scores(study: StudyData) -> Found:
    """Final score of each optimizer: interquartile mean and its interval, for each task and setting."""
    caption = f"Interquartile mean over seeds of the final score (the {SCORE}, averaged over the last evaluations)."
    return [
        _estimates(study, part, "final-scores", "Final scores", caption, "final", "iqm", Axis("return"), _targets)
        for part in study.parts("compare")
    ]


def stability(study: StudyData) -> Found:
    """Within-run spread of the last evaluations about their trend, for each task and setting."""
    caption = (
        "Interquartile mean over seeds of the standard deviation of a run's last evaluation scores about their own "
        "trend; smaller is steadier (a run that has learned nothing is steady, too)."
    )
    axis = Axis("standard deviation of return", low=0.0)
    return [
        _estimates(study, part, "stability", "Stability", caption, "detrended_std", "iqm", axis)
        for part in study.parts("compare")
    ]


def time_to_target(study: StudyData) -> Found:
    """Median steps until the target was first met, censored where fewer than half of the runs met it."""
    caption = (
        "Median over seeds of the environment steps until a scheduled evaluation first met the target; runs that never "
        "do count as later than all others. An open triangle in the grey zone (beyond the run's end): fewer than half "
        "met it; an arrow: the interval has no upper end."
    )
    axis = steps_axis("steps to target", low=0.0)
    return [
        _estimates(study, part, "time-to-target", "Time to target", caption, "ttt_steps", "median", axis, beyond=True)
        for part in study.parts("compare")
    ]


def _estimates(
    study: StudyData,
    part: Part,
    name: str,
    title: str,
    caption: str,
    metric: str,
    statistic: str,
    axis: Axis,
    marks: Callable[[StudyData, dict[str, list[Row]]], tuple[Mark, ...]] | None = None,
    beyond: bool = False,
) -> Figure | Omitted:
    """`statistic` of a comparison's cells, with intervals: one panel a task and setting, one line an optimizer."""
    try:
        comparison = study.comparison(part, metric)
    except UserError as error:
        return Omitted(name + part.suffix, str(error))
    rows: dict[tuple[str, str], list[CellRow]] = {}
    for row in comparison.cells:
        rows.setdefault((row.task, row.setting), []).append(row)
    panels, n = [], []
    for task, setting, cell in study.cells(study.of(part)):
        found = {row.method: row for row in rows.get((task, setting), [])}
        here = [method for (of, _), some in rows.items() if of == task for method in (row.method for row in some)]
        names = tuple(optimizer for optimizer in study.optimizers if optimizer in here)
        points = []
        for optimizer, row in ((name, found[name]) for name in names if name in found):
            low, high = getattr(row, f"{statistic}_low"), getattr(row, f"{statistic}_high")
            how: dict[str, Any] = {"low": low, "high": high, "n": row.n, "runs": which(part, task, setting, optimizer)}
            points.append(series(optimizer, getattr(row, statistic), names.index(optimizer), **how))
            n.append(row.n)
        end = max(float(row["total_steps"]) for runs in cell.values() for row in runs) if beyond else None
        x = Axis(axis.label, log=axis.log, low=axis.low, share=f"x-{task}", si=axis.si)
        shown = marks(study, cell) if marks else ()
        note = "" if points else "no target" if beyond else "no values"
        panels.append(Panel(task, setting, x, Axis(share="names"), tuple(points), shown, names, end, note))
    caption += f" Bars: {estimates.words(comparison)}. {seeds_in_words(n)} for each optimizer."
    caption += f" {TARGET}" if marks else ""
    height = 0.55 + 0.135 * max((len(panel.categories) for panel in panels), default=1)
    options: dict[str, Any] = {"columns": (f"{statistic}_{metric}", "optimizer"), "per_panel": (2.1, max(1.0, height))}
    return figure_or_reason(name + part.suffix, panels, "no run has a value", part.title(title), caption, **options)


def time_to_target_profiles(study: StudyData) -> Found:
    """Share of the runs that have met the target by each step."""
    return [_time_profiles(study, part) for part in study.parts("compare")]


def _time_profiles(study: StudyData, part: Part) -> Figure | Omitted:
    panels, n = [], []
    for task, setting, cell in study.cells(study.of(part)):
        lines = []
        for optimizer, runs in cell.items():
            times = [row["ttt_steps"] for row in runs if row["ttt_steps"] is not None]
            if times:
                steps, _ = study.curves(runs)
                at = np.concatenate([[0], steps]).astype(np.float64)
                share, low, high = estimates.time_profile(times, at, study)
                how = {"low": low, "high": high, "n": len(times), "runs": which(part, task, setting, optimizer)}
                lines.append(series(optimizer, at, share, kind="step", **how))
                n.append(len(times))
        y = Axis("share at target", low=-0.03, high=1.03, share="share")
        panels.append(Panel(task, setting, steps_axis(), y, tuple(lines), note="" if lines else "no target"))
    caption = (
        "Share of runs whose scheduled evaluation has met the target by then; runs that never do count as not having "
        f"met it. Band: pointwise {estimates.words(study)}. {seeds_in_words(n)} for each optimizer."
    )
    name, title = f"time-to-target-profiles{part.suffix}", part.title("Time-to-target profiles")
    return figure_or_reason(name, panels, "no task has a target", title, caption, columns=("step", "share"))


def _targets(study: StudyData, cell: dict[str, list[Row]]) -> tuple[Mark, ...]:
    return tuple(Mark("x", target) for target in study.targets(cell))
