"""Curves in letters: 2 x 4 dots in each, and bars of eight heights."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a letter, by row and column (Unicode 2800)
_BARS = "▁▂▃▄▅▆▇█"
Point = tuple[float, float]


def curve(points: Sequence[Point], width: int, height: int, x_end: float | None = None) -> list[str]:
    """`height` lines of `width` letters with the curve through points (x, y), from the smallest to the largest y.

    Args:
        x_end: where the x axis ends; None: at the last point. It begins at 0.
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    cells = [[0] * width for _ in range(height)]
    if finite:
        low, high = min(y for _, y in finite), max(y for _, y in finite)
        end = max(x_end or 0, finite[-1][0]) or 1
        columns, rows = 2 * width - 1, 4 * height - 1

        def place(point: Point) -> tuple[int, int]:
            y = (point[1] - low) / (high - low) if high > low else 0.5
            return round(point[0] / end * columns), round((1 - y) * rows)

        places = [place(point) for point in finite]
        for (x0, y0), (x1, y1) in zip(places, places[1:] or places, strict=False):
            count = max(abs(x1 - x0), abs(y1 - y0), 1)
            for part in range(count + 1):
                x, y = round(x0 + (x1 - x0) * part / count), round(y0 + (y1 - y0) * part / count)
                cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


def bars(values: Sequence[float], width: int) -> str:
    """The last `width` numbers as bars between their smallest and their largest."""
    finite = [value for value in values if math.isfinite(value)][-width:]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in finite)
