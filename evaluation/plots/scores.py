"""Scores of a study's comparison: learning curves, final scores, times to the target, stability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluation.analysis.stats.aggregate import reached_by, share
from evaluation.plots.figure import Axis, Figure, Omitted, Panel, behind, curve, seeds_in_words
from evaluation.plots.study_data import (
    Found,
    Part,
    StudyData,
    apart,
    band_of,
    dots,
    names_high,
    steps_axis,
    target_marks,
)

TARGET = "Dashed grey: the task's target."


def learning_curves(study: StudyData, part: Part) -> Found:
    """Score by step: interquartile mean over seeds and its band, one line an optimizer."""
    panels = []
    for cell, runs_of in study.cells(part):
        lines = [band_of(key, study.curves(runs), study.how) for key, runs in runs_of.items()]
        words = study.words[cell.task]
        y = Axis(words.score, share=cell.task)
        marks = target_marks("y", runs_of)
        panels.append(Panel(cell.task, cell.setting, steps_axis(words.steps), y, tuple(lines), marks))
    caption = (
        f"Line: interquartile mean over seeds of the {study.scores_in_words()}; band: pointwise {study.how.words}. "
        f"{seeds_in_words(behind(panels))} for each optimizer. {TARGET}"
    )
    names = ("task", "setting", "step", "iqm_score")
    figure = part.figure("learning-curves", "Learning curves", panels, caption, "no evaluations", names=names)
    return apart(figure, study.baseline(part))


def final_scores(study: StudyData, part: Part) -> Figure | Omitted:
    """Final score of each optimizer: interquartile mean and its interval, for each task and setting."""
    scores = study.scores_in_words()
    caption = f"Interquartile mean over seeds of the final score (the {scores}, averaged over the last evaluations)."
    return _estimates(study, part, "Final scores", caption, "final", Axis(), targets=True)


def stability(study: StudyData, part: Part) -> Figure | Omitted:
    """Within-run spread of the last evaluations about their trend, for each task and setting."""
    caption = (
        "Interquartile mean over seeds of the standard deviation of a run's last evaluation scores about their own "
        "trend; smaller is steadier (a run that has learned nothing is steady, too)."
    )
    return _estimates(study, part, "Stability", caption, "detrended_std", Axis("standard deviation", low=0.0))


def time_to_target(study: StudyData, part: Part) -> Figure | Omitted:
    """Median steps until the target was first met, censored where fewer than half of the runs met it."""
    caption = (
        "Median over seeds of the steps until a scheduled evaluation first met the target; runs that never "
        "do count as later than all others. An open triangle in the grey zone (beyond the run's end): fewer than half "
        "met it; an arrow: the interval has no upper end."
    )
    return _estimates(study, part, "Time to target", caption, "ttt_steps", steps_axis("steps to target", low=0.0))


def _estimates(
    study: StudyData, part: Part, title: str, caption: str, metric: str, axis: Axis, targets: bool = False
) -> Figure | Omitted:
    """A comparison's cells, with intervals: one panel a task and setting, one line an optimizer. Of a time the median,
    with a zone for what is censored, of other metrics the IQM."""
    comparison = study.comparison(part, metric)
    is_time = comparison.metric.kind == "time"
    panels = []
    for cell, runs_of in study.cells(part):
        here = {row.method.name for row in comparison.cells if row.cell.task == cell.task}
        names = tuple(optimizer for optimizer in study.optimizers if optimizer in here)
        rows = {row.method.name: row for row in comparison.cells if row.cell == cell}
        found = {one: (rows[one].median if is_time else rows[one].iqm, rows[one].n) for one in names if one in rows}
        end = max(float(row["total_steps"]) for runs in runs_of.values() for row in runs) if is_time else None
        x = replace(axis, label=axis.label or study.words[cell.task].score, share=f"x-{cell.task}")
        marks = target_marks("x", runs_of) if targets else ()
        note = "" if found else "no target" if is_time else "no values"
        points = dots(part, cell, found, names)
        panels.append(Panel(cell.task, cell.setting, x, Axis(share="names"), points, marks, names, end, note))
    caption += f" Bars: {comparison.how.words}. {seeds_in_words(behind(panels))} for each optimizer."
    caption += f" {TARGET}" if targets else ""
    columns = ("task", "setting", f"{'median' if is_time else 'iqm'}_{metric}", "optimizer")
    name, size = title.lower().replace(" ", "-"), names_high(panels, 2.1)
    return part.figure(name, title, panels, caption, "no run has a value", names=columns, per_panel=size)


def time_to_target_profiles(study: StudyData, part: Part) -> Found:
    """Share of the runs that have met the target by each step."""
    panels = []
    for cell, runs_of in study.cells(part):
        lines = []
        for key, runs in runs_of.items():
            times = [row["ttt_steps"] for row in runs if row["ttt_steps"] is not None]
            if times:
                at = np.unique(np.concatenate([[0], *(steps for steps, _ in study.curves(runs))])).astype(np.float64)
                band = study.how.band(reached_by(times, at), share)
                lines.append(curve(key, at, band, kind="step", n=len(times)))
        y, note = Axis("share at target", low=-0.03, high=1.03, share="share"), "" if lines else "no target"
        steps = steps_axis(study.words[cell.task].steps)
        panels.append(Panel(cell.task, cell.setting, steps, y, tuple(lines), note=note))
    caption = (
        "Share of runs whose scheduled evaluation has met the target by then; runs that never do count as not having "
        f"met it. Band: pointwise {study.how.words}. {seeds_in_words(behind(panels))} for each optimizer."
    )
    name, title, names = "time-to-target-profiles", "Time-to-target profiles", ("task", "setting", "step", "share")
    return apart(part.figure(name, title, panels, caption, "no task has a target", names=names), study.baseline(part))
