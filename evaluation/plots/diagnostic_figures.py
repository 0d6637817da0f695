"""Diagnostics of the networks of a study's comparison: overestimation, dormant units, feature rank, churn."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from evaluation.plots.figure import Axis, Omitted, Panel, behind, seeds_in_words
from evaluation.plots.study_data import Found, Part, StudyData, band_of, figure_or_reason, steps_axis

# Name in the metrics -> words, and whether it is drawn on a logarithmic axis.
WORDS = {
    "q_overestimation": ("Q overestimation", False),
    "dormant": ("dormant units", False),
    "feature_rank": ("feature rank", False),
    "churn": ("policy churn", False),
    "noise_scale": ("gradient-noise scale", True),
    "noise_trace": ("gradient-noise trace", True),
    "squared_norm": ("squared gradient norm", True),
    "hessian_max": ("largest Hessian eigenvalue", True),
    "hessian_min": ("smallest Hessian eigenvalue", False),
    "gradient_curvature": ("curvature along the gradient", False),
    "preconditioned_max": ("largest eigenvalue, preconditioned", True),
}
SHOWN = (
    *("q_overestimation", "dormant", "feature_rank", "churn", "noise_scale"),
    *("hessian_max", "gradient_curvature", "preconditioned_max"),
)


def diagnostics(study: StudyData, part: Part) -> Found:
    """Interquartile mean over seeds of each diagnostic by step: one figure a setting, one row a task."""
    name = f"diagnostics{part.suffix}"
    values = _values(study, part)
    if not values:
        return [Omitted(name, "no run has rows of the splits diagnostics, gradients or curvature")]
    settings = {row["setting"] for row in study.of(part)}
    return [_of_setting(study, part, name, one, values) for one in study.settings if one in settings]


Values = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # quantity -> run -> steps, values


def _of_setting(study: StudyData, part: Part, family: str, setting: str, values: Values) -> Any:
    panels = []
    for cell, runs_of in study.cells(part):
        for quantity in (name for name in SHOWN if name in values and cell.setting == setting):
            words, log = WORDS[quantity]
            lines = []
            for key, runs in runs_of.items():
                found = [values[quantity][row["run"]] for row in runs if row["run"] in values[quantity]]
                if any(steps.size for steps, _ in found):
                    lines.append(band_of(key, found, study.how))
            y, note = Axis("", log=log, share=f"{cell.task} {quantity}"), "" if lines else "not recorded"
            steps = steps_axis(study.words[cell.task].steps)
            panels.append(Panel(cell.task, words, steps, y, tuple(lines), note=note))
    caption = (
        f"Interquartile mean over seeds and pointwise {study.how.words}. "
        f"{seeds_in_words(behind(panels))} an optimizer. Q overestimation: predicted less obtained discounted return, "
        "in units of the learned reward; dormant units: their share; feature rank: effective rank of the last hidden "
        "layer; policy churn: share of states whose greedy action one update changes; eigenvalues: of the Hessian of "
        "the training loss, and of P^-1/2 H P^-1/2 with the denominators P of Adam's kin."
    )
    how: dict[str, Any] = {"names": ("task", "quantity", "step", "iqm"), "family": family}
    reason = "no finite values"
    how["member"] = part.title(setting)
    return figure_or_reason(f"{family}-{setting}", panels, reason, "Diagnostics", caption, **how)


def _values(study: StudyData, part: Part) -> Values:
    found = study.data.rows(
        """SELECT m.name, m.run, list(m.step ORDER BY m.step) AS steps, list(m.value ORDER BY m.step) AS values
        FROM metrics m JOIN runs r USING (run)
        WHERE r.part = ? AND m.split IN ('diagnostics', 'gradients', 'curvature') AND m.name IN (SELECT unnest(?))
        GROUP BY ALL""",
        part.name,
        list(SHOWN),
    )
    result: Values = defaultdict(dict)
    for row in found:
        steps, values = np.array(row["steps"]), np.array(row["values"])
        result[row["name"]][row["run"]] = steps[np.isfinite(values)], values[np.isfinite(values)]
    return result
