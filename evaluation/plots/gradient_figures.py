"""Gradients before and after clipping, thresholds, and what a target-network synchronization does to them.

One figure for each task and setting, of a study (pooled over its recorded seeds) or of a single run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.analysis.data.run_key import RunKey
from evaluation.plots import style
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, Series, series
from evaluation.plots.gradient_tables import (
    STAGES,
    Array,
    Source,
    around_shifts,
    histograms,
    natural,
    quantiles,
    series_by_update,
    shifts,
)
from evaluation.plots.study_data import Found, figure_or_reason, steps_axis
from evaluation.runs.gradient_columns import HISTOGRAM_EDGES
from evaluation.runs.recorder import OFFSETS

NOTHING = "no run has gradient records (they are made with gradients.enabled, which is the default)"
BEFORE, AFTER, THRESHOLD = "before clipping", "after clipping (what the base rule saw)", "threshold"
VISIBLE = 2e-3  # a histogram's far ends, lower than this part of its highest bin, are not drawn
MAX_SYNCS = 60  # more marks than these would be a grey bar


def magnitudes(source: Source) -> Found:
    """Quantiles of |g| by layer and training stage, one row an optimizer."""
    found = histograms(source)
    if not found:
        return [Omitted("gradients", NOTHING)]
    figures: Found = []
    cells = _by_cell(key for key, _, _ in found)
    for where, keys in cells.items():
        panels = []
        for key in keys:
            layers = sorted({layer for other, layer, _ in found if other == key}, key=natural)
            for stage in STAGES:
                drawn: list[Series] = []
                for label, role in ((BEFORE, "before"), (AFTER, "after")):
                    at = [found.get((key, layer, stage)) for layer in layers]
                    counts = [(i, getattr(cell, role), cell.runs) for i, cell in enumerate(at) if cell is not None]
                    if counts:
                        drawn.append(_boxes(label, role, counts, key))
                x, y = Axis("|gradient|", exponent=True, share="x"), Axis(share=f"layers-{key.optimizer}")
                panels.append(Panel(key.optimizer, stage, x, y, tuple(drawn), categories=tuple(layers)))
        most = max(len(panel.categories) for panel in panels)
        seeds = sorted({cell.runs for (key, _, _), cell in found.items() if key in keys})
        caption = (
            "Magnitudes of the elements of each layer's gradient that are not zero: median (mark), quartiles (thick) "
            "and 5th to 95th percentile (thin), before clipping (open, grey) and after it (filled: what the base rule "
            f"saw). Stages are thirds of a run. Pooled over the regular records of {counted(seeds[-1])}."
        )
        how: dict[str, Any] = {"row_name": "optimizer", "column_name": "stage", "columns": ("log10_gradient", "layer")}
        how |= {"per_panel": (2.3, max(0.9, 0.4 + 0.24 * most))} | _member("gradients", where, cells)
        title = "Gradient magnitudes by layer and stage"
        figures.append(Figure(title=title, caption=caption, panels=tuple(panels), **how))
    return figures


def _boxes(label: str, role: str, counts: list[tuple[int, Array, int]], key: RunKey) -> Series:
    found = np.array([quantiles(histogram) for _, histogram, _ in counts])
    how = {"low": found[:, 0], "high": found[:, 4], "inner": found[:, [1, 3]].T, "n": [n for _, _, n in counts]}
    return series(label, found[:, 2], [i for i, _, _ in counts], role=role, runs=key, **how)


def distributions(source: Source) -> Found:
    """Histograms of log10 |g| of a single run, one row a layer, one column a stage."""
    found = histograms(source)
    if not found:
        return [Omitted("gradients", NOTHING)]
    panels = []
    for layer in sorted({layer for _, layer, _ in found}, key=natural):
        for stage in STAGES:
            cells = [cell for (_, other, at), cell in found.items() if (other, at) == (layer, stage)]
            drawn = []
            for label, role in ((BEFORE, "before"), (AFTER, "after")) if cells else ():
                counts = getattr(cells[0], role)
                density = counts[1:-1] / max(1.0, counts.sum())
                edges = np.array(HISTOGRAM_EDGES[:-1])
                used = np.flatnonzero(density > VISIBLE * density.max(initial=0.0))
                if used.size:
                    inside = slice(max(0, used[0] - 1), used[-1] + 2)
                    kind = "area" if role == "before" else "step"
                    drawn.append(series(label, edges[inside], density[inside], role=role, kind=kind, n=1))
            zero = f"{cells[0].before[0] / max(1.0, cells[0].before.sum()):.0%} zero" if cells else ""
            x = Axis("|gradient|", exponent=True, share="x")
            y = Axis("share", low=0.0, share=layer)
            panels.append(Panel(layer, stage, x, y, tuple(drawn), corner=zero))
    caption = (
        "Histograms of the magnitudes of each layer's gradient elements before clipping (grey) and after it (line: "
        "what the base rule saw), four bins a decade, over the regular records of each third of the run. In the "
        "corner: the share of elements that are zero (below 1e-12)."
    )
    how: dict[str, Any] = {"row_name": "layer", "column_name": "stage"}
    how["columns"] = ("log10_gradient", "share_of_elements")
    title = "Gradients before and after clipping, by layer and stage"
    return [figure_or_reason("gradients", panels, NOTHING, title, caption, **how)]


def thresholds(source: Source, *, single: bool = False) -> Found:
    """Threshold and gradient size over time by layer, with the target synchronizations marked.

    `single`: of a single run, named without task and setting.
    """
    found = series_by_update(source, ("threshold", "grad_rms", "after_rms"))
    syncs = shifts(source)
    clipping = {key for (key, _), values in found.items() if np.isfinite(values["threshold"]).any()}
    if not found:
        return [Omitted("thresholds", NOTHING)]
    if not clipping:
        return [Omitted("thresholds", "no optimizer among the recorded ones has a threshold")]
    figures: Found = []
    cells = _by_cell(clipping)
    for where, keys in cells.items():
        panels = []
        layers = sorted({layer for key, layer in found if key in keys}, key=natural)
        for layer in layers:
            for key in keys:
                values = found.get((key, layer))
                drawn = [] if values is None else _over_time(values, key)
                marks = tuple(Mark("x", step, rug=True) for step in syncs.get(key, [])[:MAX_SYNCS])
                y = Axis("magnitude", log=True, share=layer)
                panels.append(Panel(layer, key.optimizer, steps_axis(share="x"), y, tuple(drawn), marks))
        n = sorted({int(count) for (key, _), values in found.items() if key in keys for count in values["n"]})
        caption = (
            "Root mean square of each layer's gradient before and after clipping, and the threshold. "
            + (f"Lines: medians over {counted(n[-1])}; bands: quartiles. " if n[-1] > 1 else "")
            + "Ticks at the top: recorded synchronizations of the target network. In value mode the threshold bounds "
            "single elements, in norm mode the root mean square."
        )
        how: dict[str, Any] = {"row_name": "layer", "column_name": "optimizer", "columns": ("step", "magnitude")}
        how |= {"per_panel": (2.6, 1.35)} | _member("thresholds", where, cells, single)
        figures.append(Figure(title="Thresholds over time", caption=caption, panels=tuple(panels), **how))
    return figures


def _over_time(values: Mapping[str, Array], key: RunKey) -> list[Series]:
    drawn = []
    drawn_as = {"grad_rms": (BEFORE, "before"), "after_rms": (AFTER, "after"), "threshold": (THRESHOLD, "threshold")}
    for column, (label, role) in drawn_as.items():
        known = np.isfinite(values[column]) & (values[column] > 0)
        if known.any():
            several = values["n"].max() > 1
            band = {"low": values[f"{column}_low"][known], "high": values[f"{column}_high"][known]} if several else {}
            how = {"role": role, "n": values["n"][known], "runs": key, **band}
            drawn.append(series(label, values["step"][known], values[column][known], **how))
    return drawn


def sync_response(source: Source, *, single: bool = False) -> Found:
    """Gradient size around target synchronizations, relative to the last update before each; `single` as above."""
    columns = {"before": "grad_rms", "after": "after_rms"}
    sides = {side: around_shifts(source, column) for side, column in columns.items()}
    if not sides["before"]:
        return [Omitted("sync-response", "no gradients were recorded around a synchronization of the target network")]
    figures: Found = []
    cells = _by_cell(key for key, _ in sides["before"])
    for where, keys in cells.items():
        layers = sorted({layer for key, layer in sides["before"] if key in keys}, key=natural)
        panels, n = [], []
        last = max(values["since"].max() for (key, _), values in sides["before"].items() if key in keys)
        for layer in layers:
            for side, title in (("before", "before clipping"), ("after", "after clipping")):
                drawn = []
                for key in keys:
                    values = sides[side].get((key, layer))
                    if values is not None:
                        at = _spaced(values["since"])
                        band = {"low": values["low"], "high": values["high"], "n": values["n"], "runs": key}
                        drawn.append(series(key.optimizer, at, values["value"], **band))
                        n += values["n"].astype(int).tolist()
                ticks = tuple((float(_spaced(np.array([since]))[0]), str(since)) for since in OFFSETS if since <= last)
                x = Axis("updates since synchronization", ticks=ticks, share="x")
                y = Axis("relative size", log=True, share=layer)
                panels.append(Panel(layer, title, x, y, tuple(drawn), (Mark("y", 1.0),)))
        of = f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"
        caption = (
            "Root mean square of each layer's gradient around synchronizations of the target network, relative to the "
            f"last update before each (-1). Line: median, band: quartiles, over {of} synchronizations "
            f"{'of this run' if single else 'of all recorded seeds'}. The axis of updates is stretched near 0."
        )
        how: dict[str, Any] = {"row_name": "layer", "column_name": "side", "columns": ("position", "ratio")}
        how |= {"per_panel": (3.0, 1.35)} | _member("sync-response", where, cells, single)
        title = "Gradients around target synchronizations"
        figures.append(Figure(title=title, caption=caption, panels=tuple(panels), **how))
    return figures


def _spaced(since: Array) -> Array:
    """Places on the axis of updates since a synchronization: log2(since + 2)."""
    return np.log2(since + 2.0)


def _by_cell(keys: Iterable[RunKey]) -> dict[RunKey, list[RunKey]]:
    """Keys by their part, task and setting, the optimizers of each in their order."""
    found: dict[RunKey, list[RunKey]] = {}
    for key in sorted(set(keys), key=lambda key: (key.part, key.task, key.setting, key.optimizer)):
        found.setdefault(replace(key, optimizer=""), []).append(key)
    for where, cell in found.items():
        names = style.order(key.optimizer for key in cell)
        found[where] = sorted(cell, key=lambda key: names.index(key.optimizer))
    return found


def counted(number: int) -> str:
    """ "1 recorded seed", "2 recorded seeds"."""
    return f"{number} recorded seed{'' if number == 1 else 's'}"


def _member(family: str, where: RunKey, cells: Iterable[RunKey], single: bool = False) -> dict[str, str]:
    """Names of the figure of one task and setting among those of its family: with the part where two parts have this
    task and setting."""
    member = where.task if where.setting == "default" else f"{where.task}, {where.setting}"
    if single:
        return {"name": family, "member": member}
    alike = [other for other in cells if (other.task, other.setting) == (where.task, where.setting)]
    name = "-".join([family, *([where.part] if len(alike) > 1 else []), where.task, where.setting])
    return {"name": name, "family": family, "member": member}
