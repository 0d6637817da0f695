"""Diagnostics of the networks of a study's comparison: overestimation, dormant units, feature rank, churn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from evaluation.plots import estimates
from evaluation.plots.figure import Axis, Omitted, Panel, seeds_in_words, series
from evaluation.plots.study_data import Found, Part, StudyData, figure_or_reason, steps_axis, which

# Name in the metrics -> words, and whether it is drawn on a logarithmic axis.
WORDS = {
    "q_overestimation": ("Q overestimation", False),
    "dormant": ("dormant units", False),
    "feature_rank": ("feature rank", False),
    "churn": ("policy churn", False),
    "noise_scale": ("gradient-noise scale", True),
    "noise_trace": ("gradient-noise trace", True),
    "squared_norm": ("squared gradient norm", True),
}
SHOWN = ("q_overestimation", "dormant", "feature_rank", "churn", "noise_scale")


def diagnostics(study: StudyData) -> Found:
    """Interquartile mean over seeds of each diagnostic by step: one figure a setting, one row a task."""
    found: Found = []
    for part in study.parts("compare"):
        values = _values(study, part)
        if not values:
            reason = "no run has rows of the splits diagnostics or gradients"
            found.append(Omitted(f"diagnostics{part.suffix}", reason))
            continue
        settings = {row["setting"] for row in study.of(part)}
        found += [_diagnostics(study, part, setting, values) for setting in study.settings if setting in settings]
    return found


Values = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (run, quantity) -> steps, values


def _diagnostics(study: StudyData, part: Part, setting: str, values: Values) -> Any:
    quantities = [name for name in SHOWN if any(quantity == name for _, quantity in values)]
    panels, n = [], []
    for task, at, cell in study.cells(study.of(part)):
        for quantity in quantities if at == setting else ():
            words, log = WORDS[quantity]
            lines = []
            for optimizer, runs in cell.items():
                keys = [(row["run"], quantity) for row in runs]
                steps, matrix = _common([values[key] for key in keys if key in values])
                if steps.size:
                    middle, low, high = estimates.iqm_curve(matrix, study)
                    how = {"low": low, "high": high, "n": len(matrix), "runs": which(part, task, setting, optimizer)}
                    lines.append(series(optimizer, steps, middle, **how))
                    n.append(len(matrix))
            y = Axis("", log=log, share=f"{task} {quantity}")
            panels.append(Panel(task, words, steps_axis(), y, tuple(lines), note="" if lines else "not recorded"))
    caption = (
        f"Interquartile mean over seeds and pointwise {estimates.words(study)}. {seeds_in_words(n)} an optimizer. "
        "Q overestimation: predicted less obtained discounted return, in units of the learned reward; dormant units: "
        "their share; feature rank: effective rank of the last hidden layer; policy churn: share of states whose "
        "greedy action one update changes."
    )
    name = f"diagnostics{part.suffix}-{setting}"
    options: dict[str, Any] = {"column_name": "quantity", "columns": ("step", "iqm")}
    options["family"] = f"diagnostics{part.suffix}"
    reason = "no steps at which all seeds of an optimizer have finite values"
    return figure_or_reason(name, panels, reason, part.title(f"Diagnostics: {setting}"), caption, **options)


def _values(study: StudyData, part: Part) -> Values:
    found = study.data.columns(
        """SELECT m.run, m.name, m.step, m.value FROM metrics m JOIN runs r USING (run)
        WHERE r.part = ? AND m.split IN ('diagnostics', 'gradients') AND m.name IN (SELECT unnest(?))
        ORDER BY m.run, m.name, m.step""",
        part.name,
        list(SHOWN),
    )
    result: Values = {}
    keys = np.char.add(np.char.add(found["run"].astype(str), "\n"), found["name"].astype(str))
    starts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1), len(keys)] if len(keys) else []
    for start, end in itertools.pairwise(starts):
        steps, values = found["step"][start:end], found["value"][start:end]
        finite = np.isfinite(values)
        result[str(found["run"][start]), str(found["name"][start])] = steps[finite], values[finite]
    return result


def _common(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (E,) that all curves have, and their values there (R, E)."""
    if not curves:
        return np.array([]), np.array([])
    steps = curves[0][0]
    for other, _ in curves[1:]:
        steps = np.intersect1d(steps, other)
    return steps, np.stack([values[np.isin(at, steps)] for at, values in curves])
