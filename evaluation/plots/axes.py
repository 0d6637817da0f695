"""Limits and logarithmic ticks of axes, the same for the files and for the page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from evaluation.plots.figure import Array, Axis, Figure, Panel

Limits = tuple[float, float]
ROOM_BEYOND = 0.12  # of the axis: the zone of censored values
MARGIN = 0.05  # of the data's spread, on each side
LOG_MARGIN = 0.04  # of the data's decades
FEW, MANY = 3, 6  # ticks of a logarithmic axis
PLAIN = (1e-3, 1e4)  # from where to where numbers on an axis are written without a power of ten
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Ticks = tuple[tuple[float, str], ...]  # (place on the axis, text)


def axis_limits(figure: Figure) -> list[tuple[Limits, Limits]]:
    """(x limits, y limits) of each panel: of the data of all panels that share the axis, and a little more.

    An axis's own limits go first. A logarithmic axis leaves out what is not positive; without any data it is 0 to 1
    (logarithmic 1 to 2).
    """
    keys = [(("x", panel.x.share or i), ("y", panel.y.share or i)) for i, panel in enumerate(figure.panels)]
    sharing: dict[tuple[str, str | int], list[Panel]] = defaultdict(list)
    for panel, both in zip(figure.panels, keys, strict=True):
        for key in both:
            sharing[key].append(panel)
    limits = {key: _limits(panels, key[0]) for key, panels in sharing.items()}
    return [(limits[x], limits[y]) for x, y in keys]


def ticks(axis: Axis, limits: Limits) -> Ticks:
    """The axis's own ticks, else those of an axis that shows orders of magnitude; none: a linear axis needs no help."""
    if axis.ticks or not (axis.log or axis.exponent):
        return axis.ticks
    low, high = (10.0**end for end in limits) if axis.exponent else limits
    values = _log_places(low, high)
    texts = _in_words(values)
    return tuple(zip((math.log10(value) if axis.exponent else value for value in values), texts, strict=True))


def _log_places(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: powers of ten; where fewer than `FEW` of them lie on it also their multiples
    by 3, or by 2 and 5, and in the end equal steps."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**power for power in range(first, last + 1)]
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{f * power:g}") for power in powers for f in factors if low <= f * power <= high]
        if len(found) >= FEW:
            return found[:: math.ceil(len(found) / MANY)]
    steps = [float(f"{f}e{power}") for power in range(last, first - 3, -1) for f in (5, 2, 1)]
    for step in steps:
        found = [float(f"{step * i:.9g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(found) >= FEW:
            return found
    return [low, high]


def _in_words(values: Sequence[float]) -> list[str]:
    """Plain digits; with a power of ten as soon as one of them is far from 1."""
    if all(PLAIN[0] <= value < PLAIN[1] for value in values):
        return [f"{value:g}" for value in values]
    texts = []
    for value in values:
        digits, _, power = f"{value:.8e}".partition("e")
        short = f"10{str(int(power)).translate(SUPERSCRIPT)}"
        texts.append(short if float(digits) == 1 else f"{float(digits):g}·{short}")
    return texts


def _limits(panels: Sequence[Panel], which: str) -> Limits:
    axis: Axis = getattr(panels[0], which)
    data = np.concatenate([part for panel in panels for part in _drawn(panel, which)] or [np.array([])])
    data = data[np.isfinite(data) & ((data > 0) | (not axis.log))]
    low, high = (float(data.min()), float(data.max())) if data.size else (1.0, 2.0) if axis.log else (0.0, 1.0)
    if axis.log:
        margin = max(1.05, (high / low) ** LOG_MARGIN)
        low, high = low / margin, high * margin
    else:
        margin = MARGIN * (high - low) or 0.5
        low, high = low - margin, high + margin
    return (low if axis.low is None else axis.low), (high if axis.high is None else axis.high)


def _drawn(panel: Panel, which: str) -> list[Array]:
    """All numbers that have a place on this axis."""
    parts = [np.array([mark.value for mark in panel.marks if mark.axis == which and not mark.rug])]
    spread = which == ("x" if panel.categories else "y")
    for one in panel.series:
        parts.append(getattr(one, which))
        if spread:
            parts += [part for part in (one.low, one.high) if part is not None]
            parts += [] if one.inner is None else [one.inner.ravel()]
    if panel.beyond is not None and which == "x":
        parts.append(np.array([panel.beyond * (1 + ROOM_BEYOND)]))
    return parts
