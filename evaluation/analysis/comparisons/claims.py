"""Numbers of a comparison as its sentences write them."""

from __future__ import annotations

import math

from evaluation.analysis.data.run_key import Cell
from evaluation.analysis.stats.bootstrap import TOO_FEW, Estimate


def where(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.task}, {cell.group}" if cell.task else cell.group


def size(cells: int, runs: int | str, unit: str) -> str:
    """How many cells and runs or settings a row stands on."""
    return f"{cells} cell{'s' * (cells != 1)} x {runs} {unit}"


def interval(estimate: Estimate) -> str:
    """A number with its interval: "0.91 [0.88, 0.94]"."""
    return f"{number(estimate.value)} [{ends(estimate)}]"


def ends(estimate: Estimate) -> str:
    """The ends of an interval: "0.88, 0.94", "too few runs" where these give none, "no spread seen" where all are
    alike."""
    if math.isnan(estimate.low):
        return TOO_FEW
    if estimate.low == estimate.high:
        return "no spread seen"
    return f"{number(estimate.low)}, {number(estimate.high)}"


def number(value: float) -> str:
    """Three digits, more where they stand before the point: 0.912, 12.3, 498."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"


def p_value(p: float) -> str:
    """Two digits; "< 0.001" below that."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
