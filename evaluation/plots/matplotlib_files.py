"""Figures as matplotlib files: PNG, SVG, PDF. The same figure gives the same bytes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.files import atomic_path
from evaluation.plots import style
from evaluation.plots.axes import Limits, axis_limits, ticks
from evaluation.plots.figure import Axis, Figure, Mark, Panel, Series

TEXT, SMALL, TITLE = 8.0, 7.0, 10.0  # points; readable when a page-wide figure is printed
DPI = 200
LINE, LEFT, GAP = 0.145, 0.12, 0.06  # inches: a line of small text, the left edge of texts, between the parts
MARKERS_A_LINE = 5  # of stairs, whose points are no evaluations
MARKER, SMALLEST_MARKER, MARKER_ROOM = 3.6, 1.4, 90.0  # points: a marker, a small one, and all of a line together
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so pictures are the same on every machine
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "lines.linewidth": 1.3,
    "lines.markersize": MARKER,
    "legend.frameon": False,
    "svg.hashsalt": "asgc",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, folder: Path, formats: Sequence[str], looks: Mapping[str, style.Look]) -> list[Path]:
    """Draw a figure and write `folder`/`figure.name`.FORMAT for each format; the paths."""
    paths = [folder / f"{figure.name}.{form}" for form in formats]
    with _drawn(figure, looks) as drawn:
        for path, form in zip(paths, formats, strict=True):
            with atomic_path(path) as temporary:
                drawn.savefig(temporary, format=form, dpi=DPI, metadata=METADATA[form])
    return paths


@contextmanager
def _drawn(figure: Figure, looks: Mapping[str, style.Look]) -> Iterator[Any]:
    """The figure, drawn, with the style in force."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, columns, places = _grid(figure)
    width = max(4.2, columns * figure.per_panel[0] + 0.9)
    legend_columns, legend_lines = _legend_grid(figure, width)
    caption = textwrap.wrap(figure.caption, int((width - 2 * LEFT) / 0.0555))
    header = LEFT + 0.24 + legend_lines * 0.17 + GAP
    footer = len(caption) * LINE + LEFT + GAP
    height = rows * figure.per_panel[1] + 0.35 + header + footer
    with matplotlib.rc_context(STYLE):
        inside = (0.0, footer / height, 1.0, 1 - (header + footer) / height)
        layout = ConstrainedLayoutEngine(rect=inside, w_pad=0.06, h_pad=0.06)
        canvas = Canvas(figsize=(width, height), layout=layout)
        axes = canvas.subplots(rows, columns, squeeze=False)
        for spare in axes.flat:
            spare.set_visible(False)
        limits = axis_limits(figure)
        for panel, (row, column), ends in zip(figure.panels, places, limits, strict=True):
            one = axes[row][column]
            one.set_visible(True)
            _panel(one, panel, looks, ends)
            _names(one, figure, panel, row, column, places)
        canvas.text(LEFT / width, 1 - LEFT / height, figure.heading, fontsize=TITLE, fontweight="bold", va="top")
        if legend_lines:
            _legend(canvas, figure, looks, (LEFT / width, 1 - (LEFT + 0.2) / height), legend_columns)
        if caption:
            place: dict[str, Any] = {"va": "bottom", "fontsize": SMALL, "color": "#444444", "linespacing": 1.35}
            canvas.text(LEFT / width, LEFT / height, "\n".join(caption), **place)
        yield canvas


def _grid(figure: Figure) -> tuple[int, int, list[tuple[int, int]]]:
    """Rows, columns, and the place of each panel. One row (or column) of many panels is wrapped."""
    rows, columns = figure.rows(), figure.column_names()
    if len(rows) > 1 and len(columns) > 1:
        places = [(rows.index(panel.row), columns.index(panel.column)) for panel in figure.panels]
        return len(rows), len(columns), places
    count = len(figure.panels)
    across = min(count, 4 if count % 4 == 0 or count > 6 else 3)
    return math.ceil(count / across), across, [divmod(index, across) for index in range(count)]


def _names(axes: Any, figure: Figure, panel: Panel, row: int, column: int, places: list[tuple[int, int]]) -> None:
    """Title and axis labels of a panel: in a full grid the columns are named at the top and the rows at the left."""
    several = len(figure.rows()) > 1
    grid = several and len(figure.column_names()) > 1
    left = min(other for line, other in places if line == row)
    lines = [line for line, other in places if other == column]
    if row == min(lines) or not grid:
        axes.set_title(panel.row if several and not grid else panel.column)
    if row == max(lines):
        axes.set_xlabel(panel.x.label)
    if column == left:
        lines_of_label = textwrap.wrap(panel.y.label, max(12, int((figure.per_panel[1] - 0.45) / 0.068)))
        axes.set_ylabel("\n".join([*([panel.row] if grid and panel.row else []), *lines_of_label]))
    elif panel.y.share and panel.y.share == figure.panels[places.index((row, left))].y.share:
        axes.tick_params(labelleft=False)  # the same axis stands at the left of the row


def _panel(axes: Any, panel: Panel, looks: Mapping[str, style.Look], limits: tuple[Limits, Limits]) -> None:
    if panel.note:
        place = {"transform": axes.transAxes, "ha": "center", "va": "center", "fontsize": SMALL, "color": "#666666"}
        axes.text(0.5, 0.5, "\n".join(textwrap.wrap(panel.note, 26)), **place)
    if panel.corner:
        axes.set_title(panel.corner, loc="right", fontsize=SMALL, fontweight="normal", color="#444444", pad=3)
    if panel.categories:
        axes.set_yticks(range(len(panel.categories)), panel.categories)
        axes.set_ylim(len(panel.categories) - 0.4, -0.6)
        axes.grid(False, axis="y")
    _scale(axes, panel.x, "x", limits[0])
    if not panel.categories:
        _scale(axes, panel.y, "y", limits[1])
    if panel.beyond is not None:
        axes.axvspan(panel.beyond, axes.get_xlim()[1], color="#f0f0f0", zorder=0, linewidth=0)
    for mark in panel.marks:
        _mark(axes, mark)
    for index, one in enumerate(panel.series):
        if one.x.size:
            if panel.categories:
                _intervals(axes, panel, one, looks)
            else:
                _curve(axes, one, looks, index, len(panel.series))


def _scale(axes: Any, axis: Axis, which: str, limits: Limits) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, NullLocator

    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    low, high = limits
    getattr(axes, f"set_{which}lim")(low, high)
    mine = getattr(axes, f"{which}axis")
    if found := ticks(axis, limits):
        mine.set_ticks([place for place, _ in found], [text for _, text in found])
        mine.set_minor_formatter(NullFormatter())
        if axis.ticks:
            mine.set_minor_locator(NullLocator())
        return
    mine.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if axis.si:
        mine.set_major_formatter(EngFormatter(sep=""))


def _mark(axes: Any, mark: Mark) -> None:
    if mark.rug:
        blended = axes.get_xaxis_transform()
        axes.plot([mark.value] * 2, [0.955, 1.0], transform=blended, color="#444444", linewidth=0.6, zorder=1)
        return
    draw = axes.axvline if mark.axis == "x" else axes.axhline
    draw(mark.value, color="#8a8a8a", linewidth=0.8, dashes=(3, 2), zorder=1)


def _curve(axes: Any, one: Series, looks: Mapping[str, style.Look], index: int, count: int) -> None:
    how = _how(one, looks)
    alpha = min(0.18, 0.5 / count)  # many bands on each other would be mud
    step = "post" if one.kind in ("step", "area") else None
    if one.kind == "area":
        axes.fill_between(one.x, 0, one.y, step=step, color=how["color"], alpha=0.3, linewidth=0)
        return
    if one.low is not None and one.high is not None:
        axes.fill_between(one.x, one.low, one.high, step=step, color=how["color"], alpha=alpha, linewidth=0)
    if one.x.size == 1:  # a line of one point is not seen
        how["marker"] = how["marker"] or "o"
    if how["marker"] and not step:  # a marker each evaluation
        how["markersize"] = min(MARKER, max(SMALLEST_MARKER, MARKER_ROOM / one.x.size))
    elif how["marker"]:
        spacing = max(1, math.ceil(one.x.size / MARKERS_A_LINE))
        how["markevery"] = slice(index % spacing, None, spacing)
    axes.plot(one.x, one.y, drawstyle="steps-post" if step else "default", zorder=3, **how)


def _intervals(axes: Any, panel: Panel, one: Series, looks: Mapping[str, style.Look]) -> None:
    """Estimates with their intervals; what is infinite ends in an arrow at the edge."""
    how = _how(one, looks)
    colour, marker = how["color"], how["marker"] or "o"
    edge = axes.get_xlim()[1]
    y = one.y + {"before": -0.17, "after": 0.17}.get(one.role, 0.0)
    if one.low is not None and one.high is not None:
        closed = np.isfinite(one.low) & np.isfinite(one.high)
        axes.hlines(y[closed], one.low[closed], one.high[closed], color=colour, linewidth=1.1, zorder=2)
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "mutation_scale": 6}
        arrow |= {"shrinkA": 0, "shrinkB": 0}
        for index in np.flatnonzero(np.isfinite(one.low) & np.isposinf(one.high)):
            axes.annotate("", (edge, y[index]), (one.low[index], y[index]), arrowprops=arrow, zorder=2)
    if one.inner is not None:
        axes.hlines(y, one.inner[0], one.inner[1], color=colour, linewidth=3.2, zorder=2)
    dots: dict[str, Any] = {"linestyle": "none", "color": colour, "markersize": 4.6, "zorder": 3}
    censored = np.isposinf(one.x) & (panel.beyond is not None)
    face = {"markerfacecolor": "white"} if one.role == "before" else {}
    axes.plot(one.x[~censored], y[~censored], marker=marker, **dots, **face)
    if censored.any() and panel.beyond is not None:
        place = np.full(int(censored.sum()), (panel.beyond + edge) / 2)
        axes.plot(place, y[censored], marker=">", markerfacecolor="white", **dots)


def _how(one: Series, looks: Mapping[str, style.Look]) -> dict[str, Any]:
    look = style.ROLES.get(one.role) or looks.get(one.role or one.label, style.Look(style.BLUE, style.SOLID, ""))
    return {"color": look.colour, "linestyle": (0, look.dash) if look.dash else "-", "marker": look.marker or None}


def _legend(
    canvas: Any, figure: Figure, looks: Mapping[str, style.Look], corner: tuple[float, float], columns: int
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    labels = figure.legend()
    found = {one.label: one for panel in figure.panels for one in panel.series if one.x.size and one.label in labels}
    handles: list[Any] = []
    on_categories = any(panel.categories for panel in figure.panels)
    for label, one in found.items():
        how = _how(one, looks)
        if one.kind == "area":
            handles.append(Patch(color=how["color"], alpha=0.3, linewidth=0, label=label))
            continue
        if on_categories:
            how["marker"] = how["marker"] or "o"
            how |= {"markerfacecolor": "white"} if one.role == "before" else {}
        handles.append(Line2D([], [], label=label, **how))
    place = {"loc": "upper left", "bbox_to_anchor": corner, "borderaxespad": 0, "borderpad": 0}
    spacing = {"handlelength": 2.6, "columnspacing": 1.4, "labelspacing": 0.4}
    canvas.legend(handles=handles, ncols=columns, **place, **spacing)


def _legend_grid(figure: Figure, width: float) -> tuple[int, int]:
    """Columns and lines of the legend; none where the title or the categories name what is drawn."""
    labels = figure.legend()
    if not labels:
        return 0, 0
    columns = max(1, int((width - 2 * LEFT) / (0.6 + 0.075 * max(map(len, labels)))))
    return columns, math.ceil(len(labels) / columns)
