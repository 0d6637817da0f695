"""A figure as numbers: what is drawn, with its intervals, before any plotting library.

Figure   name, title, caption, panels on a grid of rows (tasks, say) and columns (settings, say)
Panel    its axes, its series, its marks
Series   a curve with its band, or estimates with intervals on named categories
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.data.run_key import NOBODY, RunKey
from evaluation.analysis.stats.bootstrap import TOO_FEW, Band, Estimate
from evaluation.files import atomic_write

Array = NDArray[np.float64]
Kind = Literal["line", "step", "area"]


@dataclass(frozen=True)
class Series:
    """One curve, or the estimates of one optimizer on categories.

    Attributes:
        label: its name in the legend, an optimizer's mostly, which also gives it its look.
        x, y: (N,) numbers. On a panel with categories, x are the estimates and y the numbers of their categories.
        low, high: (N,) the interval or band: of y on a curve, of x on categories; None without one.
        inner: (2, N) a second, narrower interval on categories (quartiles); None without one.
        n: (N,) runs behind each point (0: unknown).
        kind: "line", "step" (constant from each x to the next), "area" (a step filled down to the axis).
        role: "" is drawn as the optimizer `label`, others ("before", "after", "threshold") have their own look.
        runs: which runs are behind it, for the page's provenance.
    """

    label: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    inner: Array | None = None
    n: NDArray[np.int64] | None = None
    kind: Kind = "line"
    role: str = ""
    runs: RunKey = NOBODY


def series(label: str, x: ArrayLike, y: ArrayLike, *, n: ArrayLike | None = None, **options: Any) -> Series:
    """A `Series` from any arrays; a single `n` stands for all its points."""
    for name in {"low", "high", "inner"} & options.keys():
        options[name] = np.atleast_1d(np.asarray(options[name], dtype=np.float64))
    xs, ys = (np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (x, y))
    counts = None if n is None else np.broadcast_to(np.asarray(n, dtype=np.int64), xs.shape)
    return Series(label, xs, ys, n=counts, **options)


def curve(runs: RunKey, x: ArrayLike, band: Band, **options: Any) -> Series:
    """The curve of an optimizer's runs with its band."""
    return series(runs.optimizer, x, band.middle, low=band.low, high=band.high, runs=runs, **options)


def dot(label: str, estimate: Estimate, place: int, **options: Any) -> Series:
    """An estimate with its interval, on the category number `place`."""
    return series(label, estimate.value, place, low=estimate.low, high=estimate.high, **options)


@dataclass(frozen=True)
class Axis:
    """An axis: its label with the unit, linear or logarithmic, its limits (None: as the data), shared by the panels
    with the same `share` ("": its own). With `exponent` the data are log10 of what the ticks say, with `si` the ticks
    are 20k and 1M; `ticks` are (value, text)."""

    label: str = ""
    log: bool = False
    low: float | None = None
    high: float | None = None
    share: str = ""
    exponent: bool = False
    si: bool = False  # 20k, 1M
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Mark:
    """A reference on an axis: `value` on "x" or "y", a dashed grey line; a `rug` is a short tick at the upper edge."""

    axis: Literal["x", "y"]
    value: float
    rug: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `row` and `column` are its place by name (the task, the setting). With `categories` the y axis
    names them, top to bottom. `beyond` is where the x axis ends for censored values: an infinite x is drawn there as an
    open arrow. `note` stands in the middle of the panel, for what is missing, `corner` small at its top right."""

    row: str
    column: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    categories: tuple[str, ...] = ()
    beyond: float | None = None
    note: str = ""
    corner: str = ""

    @property
    def empty(self) -> bool:
        return all(one.x.size == 0 for one in self.series)

    @property
    def lacks_intervals(self) -> bool:
        """Whether points that might have an interval have none: too few runs."""
        return any(one.low is not None and np.isnan(one.low).any() for one in self.series)


@dataclass(frozen=True)
class Figure:
    """A picture: `name` is the file's, `caption` says what is drawn, how the intervals were made, n and seeds.

    `family`: one picture of several alike (one a task and setting), shown one at a time; `member` says which of them.
    `names` are the CSV's: what the grid's rows and columns are, and the values x and y. `per_panel` is the size of a
    panel (width, height) in inches. `aggregate`: over all tasks, so that a page's task filter does not apply.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    names: tuple[str, str, str, str] = ("task", "setting", "x", "y")
    per_panel: tuple[float, float] = (2.3, 1.75)
    aggregate: bool = False
    family: str = ""
    member: str = ""

    @property
    def heading(self) -> str:
        """The title, with which of its family it is."""
        return f"{self.title}: {self.member}" if self.member else self.title

    def rows(self) -> list[str]:
        """Names of the grid's rows, in the order of the panels."""
        return list(dict.fromkeys(panel.row for panel in self.panels))

    def column_names(self) -> list[str]:
        """Names of the grid's columns, in the order of the panels."""
        return list(dict.fromkeys(panel.column for panel in self.panels))

    def labels(self) -> list[str]:
        """What the legend names, in the order of first appearance."""
        return list(dict.fromkeys(one.label for panel in self.panels for one in panel.series if one.x.size))

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of the CSV: exactly the numbers drawn."""
        on_categories = any(panel.categories for panel in self.panels)
        row, column, x, y = self.names
        header = [row, column, "series", *(("category", x) if on_categories else (x, y))]
        inner = any(one.inner is not None for panel in self.panels for one in panel.series)
        header += ["low", "high", *(["quartile_low", "quartile_high"] if inner else []), "n"]
        rows = []
        for panel in self.panels:
            for one in panel.series:
                quartiles = (None, None) if one.inner is None else one.inner
                ends = (one.low, one.high, *(quartiles if inner else ()))
                for index, at in enumerate(zip(one.x, one.y, strict=True)):
                    place = (panel.categories[int(at[1])], at[0]) if on_categories else at
                    numbers = ("" if end is None else _end(float(end[index])) for end in ends)
                    count = "" if one.n is None else int(one.n[index])
                    rows.append([panel.row, panel.column, one.label, *place, *numbers, count])
        return header, rows


def _end(value: float) -> float | str:
    return TOO_FEW if math.isnan(value) else value


@dataclass(frozen=True)
class Omitted:
    """A figure that cannot be drawn from these data, and why."""

    name: str
    reason: str


def write_csv(figure: Figure, path: Path) -> None:
    """Write the numbers of a figure; infinite ones as "inf", floats with 6 digits."""
    header, rows = figure.table()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    atomic_write(path, text.getvalue())


def behind(panels: Iterable[Panel]) -> list[int]:
    """How many runs the points of all panels stand on, each number once."""
    return sorted({int(n) for panel in panels for one in panel.series if one.n is not None for n in one.n})


def seeds_in_words(counts: Iterable[int], word: str = "seed") -> str:
    """ "n = 10 seeds", or "n = 8 to 10 seeds" where it differs; with spaces that no line breaks at."""
    numbers = sorted(set(counts))
    if not numbers:
        return f"No {word}s"
    text = f"n = {numbers[0]}" if len(numbers) == 1 else f"n = {numbers[0]} to {numbers[-1]}"
    return f"{text} {word}{'' if numbers == [1] else 's'}".replace(" ", "\xa0")
