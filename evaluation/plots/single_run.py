"""The figures of one run, finished or not: its scores, its training, its layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.analysis.data.dataset import Dataset, of_one_run
from evaluation.analysis.data.protocol import Protocol
from evaluation.plots import gradient_figures, style, words
from evaluation.plots.diagnostic_figures import WORDS
from evaluation.plots.figure import Axis, Mark, Omitted, Panel, series
from evaluation.plots.gradient_figures import NOTHING
from evaluation.plots.gradient_tables import natural, series_by_update
from evaluation.plots.study_data import Found, figure_or_reason, steps_axis
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.run_folder import is_finished, load_config, load_summary, read_metrics

LAYERS = {
    "clipped": ("clipped share", False),
    "attenuation": ("attenuation", False),
    "update_to_weight": ("update / weight", True),
    "tail_index": ("tail index", True),
}
NORMAL_95 = 1.96  # two-sided 95 % quantile of the normal distribution


class RunData:
    """A run folder as figures need it; `data` are the tables `runs` and `gradients` with this one run.

    `UserError`: not a run folder, damaged metrics, or, where the tables are asked for, DuckDB is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = load_config(path)
        self.name = path.resolve().name
        self.metrics: list[MetricRow] = read_metrics(path)
        self.optimizer = str((self.config.get("optimizer") or {}).get("name", "optimizer"))
        data = self.config.get("data")
        self.task = str(self.config.get("game") or (isinstance(data, dict) and data.get("name")) or "task")
        signature = load_summary(path).get("signature") if is_finished(path) else None
        # Of a run that goes on: what plays has a game.
        known = signature or {key: self.config[key] for key in ("game", "task") if key in self.config}
        self.protocol = Protocol({key: str(value) for key, value in known.items()})
        self.words = words.words(self.protocol.fields)
        self.looks = style.looks([self.optimizer])

    @functools.cached_property
    def data(self) -> Dataset:
        """The tables."""
        row = {"run": self.name, "part": "runs", "kind": "compare", "task": self.task, "setting": "default"}
        return of_one_run(self.path, row | {"optimizer": self.optimizer, "protocol": str(self.protocol)})

    @property
    def title(self) -> str:
        """What the figures call it."""
        state = "" if is_finished(self.path) else ", unfinished"
        return f"{self.task}, {self.optimizer}, seed {self.config.get('seed', '?')}{state}"

    def values(self, split: str, name: str) -> dict[int, float]:
        return {row.step: row.value for row in self.metrics if (row.split, row.name) == (split, name)}


def score(run: RunData) -> Found:
    """Evaluation scores by step, with the interval of each mean over its episodes."""
    values, deviations, games = (run.values("eval", name) for name in ("score", "score_std", "games"))
    steps = sorted(values)
    middle = np.array([values[step] for step in steps])
    reach = np.array([NORMAL_95 * deviations.get(s, math.nan) / math.sqrt(games.get(s, math.nan)) for s in steps])
    line = series(run.optimizer, np.array(steps), middle, low=middle - reach, high=middle + reach, n=1)
    times = load_summary(run.path).get("time_to_threshold") if is_finished(run.path) else None
    marks = (Mark("y", float(times["target"])),) if times else ()
    panel = Panel("", "", steps_axis(run.words.steps), Axis(run.words.score), (line,), marks)
    number = sorted({int(value) for value in games.values()})
    band = "; band: 95% interval of the mean over its episodes "
    band += f"({' or '.join(map(str, number))} of them; normal approximation)"
    caption = (
        ("Mean return of" if run.words.games else f"The score ({run.words.score}) at")
        + " each scheduled evaluation"
        + (band if number else "")
        + ". One run, so nothing is said of other seeds."
        + (" Dashed grey: the target." if marks else "")
    )
    how: dict[str, Any] = {"names": ("run", "", "step", "score"), "per_panel": (5.2, 2.6), "member": run.title}
    return [figure_or_reason("score", [panel], "no evaluation yet", "Evaluation scores", caption, **how)]


def training(run: RunData) -> Found:
    """What was logged of the training, one panel a quantity."""
    return _small_multiples(run, "training", ["train"], "Means over each logging interval of the training.")


def diagnostics(run: RunData) -> Found:
    """What was recorded of the network: overestimation, dormant units, rank, churn, gradient noise, curvature."""
    caption = "Recorded at single updates (see evaluation.runs.recorder); one run."
    return _small_multiples(run, "diagnostics", ["diagnostics", "gradients", "curvature"], caption)


def _small_multiples(run: RunData, name: str, splits: Iterable[str], caption: str) -> Found:
    panels = []
    for split in splits:
        for quantity in dict.fromkeys(row.name for row in run.metrics if row.split == split):
            values = {step: value for step, value in run.values(split, quantity).items() if math.isfinite(value)}
            named, log = WORDS.get(quantity, (quantity.replace("_", " "), False))
            if values:
                line = series(run.optimizer, list(values), list(values.values()), n=1)
                y = Axis("", log=log and min(values.values()) > 0)
                panels.append(Panel(named, "", steps_axis(run.words.steps), y, (line,)))
    how: dict[str, Any] = {"names": ("quantity", "", "step", "value"), "per_panel": (2.5, 1.7), "member": run.title}
    if not panels:
        return [Omitted(name, f"the run has no rows of {' or '.join(splits)} in its metrics")]
    return [figure_or_reason(name, panels, "no finite values", name.capitalize(), caption, **how)]


def sync_response(run: RunData) -> Found:
    """What synchronizations of the target network do."""
    if not run.words.games:
        return [Omitted("sync-response", "the run has no target network")]
    return gradient_figures.sync_response(run.data, single=True)


def layers(run: RunData) -> Found:
    """Clipping, step size and tails by layer over time."""
    found = series_by_update(run.data, LAYERS)
    panels = []
    for (_, layer), values in sorted(found.items(), key=lambda item: natural(item[0][1])):
        for column, (named, log) in LAYERS.items():
            known = np.isfinite(values[column]) & ((values[column] > 0) | (not log))
            line = series(run.optimizer, values["step"][known], values[column][known], n=1)
            y = Axis("", log=log, share=column)
            x, note = steps_axis(run.words.steps, share="x"), "" if known.any() else "none"
            panels.append(Panel(layer, named, x, y, (line,), note=note))
    caption = (
        "By layer, at the regular records: share of clipped elements; attenuation |clipped| / |gradient|; root mean "
        "square of the update relative to the weights'; Hill's tail index of the gradient before clipping (below 2: "
        "infinite variance)."
    )
    names, size = ("layer", "quantity", "step", "value"), (2.2, 1.15)
    how: dict[str, Any] = {"names": names, "per_panel": size, "member": run.title}
    return [figure_or_reason("layers", panels, NOTHING, "Layers", caption, **how)]
