"""Limits of axes, the same for the files and for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from evaluation.plots.figure import Array, Axis, Figure, Panel

Limits = tuple[float, float]
ROOM_BEYOND = 0.12  # of the axis: the zone of censored values
MARGIN = 0.05  # of the data's spread, on each side
LOG_MARGIN = 0.04  # of the data's decades


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
