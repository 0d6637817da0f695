"""How much did each method clip, and how large were its noise and its steps? Means over all recorded seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Table

MEASURES = ("clipped", "attenuation", "noise_to_gradient", "update_to_weight")


@dataclass(frozen=True)
class ClippingRow:
    """A method on one task in one setting: means over layers, phases and runs of `Dataset.gradient_summaries`; NaN
    where nothing finite was recorded. `clipped_least` and `clipped_most` are the runs with the smallest and the largest
    clipped share; `threshold` is the share of layers and phases that had one."""

    cell: Cell
    method: Method
    n: int
    threshold: float
    clipped: float
    clipped_least: float
    clipped_most: float
    attenuation: float
    noise_to_gradient: float
    update_to_weight: float


def clipping(dataset: Dataset, part: str) -> Table[ClippingRow]:
    """Every method of a part on every task and setting of which gradients were recorded."""
    runs = {row["run"]: row for row in dataset.rows("SELECT * FROM runs WHERE part = ? AND purpose = 'test'", part)}
    grid = any(row["kind"] == "grid" for row in runs.values())
    groups: dict[tuple[Cell, Method], dict[str, list[list[float]]]] = {}
    for summary in dataset.gradient_summaries():
        if (row := runs.get(summary["run"])) is not None:
            variant = "" if row["variant"] == "default" else row["variant"]
            cell = Cell(row["task"], row["setting"], variant if grid else "")
            method = Method(row["optimizer"], "" if grid else variant, "" if grid else variant)
            values = [np.nan if summary[name] is None else summary[name] for name in MEASURES]
            values.append(float(summary["threshold"] is not None))
            groups.setdefault((cell, method), {}).setdefault(summary["run"], []).append(values)
    rows = []
    for (cell, method), found in groups.items():
        of_runs = np.array([_mean(np.array(values)) for values in found.values()])
        clipped, attenuation, noise, update, threshold = map(float, _mean(of_runs))
        ends = float(np.nanmin(of_runs[:, 0])), float(np.nanmax(of_runs[:, 0]))
        rows.append(ClippingRow(cell, method, len(of_runs), threshold, clipped, *ends, attenuation, noise, update))
    return Table("What clipping did", rows, "means over the layers and the regular records of each run, then over runs")


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is not NaN."""
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan))
