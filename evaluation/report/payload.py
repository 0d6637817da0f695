"""Figures as compact JSON for the page's script (`templates/charts.js`), which draws them with plotly.js."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.plots.axes import Limits, axis_limits, ticks
from evaluation.plots.figure import Axis, Figure, Panel, Series
from evaluation.plots.style import Look

DIGITS, PLACE_DIGITS = 4, 7  # significant ones, of values and of places on an axis: more than a screen shows

# matplotlib's markers as plotly's symbols and as outlines in a box of 8 x 8 for the page's legend.
SYMBOLS = {
    "o": ("circle", "M4 0A4 4 0 1 1 4 8A4 4 0 1 1 4 0Z"),
    "s": ("square", "M.5 .5H7.5V7.5H.5Z"),
    "D": ("diamond", "M4 -.5L8.5 4L4 8.5L-.5 4Z"),
    "p": ("pentagon", "M4 0L8 3L6.5 7.5H1.5L0 3Z"),
    "^": ("triangle-up", "M4 0L8.3 7.5H-.3Z"),
    "v": ("triangle-down", "M4 8L8.3 .5H-.3Z"),
    "<": ("triangle-left", "M0 4L7.5 -.3V8.3Z"),
    ">": ("triangle-right", "M8 4L.5 -.3V8.3Z"),
    "X": ("x", "M2 0L4 2L6 0L8 2L6 4L8 6L6 8L4 6L2 8L0 6L2 4L0 2Z"),
    "x": ("x-thin-open", "M1 0L4 3L7 0L8 1L5 4L8 7L7 8L4 5L1 8L0 7L3 4L0 1Z"),
    "P": ("cross", "M2.5 0H5.5V2.5H8V5.5H5.5V8H2.5V5.5H0V2.5H2.5Z"),
    "+": ("cross-thin-open", "M3.4 0H4.6V3.4H8V4.6H4.6V8H3.4V4.6H0V3.4H3.4Z"),
    "h": ("hexagon", "M4 0L7.5 2V6L4 8L.5 6V2Z"),
    "*": ("star", "M4 -.5L5.2 2.8H8.5L5.9 4.9L6.9 8.2L4 6.2L1.1 8.2L2.1 4.9L-.5 2.8H2.8Z"),
    "d": ("diamond-tall", "M4 -.5L7 4L4 8.5L1 4Z"),
    "H": ("hexagon2", "M2 .5H6L8 4L6 7.5H2L0 4Z"),
    "8": ("octagon", "M2.5 .3H5.5L7.7 2.5V5.5L5.5 7.7H2.5L.3 5.5V2.5Z"),
}


def looks(found: Mapping[str, Look]) -> dict[str, dict[str, Any]]:
    """{optimizer or role: {"colour", "dash" (lengths), "symbol" (plotly's), "outline" (SVG path)}}."""
    made = {}
    for name, look in found.items():
        symbol, outline = SYMBOLS.get(look.marker, SYMBOLS["o"]) if look.marker else ("", "")
        made[name] = {"colour": look.colour, "dash": list(look.dash), "symbol": symbol, "outline": outline}
    return made


def figure(one: Figure) -> dict[str, Any]:
    """A figure as the page's script takes it; `header` and the order of its columns are those of the CSV."""
    limits = axis_limits(one)
    header, _ = one.table()
    return {
        "name": one.name,
        "title": one.heading,
        "header": header,
        "legend": one.legend(),
        "aggregate": one.aggregate,
        "panels": [_panel(panel, ends) for panel, ends in zip(one.panels, limits, strict=True)],
    }


def _panel(panel: Panel, limits: tuple[Limits, Limits]) -> dict[str, Any]:
    """What all its series have in common ("runs", "xs") stands in the panel once."""
    digits = DIGITS if panel.categories else PLACE_DIGITS  # of x
    drawn = [_series(one, digits) for one in panel.series if one.x.size]
    found: dict[str, Any] = {"row": panel.row, "column": panel.column}
    found |= {"x": _axis(panel.x, limits[0]), "y": _axis(panel.y, limits[1]), "series": drawn}
    if len(drawn) > 1:
        shared = dict(drawn[0]["runs"].items() & set.intersection(*({*one["runs"].items()} for one in drawn)))
        for one in drawn:
            one["runs"] = {key: value for key, value in one["runs"].items() if key not in shared}
        found["runs"] = {key: shared[key] for key in sorted(shared)}
        if not panel.categories and all(one["x"] == drawn[0]["x"] for one in drawn):
            found["xs"] = drawn[0]["x"]
            for one in drawn:
                del one["x"]
    marks = [[mark.axis, number(mark.value), mark.rug] for mark in panel.marks]
    found |= _given(marks=marks, categories=list(panel.categories), beyond=panel.beyond)
    return found | _given(note=panel.note, corner=panel.corner)


def _axis(axis: Axis, limits: Limits) -> dict[str, Any]:
    places, texts = zip(*shown, strict=True) if (shown := ticks(axis, limits)) else ((), ())
    found: dict[str, Any] = {"label": axis.label, "range": [number(end, PLACE_DIGITS) for end in limits]}
    found |= {"ticks": [[number(place, PLACE_DIGITS) for place in places], texts]} if shown else {}
    return found | _given(log=axis.log, exponent=axis.exponent, si=axis.si)


def _series(one: Series, digits: int) -> dict[str, Any]:
    """All its points: every evaluation is drawn."""
    low, high = (None if end is None else numbers(end) for end in (one.low, one.high))
    inner = None if one.inner is None else [numbers(end) for end in one.inner]
    counts = None if one.n is None else one.n.tolist()
    n = counts[0] if counts and len(set(counts)) == 1 else counts
    found: dict[str, Any] = {"label": one.label, "x": numbers(one.x, digits), "y": numbers(one.y)}
    found |= _given(low=low, high=high, inner=inner, n=n)
    return found | _given(kind=one.kind.replace("line", ""), role=one.role) | {"runs": one.runs.labels()}


def _given(**fields: Any) -> dict[str, Any]:
    """What is not empty; numbers always are something."""
    return {name: value for name, value in fields.items() if value or type(value) in (int, float)}


def numbers(values: NDArray[np.float64], digits: int = DIGITS) -> list[Any]:
    """Numbers as JSON has them: `number` of each."""
    return [number(value, digits) for value in values.tolist()]


def number(value: float, digits: int = DIGITS) -> float | int | str | None:
    """A number of `digits` significant digits; whole ones without a point, infinite ones "inf" and "-inf", NaN None."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
