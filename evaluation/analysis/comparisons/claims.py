"""Plain sentences for what a comparison shows: both numbers, their intervals, the test, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evaluation.analysis.data.selection import Metric


def sentence(row: Mapping[str, Any], metric: Metric, unit: str = "runs") -> str:
    """One claim about a row of pairs (`compare.PairRow`); `unit` is what its values are of."""
    x = estimate(row["center"], row["center_low"], row["center_high"])
    y = estimate(row["baseline_center"], row["baseline_low"], row["baseline_high"])
    method, baseline, normalized = row["method"], row["baseline"], row["task"] is None
    if metric.kind == "score":
        said = f"{method} reaches an IQM of {x} against {y} of {baseline}"
        what = metric.words + (", normalized" if normalized else "")
    elif metric.kind == "time":
        length = " of the run" if normalized else {"ttt_seconds": " s"}.get(metric.name, " " + metric.name[4:])
        said = f"{method} takes {x}{length} on average against {y} of {baseline}"
        what = f"{metric.words}; a run that misses it counts with its whole length"
    else:
        said = f"the scores of {method} spread by {x} against {y} of {baseline}"
        what = f"IQM of the {metric.words}" + (", as a share of the reference range" if normalized else "")
    improvement = estimate(row["improvement"], row["improvement_low"], row["improvement_high"])
    tested = f"probability of improvement {improvement}, Holm-adjusted p {p_value(row['p_holm'])}"
    return f"{where(row)}: {said} ({what}; {size(row, unit)}); {tested}: {row['verdict']}."


def where(row: Mapping[str, Any]) -> str:
    """The cells of a row in words."""
    return f"{row['task']}, {row['group']}" if row["task"] else str(row["group"])


def size(row: Mapping[str, Any], unit: str = "runs") -> str:
    """How many runs or settings a row stands on."""
    runs = str(row["n"]) if row["n"] == row["n_baseline"] else f"{row['n']} and {row['n_baseline']}"
    return f"{runs} {unit}" if row["task"] else f"{row['cells']} cell{'s' * (row['cells'] != 1)} x {runs} {unit}"


def estimate(value: float, low: float, high: float) -> str:
    """A number with its interval: "0.91 [0.88, 0.94]"; "0.91 [no interval]" where there is none, as of a single run."""
    if math.isnan(low):
        return f"{number(value)} [no interval]"
    return f"{number(value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three digits, more where they stand before the point: 0.912, 12.3, 498."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"


def p_value(p: float) -> str:
    """Two digits; "< 0.001" below that."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
