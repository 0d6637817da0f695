"""What a run that diverged counts as: the one rule, for every comparison, figure and table.

A run has diverged for a metric if one of the evaluations that the metric needs is NaN or infinite. It then counts as
the worst of its task and setting over all methods of the part, at most as a random policy, and a hair below: ranks put
it behind every run that came to an end, equal ones included. So a method that always diverges is the worst there is,
and not as good as the worst good run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.data.normalization import Reference

BELOW = 1e-9  # of the reference range: no number shows it, every rank does


def worst_score(known: ArrayLike, to: Reference | None, higher_is_better: bool = True) -> float:
    """What a diverged run counts as beside the values `known` of a task and setting (those that are not finite are left
    out), with the task's references; of a spread (lower is better) beside its largest value. NaN: nothing is known."""
    values = np.asarray(known, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not higher_is_better:
        width = to.high - to.low if to else 1.0
        return float(values.max()) + BELOW * width if values.size else math.nan
    if to is not None:
        return min([to.low, *values]) - BELOW * (to.high - to.low)
    return float(values.min()) - BELOW * max(float(np.ptp(values)), 1.0) if values.size else math.nan


def replaced(values: ArrayLike, worst: float) -> NDArray[np.float64]:
    """The values with `worst` for each that is not finite."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, worst)


def settle(
    rows: Sequence[dict[str, Any]],
    metric: str,
    lost: Callable[[dict[str, Any]], bool],
    reference: Callable[[str], Reference | None],
    higher_is_better: bool = True,
) -> None:
    """Apply the rule to a column of rows of `runs`, where they are `lost`; the rows hold all runs of their parts, and
    `reference` gives the references of a task (`Dataset.reference`)."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["part"], row["task"], row["setting"]].append(row)
    for (_, task, _), some in groups.items():
        if not (diverged := [row for row in some if lost(row)]):
            continue
        worst = worst_score([row[metric] for row in some], reference(task), higher_is_better)
        if math.isnan(worst) and higher_is_better:  # all runs of the setting diverged: the worst of the task
            worst = worst_score([row[metric] for row in rows if row["task"] == task], None)
        for row in diverged:
            row[metric] = worst
