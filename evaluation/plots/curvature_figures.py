"""The loss's curvature in one run: the Hessian's spectrum, and slices of the loss, at the looks that were taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.curvature.measure import read
from evaluation.plots.figure import Array, Axis, Omitted, Panel, series
from evaluation.plots.study_data import Found, figure_or_reason

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


_WORDS = {"gradient": "the gradient", "random": "a random direction"}


def smoothed(values: Array, weights: Array) -> tuple[Array, Array]:
    """A sum of deltas as a density: (at, density), (`GRID`,) each; at least `LEAST`."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-12)
    at = np.linspace(low - 0.05 * span, high + 0.05 * span, GRID)
    kernels = np.exp(-(((at[:, None] - values) / (WIDTH * span)) ** 2) / 2) / (WIDTH * span * np.sqrt(2 * np.pi))
    return at, np.maximum(kernels @ weights * span, LEAST)  # by shares of the range, so that figures can be compared
