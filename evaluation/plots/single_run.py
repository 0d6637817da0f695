"""The figures of one run, finished or not: its scores, its training, its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.analysis.data.dataset import of_one_run
from evaluation.plots import style
from evaluation.plots.diagnostic_figures import WORDS
from evaluation.plots.figure import Axis, Mark, Omitted, Panel, series
from evaluation.plots.gradient_figures import NOTHING
from evaluation.plots.gradient_tables import natural, series_by_update
from evaluation.plots.study_data import Found, figure_or_reason, steps_axis
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import is_finished, load_config, load_summary, read_metrics

TRAINING, DIAGNOSTICS = ("train",), ("diagnostics", "gradients")
LAYERS = {
    "clipped": ("clipped share", False),
    "attenuation": ("attenuation", False),
    "update_to_weight": ("update / weight", True),
    "tail_index": ("tail index", True),
}
NORMAL_95 = 1.96  # two-sided 95 % quantile of the normal distribution


class RunData:
    """A run folder as figures need it; also a `gradient_tables.Source` with this one run.

    `UserError`: not a run folder, damaged metrics, or DuckDB is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = load_config(path)
        self.name = path.resolve().name
        self.metrics: list[MetricRow] = read_metrics(path)
        self.optimizer = str((self.config.get("optimizer") or {}).get("name", "optimizer"))
        self.task = str(self.config.get("game") or self.config.get("task") or "task")
        self.looks = style.looks([self.optimizer])
        row = {"run": self.name, "part": "runs", "kind": "compare", "task": self.task, "setting": "default"}
        self._data = of_one_run(path, row | {"optimizer": self.optimizer})
        self.problems = self._data.left_out()

    @property
    def title(self) -> str:
        """What the figures call it."""
        state = "" if is_finished(self.path) else ", unfinished"
        return f"{self.task}, {self.optimizer}, seed {self.config.get('seed', '?')}{state}"

    @property
    def target(self) -> float | None:
        """The score whose first reaching is timed, as far as a finished run says it."""
        times = load_summary(self.path).get("time_to_threshold") if is_finished(self.path) else None
        return None if not times else float(times["target"])

    def values(self, split: str, name: str) -> dict[int, float]:
        """One metric by step."""
        return {row.step: row.value for row in self.metrics if (row.split, row.name) == (split, name)}

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The result of a query on `runs` (this run) and `gradients`."""
        return self._data.rows(query, *parameters)


def score(run: RunData) -> Found:
    """Evaluation scores by step, with the interval of each mean over its episodes."""
    values, deviations, games = (run.values("eval", name) for name in ("score", "score_std", "games"))
    steps = sorted(values)
    middle = np.array([values[step] for step in steps])
    reach = np.array([NORMAL_95 * deviations.get(s, math.nan) / math.sqrt(games.get(s, math.nan)) for s in steps])
    line = series(run.optimizer, np.array(steps), middle, low=middle - reach, high=middle + reach, n=1)
    target = run.target
    marks = () if target is None else (Mark("y", target),)
    panel = Panel("", "", steps_axis(), Axis("return"), (line,), marks)
    number = sorted({int(value) for value in games.values()})
    caption = (
        "Mean return of each scheduled evaluation; band: 95% interval of the mean over its episodes "
        f"({' or '.join(map(str, number))} of them; normal approximation). One run, so nothing is said of other seeds."
        + (" Dashed grey: the target." if target is not None else "")
    )
    how: dict[str, Any] = {"row_name": "run", "column_name": "", "columns": ("step", "mean_return")}
    how |= {"per_panel": (5.2, 2.6), "member": run.title}
    return [figure_or_reason("score", [panel], "no evaluation yet", "Evaluation scores", caption, **how)]


def training(run: RunData) -> Found:
    """What was logged of the training, one panel a quantity."""
    return _small_multiples(run, "training", TRAINING, "Means over each logging interval of the training.")


def diagnostics(run: RunData) -> Found:
    """What was recorded of the network: overestimation, dormant units, rank, churn, gradient noise."""
    caption = "Recorded at single updates (see evaluation.runs.recorder); one run."
    return _small_multiples(run, "diagnostics", DIAGNOSTICS, caption)


def _small_multiples(run: RunData, name: str, splits: Iterable[str], caption: str) -> Found:
    panels = []
    for split in splits:
        for quantity in dict.fromkeys(row.name for row in run.metrics if row.split == split):
            values = {step: value for step, value in run.values(split, quantity).items() if math.isfinite(value)}
            words, log = WORDS.get(quantity, (quantity.replace("_", " "), False))
            if values:
                line = series(run.optimizer, list(values), list(values.values()), n=1)
                panels.append(Panel(words, "", steps_axis(), Axis("", log=log and min(values.values()) > 0), (line,)))
    how: dict[str, Any] = {"row_name": "quantity", "column_name": "", "columns": ("step", "value")}
    how |= {"per_panel": (2.5, 1.7), "member": run.title}
    if not panels:
        return [Omitted(name, f"the run has no rows of {' or '.join(splits)} in its metrics")]
    return [figure_or_reason(name, panels, "no finite values", name.capitalize(), caption, **how)]


def layers(run: RunData) -> Found:
    """Clipping, step size and tails by layer over time."""
    found = series_by_update(run, LAYERS)
    panels = []
    for (_, layer), values in sorted(found.items(), key=lambda item: natural(item[0][1])):
        for column, (words, log) in LAYERS.items():
            known = np.isfinite(values[column]) & ((values[column] > 0) | (not log))
            line = series(run.optimizer, values["step"][known], values[column][known], n=1)
            y = Axis("", log=log, share=column)
            panels.append(Panel(layer, words, steps_axis(share="x"), y, (line,), note="" if known.any() else "none"))
    caption = (
        "By layer, at the regular records: share of clipped elements; attenuation |clipped| / |gradient|; root mean "
        "square of the update relative to the weights'; Hill's tail index of the gradient before clipping (below 2: "
        "infinite variance)."
    )
    how: dict[str, Any] = {"row_name": "layer", "column_name": "quantity", "columns": ("step", "value")}
    how |= {"per_panel": (2.2, 1.15), "member": run.title}
    return [figure_or_reason("layers", panels, NOTHING, "Layers", caption, **how)]
