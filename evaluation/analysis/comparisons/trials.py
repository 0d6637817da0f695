"""The trials of a study's searches: what each reached, and by what the best was chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.analysis.comparisons.selection import METRICS, Row, run_rows
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.aggregate import Array

OBJECTIVES = {"final": "final", "auc": "auc", "curve": "auc"}  # of a search, by the name of the metric


@dataclass(frozen=True)
class Trials:
    """The search of one optimizer on one task in one setting: K trials of S seeds each, in order.

    Attributes:
        objective: (K, S) what the search maximizes the mean of.
        values: (K, S) the metric that is looked at.
    """

    objective: Array
    values: Array


def objective(dataset: Dataset, search: str) -> str:
    """The metric that a search maximizes."""
    return OBJECTIVES.get(str(dataset.part_definition(search).get("objective", "final")), "final")


def trials(dataset: Dataset, search: str, metric: str) -> dict[Cell, dict[Method, Trials]]:
    """The finished trials of a part of kind search, by task and setting, and by optimizer.

    Trials that lack a seed are left out. A time that was not reached is the length of the run. Empty: there are no
    trials, or no target of a time.
    """
    name = objective(dataset, search)
    condition = "part = ? AND purpose = 'tune'"
    maximized = {row["run"]: float(row[name]) for row in run_rows(dataset, name, condition, search)}
    cells: dict[Cell, dict[Method, dict[str, list[Row]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in run_rows(dataset, metric, condition, search):
        if METRICS[metric].kind != "time" or row["target"] is not None:
            cells[Cell(row["task"], row["setting"])][Method(row["optimizer"])][row["variant"]].append(row)
    return {
        cell: {method: _trials(list(variants.values()), maximized, metric) for method, variants in methods.items()}
        for cell, methods in cells.items()
    }


def _trials(variants: list[list[Row]], maximized: Mapping[str, float], metric: str) -> Trials:
    seeds, end = max(map(len, variants)), METRICS[metric].end
    whole = [sorted(runs, key=lambda run: int(run["seed"])) for runs in variants if len(runs) == seeds]
    values = [[min(run[metric], run[end]) if end else run[metric] for run in runs] for runs in whole]
    return Trials(np.array([[maximized[run["run"]] for run in runs] for runs in whole]), np.array(values, dtype=float))
