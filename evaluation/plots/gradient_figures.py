"""Gradients before and after clipping, thresholds, and what a target-network synchronization does to them.

One figure for each task and setting, of a study (pooled over its recorded seeds) or of a single run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import RunKey
from evaluation.analysis.stats.bootstrap import Band
from evaluation.plots import style, words
from evaluation.plots.figure import Axis, Figure, Mark, Omitted, Panel, Series, behind, curve, series
from evaluation.plots.gradient_tables import (
    STAGES,
    Array,
    Histograms,
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
BEFORE, AFTER = "before clipping", "after clipping (what the base rule saw)"
VISIBLE = 2e-3  # a histogram's far ends, lower than this part of its highest bin, are not drawn
MAX_SYNCS = 60  # more marks than these would be a grey bar


def magnitudes(data: Dataset) -> Found:
    """Quantiles of |g| by layer and training stage, one row an optimizer."""
    found = histograms(data)
    if not found:
        return [Omitted("gradients", NOTHING)]
    figures: Found = []
    for where, keys in _figures("gradients", (key for key, *_ in found)):
        panels = []
        for key in keys:
            layers = _layers(layer for other, layer, _ in found if other == key)
            for stage in STAGES:
                at = [(i, found[key, layer, stage]) for i, layer in enumerate(layers) if (key, layer, stage) in found]
                drawn = (_boxes(BEFORE, "before", at, key), _boxes(AFTER, "after", at, key)) if at else ()
                x, y = Axis("|gradient|", exponent=True, share="x"), Axis(share=f"layers-{key.optimizer}")
                panels.append(Panel(key.optimizer, stage, x, y, drawn, categories=layers))
        caption = (
            "Magnitudes of the elements of each layer's gradient that are not zero: median (mark), quartiles (thick) "
            "and 5th to 95th percentile (thin), before clipping (open, grey) and after it (filled: what the base rule "
            f"saw). Stages are thirds of a run. Pooled over the regular records of {counted(behind(panels)[-1])}."
        )
        most = max(len(panel.categories) for panel in panels)
        how = where | {"names": ("optimizer", "stage", "log10_gradient", "layer")}
        how["per_panel"] = (2.3, max(0.9, 0.4 + 0.24 * most))
        figures.append(
            Figure(title="Gradient magnitudes by layer and stage", caption=caption, panels=tuple(panels), **how)
        )
    return figures


def _boxes(label: str, role: str, cells: list[tuple[int, Histograms]], key: RunKey) -> Series:
    places, found = zip(*cells, strict=True)
    low, first, middle, third, high = np.array([quantiles(getattr(cell, role)) for cell in found]).T
    how = {"low": low, "high": high, "inner": [first, third], "n": [cell.runs for cell in found]}
    return series(label, middle, places, role=role, runs=key, **how)


def distributions(data: Dataset) -> Found:
    """Histograms of log10 |g| of a single run, one row a layer, one column a stage."""
    found = {(layer, stage): cell for (_, layer, stage), cell in histograms(data).items()}
    panels = []
    for layer in _layers(layer for layer, _ in found):
        for stage in STAGES:
            drawn, zero = [], ""
            if cell := found.get((layer, stage)):
                drawn = [*_shape(cell.before, BEFORE, "before", "area"), *_shape(cell.after, AFTER, "after", "step")]
                zero = f"{cell.before[0] / max(1.0, cell.before.sum()):.0%} zero"
            x, y = Axis("|gradient|", exponent=True, share="x"), Axis("share", low=0.0, share=layer)
            panels.append(Panel(layer, stage, x, y, tuple(drawn), corner=zero))
    caption = (
        "Histograms of the magnitudes of each layer's gradient elements before clipping (grey) and after it (line: "
        "what the base rule saw), four bins a decade, over the regular records of each third of the run. In the "
        "corner: the share of elements that are zero (below 1e-12)."
    )
    names = ("layer", "stage", "log10_gradient", "share_of_elements")
    title = "Gradients before and after clipping, by layer and stage"
    return [figure_or_reason("gradients", panels, NOTHING, title, caption, names=names)]


def _shape(counts: Array, label: str, role: str, kind: str) -> list[Series]:
    """A histogram as stairs over log10 |g|; none where all elements are zero."""
    density = counts[1:-1] / max(1.0, counts.sum())
    used = np.flatnonzero(density > VISIBLE * density.max(initial=0.0))
    if not used.size:
        return []
    inside = slice(max(0, used[0] - 1), used[-1] + 2)
    return [series(label, HISTOGRAM_EDGES[:-1][inside], density[inside], role=role, kind=kind, n=1)]


def thresholds(data: Dataset, *, single: bool = False) -> Found:
    """Threshold and gradient size over time by layer, with the target synchronizations marked.

    `single`: of a single run, named without task and setting.
    """
    found = series_by_update(data, ("threshold", "grad_rms", "after_rms"))
    syncs = shifts(data)
    if not found:
        return [Omitted("thresholds", NOTHING)]
    clipping = {key for (key, _), values in found.items() if np.isfinite(values["threshold"]).any()}
    if not clipping:
        return [Omitted("thresholds", "no optimizer among the recorded ones has a threshold")]
    figures: Found = []
    named = words.of_tasks(data)
    for where, keys in _figures("thresholds", clipping, single):
        panels = []
        for layer in _layers(layer for key, layer in found if key in keys):
            for key in keys:
                drawn = _over_time(found[key, layer], key) if (key, layer) in found else ()
                marks = tuple(Mark("x", step, rug=True) for step in syncs.get(key, [])[:MAX_SYNCS])
                y = Axis("magnitude", log=True, share=layer)
                x = steps_axis(named[key.task].steps, share="x")
                panels.append(Panel(layer, key.optimizer, x, y, tuple(drawn), marks))
        ticks = "Ticks at the top: recorded synchronizations of the target network. " if syncs else ""
        n = max(int(values["n"].max()) for (key, _), values in found.items() if key in keys)
        caption = (
            "Root mean square of each layer's gradient before and after clipping, and the threshold. "
            + (f"Lines: medians over {counted(n)}; bands: quartiles. " if n > 1 else "")
            + f"{ticks}In value mode the threshold bounds single elements, in norm mode the root mean square."
        )
        how = where | {"names": ("layer", "optimizer", "step", "magnitude"), "per_panel": (2.6, 1.35)}
        figures.append(Figure(title="Thresholds over time", caption=caption, panels=tuple(panels), **how))
    return figures


def _over_time(values: Mapping[str, Array], key: RunKey) -> Iterable[Series]:
    drawn_as = {"grad_rms": (BEFORE, "before"), "after_rms": (AFTER, "after"), "threshold": ("threshold", "threshold")}
    for column, (label, role) in drawn_as.items():
        known = np.isfinite(values[column]) & (values[column] > 0)
        if known.any():
            yield _line(label, values, column, known, key, role=role)


def _line(
    label: str, values: Mapping[str, Array], column: str, known: NDArray[np.bool_], key: RunKey, **options: Any
) -> Series:
    """A column where it is `known`, with its quartiles where there are several runs."""
    several = values["n"].max() > 1
    band = {"low": values[f"{column}_low"][known], "high": values[f"{column}_high"][known]} if several else {}
    n, step = values["n"][known], values["step"][known]
    return series(label, step, values[column][known], n=n, runs=key, **options, **band)


CLIP = {"clip_factor": "clip factor", "clip_sharpness": "sharpness"}


def clip_options(data: Dataset, *, single: bool = False) -> Found:
    """The clip's options over time by layer, where any optimizer changes them while it trains; `single` as above."""
    found = series_by_update(data, CLIP)
    if not found:
        return [Omitted("clip-options", NOTHING)]
    moving = {(key, name) for (key, _), values in found.items() for name in CLIP if _changes(values[name])}
    if not moving:
        reason = "no optimizer changes its clip's options while it trains (`adapt`, or a preset by share of training)"
        return [Omitted("clip-options", reason)]
    cells = {replace(key, optimizer="") for key, _ in moving}
    shown = {
        key
        for (key, _), values in found.items()
        if replace(key, optimizer="") in cells and any(np.isfinite(values[name]).any() for name in CLIP)
    }
    figures: Found = []
    named = words.of_tasks(data)
    for where, keys in _figures("clip-options", shown, single):
        panels = []
        for layer in _layers(layer for key, layer in found if key in keys):
            for name in (name for name in CLIP if any((key, name) in moving for key in keys)):
                here = [(key, found[key, layer]) for key in keys if (key, layer) in found]
                drawn = [_line(key.optimizer, at, name, np.isfinite(at[name]), key) for key, at in here]
                x = steps_axis(named[keys[0].task].steps, share="x")
                panels.append(Panel(layer, CLIP[name], x, Axis("", log=True, share=name), tuple(drawn)))
        n = max(int(found[key, panel.row]["n"].max()) for panel in panels for key in keys if (key, panel.row) in found)
        caption = (
            "Clip factor (the threshold in running deviations of the layer's gradient) and sharpness of the clip of "
            "each layer, as they were in use: changed by the hypergradient (`adapt`), or by a preset with the share of "
            + f"training. Lines: medians over {counted(n)}"
            + ("; bands: quartiles." if n > 1 else ".")
        )
        how = where | {"names": ("layer", "option", "step", "value"), "per_panel": (2.6, 1.35)}
        figures.append(Figure(title="The clip's options over time", caption=caption, panels=tuple(panels), **how))
    return figures


def _changes(values: Array) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.size) and bool(np.ptp(known) > 0)


def sync_response(data: Dataset, *, single: bool = False) -> Found:
    """Gradient size around target synchronizations, relative to the last update before each; `single` as above."""
    before, after = (around_shifts(data, column) for column in ("grad_rms", "after_rms"))
    if not before:
        return [Omitted("sync-response", "no gradients were recorded around a synchronization of the target network")]
    figures: Found = []
    for where, keys in _figures("sync-response", (key for key, _ in before), single):
        panels = []
        last = max(values["since"].max() for (key, _), values in before.items() if key in keys)
        ticks = tuple((float(_spaced(since)), str(since)) for since in OFFSETS if since <= last)
        x = Axis("updates since synchronization", ticks=ticks, share="x")
        for layer in _layers(layer for key, layer in before if key in keys):
            for side, title in ((before, "before clipping"), (after, "after clipping")):
                here = [(key, side[key, layer]) for key in keys if (key, layer) in side]
                drawn = tuple(
                    curve(key, _spaced(at["since"]), Band(at["value"], at["low"], at["high"]), n=at["n"])
                    for key, at in here
                )
                y = Axis("relative size", log=True, share=layer)
                panels.append(Panel(layer, title, x, y, drawn, (Mark("y", 1.0),)))
        n = behind(panels)
        of = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
        caption = (
            "Root mean square of each layer's gradient around synchronizations of the target network, relative to the "
            f"last update before each (-1). Line: median, band: quartiles, over {of} synchronizations "
            f"{'of this run' if single else 'of all recorded seeds'}. The axis of updates is stretched near 0."
        )
        how = where | {"names": ("layer", "side", "position", "ratio"), "per_panel": (3.0, 1.35)}
        figures.append(
            Figure(title="Gradients around target synchronizations", caption=caption, panels=tuple(panels), **how)
        )
    return figures


def _spaced(since: ArrayLike) -> Array:
    """Places on the axis of updates since a synchronization: log2(since + 2)."""
    return np.log2(np.asarray(since) + 2.0)


def _figures(
    family: str, keys: Iterable[RunKey], single: bool = False
) -> Iterator[tuple[dict[str, Any], list[RunKey]]]:
    """One figure of a family for each part, task and setting: its names, and the optimizers there in their order. It is
    named with the part only where another part has this task and setting, too."""
    found = set(keys)
    names = style.order(key.optimizer for key in found)
    cells: dict[RunKey, list[RunKey]] = defaultdict(list)
    for key in sorted(found, key=lambda key: (key.part, key.task, key.setting, names.index(key.optimizer))):
        cells[replace(key, optimizer="")].append(key)
    for where, inside in cells.items():
        alike = [other for other in cells if (other.task, other.setting) == (where.task, where.setting)]
        name = "-".join([family, *([where.part] if len(alike) > 1 else []), where.task, where.setting])
        member = where.task if where.setting == "default" else f"{where.task}, {where.setting}"
        yield ({"name": family} if single else {"name": name, "family": family}) | {"member": member}, inside


def _layers(names: Iterable[str]) -> tuple[str, ...]:
    """Each layer once, in the order of the network."""
    return tuple(sorted(set(names), key=natural))


def counted(number: int) -> str:
    """ "1 recorded seed", "2 recorded seeds"."""
    return f"{number} recorded seed{'' if number == 1 else 's'}"
