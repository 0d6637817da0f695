"""The trials of a study's searches: what each reached, and by what the best was chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.selection import METRICS, Row, run_rows
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.aggregate import Array

OBJECTIVES = {"final": "final", "curve": "auc"}  # of a search, by the name of the metric


@dataclass(frozen=True)
class Trials:
    """The search of one optimizer on one task in one setting: K trials of S seeds each, in order.

    Attributes:
        objective: (K, S) what the search maximizes the mean of.
        values: (K, S) the metric that is looked at.
    """

    objective: Array
    values: Array


def part_definition(dataset: Dataset, part: str) -> Mapping[str, Any]:
    """The part's mapping in the study's definition; empty where there is none."""
    parts = dataset.definition.get("parts")
    found = parts.get(part) if isinstance(parts, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def trials(dataset: Dataset, search: str, metric: str) -> dict[Cell, dict[Method, Trials]]:
    """The finished trials of a part of kind search, by task and setting, and by optimizer.

    Trials that lack a seed are left out. Diverged runs count as the worst of their task and setting; a time that was
    not reached is the length of the run. Empty: there are no trials.
    """
    name = OBJECTIVES.get(str(part_definition(dataset, search).get("objective", "final")), "final")
    rows = run_rows(dataset, "auc", "part = ? AND purpose = 'tune'", search)
    if METRICS[metric].kind == "time":
        rows = [row | {metric: min(row[metric], row[METRICS[metric].end])} for row in rows if row["target"] is not None]
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        cells[Cell(row["task"], row["setting"])].append(row)
    found: dict[Cell, dict[Method, Trials]] = {}
    for cell, some in cells.items():
        worst = {one: _worst(some, one) for one in (name, metric)}
        settings: dict[Method, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in some:
            settings[Method(row["optimizer"])][row["variant"]].append(row)
        found[cell] = {}
        for method, variants in settings.items():
            seeds = max(map(len, variants.values()))
            whole = [sorted(runs, key=_seed) for _, runs in sorted(variants.items()) if len(runs) == seeds]
            objective, values = (
                np.array([[worst[one] if np.isnan(run[one]) else run[one] for run in runs] for runs in whole])
                for one in (name, metric)
            )
            found[cell][method] = Trials(objective, values)
    return found


def _seed(row: Row) -> int:
    return int(row["seed"])


def _worst(rows: list[Row], metric: str) -> float:
    """The worst value that runs have, for those that diverged."""
    known = [row[metric] for row in rows if not np.isnan(row[metric])] or [0.0]
    return float(min(known) if METRICS[metric].higher_is_better else max(known))
