"""The loss's curvature, of one run, or of each method's at its end: the Hessian's spectrum, slices of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evaluation.curvature.measure import read
from evaluation.plots.figure import Array, Axis, Omitted, Panel, Series, series
from evaluation.plots.study_data import Found, Part, StudyData, figure_or_reason

LOOKS = 3  # of a run that are shown, evenly spaced, the first and the last among them
GRID, WIDTH, LEAST = 400, 0.01, 1e-5  # points of a density, its kernel's share of the range, what is drawn of it
_CAPTION = (
    "Above: spectral density of the training loss's Hessian (stochastic Lanczos quadrature from one vector; Gaussian "
    "kernels of 1% of the range). Below: the loss beside the weights, along the gradient and along a random direction, "
    "each as long as the weights, filter by filter (Li et al. 2018). One run."
)


def curvature(run: Any) -> Found:
    """Spectrum and slices of a `single_run.RunData`, a column a look."""
    looks = read(run.path)
    if not looks:
        return [Omitted("curvature", "the run has not looked at it (`train --curvature.every 1`)")]
    chosen = sorted({round(k) for k in np.linspace(0, len(looks) - 1, min(LOOKS, len(looks)))})
    panels = []
    for look in (looks[k] for k in chosen):
        at, density = smoothed(np.array(look["spectrum"]["values"]), np.array(look["spectrum"]["weights"]))
        line = series(run.optimizer, at, density, n=1, kind="step")
        column = f"step {look['step']:,}"
        panels.append(Panel("density of eigenvalues", column, Axis(), Axis("", log=True, low=LEAST), (line,)))
    for look in (looks[k] for k in chosen):
        for name, values in look["slices"].items():
            line = series(run.optimizer, look["at"], np.array(values, dtype=float), n=1)
            y = Axis("", log=min(values) > 0)
            panels.append(
                Panel(f"loss along {_WORDS[name]}", f"step {look['step']:,}", Axis("share of the weights"), y, (line,))
            )
    how: dict[str, Any] = {"names": ("", "", "x", "y"), "per_panel": (2.5, 1.5), "member": run.title}
    return [figure_or_reason("curvature", panels, "nothing finite", "Curvature", _CAPTION, **how)]


def side_by_side(study: StudyData, part: Part) -> Found:
    """The last look of one run of each optimizer: one figure a setting, a row a task."""
    name = f"curvature{part.suffix}"
    if len(study.data.roots) > 1:
        return [Omitted(name, "looks are read from one study at a time")]
    panels: dict[str, list[Panel]] = {}
    for cell, runs_of in study.cells(part):
        lines: dict[str, list[Series]] = {column: [] for column in ("spectrum", *_WORDS)}
        for key, runs in runs_of.items():
            if (look := _last_look(study, runs)) is None:
                continue
            at, share = tail(np.array(look["spectrum"]["values"]), np.array(look["spectrum"]["weights"]))
            lines["spectrum"].append(series(key.optimizer, at, share, n=1, kind="step", runs=key))
            for along, losses in look["slices"].items():
                losses = np.array(losses, dtype=float)
                lines[along].append(series(key.optimizer, look["at"], losses, n=1, runs=key))
        axes = Axis("eigenvalue", log=True), Axis("", log=True, low=LEAST, share=f"{cell.task} spectrum")
        here = [Panel(cell.task, "share of eigenvalues above", *axes, tuple(lines.pop("spectrum")))]
        for along, found in lines.items():
            log = bool(found) and min(float(np.min(one.y)) for one in found) > 0
            y = Axis("", log=log, share=f"{cell.task} {along}")
            here.append(Panel(cell.task, f"loss along {_WORDS[along]}", Axis("share of the weights"), y, tuple(found)))
        panels.setdefault(cell.setting, []).extend(here)
    if all(panel.empty for some in panels.values() for panel in some):
        reason = "no run in the folder has looked at it (`train --curvature.every 1`; archives keep no looks)"
        return [Omitted(name, reason)]
    how: dict[str, Any] = {"names": ("task", "", "x", "y"), "family": name}
    return [
        figure_or_reason(f"{name}-{setting}", some, "no looks", "Curvature", _BESIDE, member=part.title(setting), **how)
        for setting, some in panels.items()
    ]


def _last_look(study: StudyData, runs: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the lowest seed that has one."""
    for row in sorted(runs, key=lambda row: int(row["seed"])):
        if looks := read(study.data.roots[0] / row["path"]):
            return looks[-1]
    return None


def tail(values: Array, weights: Array) -> tuple[Array, Array]:
    """The share of a spectrum's mass above each of its positive eigenvalues, in rising order: (at, share), as a step to
    the next one; above the largest there is nothing, drawn as `LEAST`."""
    order = np.argsort(values)
    heavy = weights[order] / weights.sum()
    share = np.maximum(np.cumsum(heavy[::-1])[::-1] - heavy, LEAST)
    positive = values[order] > 0
    return values[order][positive], share[positive]


_BESIDE = (
    "The last look at one run of each optimizer, the lowest seed that has one. Left: the share of the Hessian's "
    "eigenvalues above a positive value (stochastic Lanczos quadrature from one vector). Beside it: the training loss "
    "beside the weights, along the gradient and along a random direction, each as long as the weights, filter by "
    "filter (Li et al. 2018)."
)
_WORDS = {"gradient": "the gradient", "random": "a random direction"}


def smoothed(values: Array, weights: Array) -> tuple[Array, Array]:
    """A sum of deltas as a density: (at, density), (`GRID`,) each; at least `LEAST`."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-12)
    at = np.linspace(low - 0.05 * span, high + 0.05 * span, GRID)
    kernels = np.exp(-(((at[:, None] - values) / (WIDTH * span)) ** 2) / 2) / (WIDTH * span * np.sqrt(2 * np.pi))
    return at, np.maximum(kernels @ weights * span, LEAST)  # by shares of the range, so that figures can be compared
