"""Causal gradient statistics of a layer and the thresholds made from them.

They are kept for each layer (parameter tensor), or with ``granularity="unit"`` for each of its output units. ``n``,
``mean`` (of the elements) and ``var`` (mean squared deviation of the elements) cover the steps before the present one
only, so an outlier cannot raise its own threshold. They are fed with raw gradients; a single step moves them by at most
a bounded factor (``outlier_share``), so bursts in a share of steps below ``outlier_share`` cannot carry the threshold
away, and clipping never feeds back.

All functions are pure and differentiable. Statistics are a tensor of shape (len(STATISTICS), units), one row per name.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["STATISTICS", "Sums", "averaged", "complete", "init", "measure", "raw_sums", "start", "threshold", "update"]

STATISTICS = ("n", "mean", "var", "age", "burst", "nonfinite", "threshold", "clipped", "attenuation")
N, MEAN, VAR, AGE, BURST, NONFINITE, THRESHOLD, CLIPPED, ATTENUATION = range(len(STATISTICS))

Scalar = float | Tensor

# The stored variance stays a positive normal fp32 number: with 0 the layer would be clipped to nothing for ever.
_VAR_MIN, _VAR_MAX = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
_COUNT_MAX = float(1 << 23)  # counters stop here, where fp32 still counts exactly


class Sums(NamedTuple):
    """Raw moments of one step's gradient, float64 tensors of shape (units,), over ``size`` elements a unit."""

    mean: Tensor  # mean(g)
    square: Tensor  # mean(g^2)
    deviation: Tensor  # mean((g - mu)^2), mu the running mean
    size: int

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean, self.square, self.deviation


def init(units: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Statistics of a layer that has seen no gradient yet: zeros of shape (len(STATISTICS), units)."""
    return torch.zeros(len(STATISTICS), units, dtype=dtype, device=device)


def measure(grad: Tensor, center: Tensor) -> Sums:
    """Moments of a gradient in float64.

    Args:
        grad: gradient of a layer, split along its first dimension where there is more than one unit.
        center: running mean, shape (units,).
    """
    size = max(1, grad.numel() // max(1, center.numel()))
    return averaged(raw_sums(grad, center), size)


def averaged(raw: Tensor, size: int) -> Sums:
    """Moments from the sums of ``raw_sums`` over ``size`` elements a unit."""
    total, square, deviation = (raw / size).unbind()
    return Sums(total, square, deviation, size)


def raw_sums(grad: Tensor, center: Tensor) -> Tensor:
    """sum(g), sum(g^2) and sum((g - center)^2) of each unit, fp64, shape (3, units); arguments as in ``measure``."""
    units = center.numel()
    x = grad.to(torch.float64).reshape(units, grad.numel() // max(1, units))
    deviation = x - center.to(torch.float64).unsqueeze(1)
    return torch.stack([x.sum(1), x.square().sum(1), deviation.square().sum(1)])


def complete(stats: Tensor, figures: Tensor, size: int) -> Tensor:
    """The statistics with ``clipped`` and ``attenuation`` of one step.

    Args:
        stats: shape (len(STATISTICS), units).
        figures: fp64, shape (3, units): the number of clipped elements, the sum of phi(h)^2 and that of g^2.
        size: elements a unit.
    """
    clipped, after, before = figures.unbind()
    attenuation = torch.where(before > 0, safe_sqrt(after / torch.where(before > 0, before, 1.0)), 1.0)
    rows = list(stats.unbind())
    rows[CLIPPED], rows[ATTENUATION] = (clipped / size).to(stats.dtype), attenuation.to(stats.dtype)
    return torch.stack(rows)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0 instead of infinite."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def start(stats: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
    """The first non-zero finite gradient (n = 0) sets the scale: mean = 0, var = mean(g^2), n = 1.

    Returns:
        The new statistics and a bool tensor (units,): where this was that first step.
    """
    first = (stats[N] == 0) & (sums.square > 0) & torch.isfinite(sums.square)
    rows = list(stats.unbind())
    rows[N] = torch.where(first, 1.0, rows[N])
    rows[MEAN] = torch.where(first, 0.0, rows[MEAN])
    rows[VAR] = torch.where(first, sums.square.clamp(_VAR_MIN, _VAR_MAX).to(stats.dtype), rows[VAR])
    rows[AGE] = torch.where(first, 1.0, rows[AGE])
    rows[BURST] = torch.where(first, 0.0, rows[BURST])
    return torch.stack(rows), first


def threshold(stats: Tensor, mode: str, clip_factor: Scalar) -> Tensor:
    """Threshold in float64, shape (units,): |mean| + clip_factor sqrt(var) in value mode (for elements),
    clip_factor sqrt(mean^2 + var) in norm mode (for the root mean square of the layer). clip_factor = inf gives inf."""
    mean, var = stats[MEAN].to(torch.float64), stats[VAR].to(torch.float64)
    if not isinstance(clip_factor, Tensor) and math.isinf(clip_factor):
        return torch.full_like(mean, math.inf)
    if mode == "value":
        return mean.abs() + clip_factor * safe_sqrt(var)
    return clip_factor * safe_sqrt(mean.square() + var)


def update(stats: Tensor, sums: Sums, first: Tensor, stats_decay: Scalar, outlier_share: Scalar) -> Tensor:
    """Statistics after one step: the raw gradient's moments, after everything else used the old statistics.

    Units that have just started (``first``, see ``start``), and those with a zero or non-finite gradient, stay as
    they are.

    With weight w = max(1/n, 1 - stats_decay) and bound L = var (1/outlier_share + 3 sqrt(2/d)), d elements a unit (the
    second term is the sampling noise of small layers)::

        mean += w clamp(mean(g) - mean, +-sqrt(L))
        var  += w (min(mean((g - mean)^2), L) - var)

    Steps at a scale s times larger in a share q < outlier_share of all steps raise the standard deviation of a large
    layer at most by sqrt((1 - q) / (1 - q/outlier_share)), whatever s is.

    Warm-up: during the first 1/(1 - stats_decay) updates a step with mean square below a hundredth of mean^2 + var, or
    the second step in a row above a hundred times it, starts the statistics again at this step's scale.
    """
    seen = ~first & (sums.square > 0) & torch.isfinite(sums.square)
    m1, s2, d2 = (torch.where(seen, moment, 1.0) for moment in sums.moments())
    old = stats.to(torch.float64)
    n, mean, var, age, burst = old[N], old[MEAN], old[VAR], old[AGE], old[BURST]
    level = mean.square() + var
    high = s2 > 100 * level
    warming = age < 1 / (1 - stats_decay)
    restart = warming & ((s2 < level / 100) | (high & (burst > 0)))

    count = (n + 1).clamp(max=_COUNT_MAX)
    slowest = torch.as_tensor(1 - stats_decay, dtype=torch.float64, device=old.device)
    weight = torch.maximum(1 / count, slowest)
    limit = var * (1 / outlier_share + 3 * math.sqrt(2 / sums.size))
    reach = safe_sqrt(limit)
    new_mean = mean + weight * torch.minimum(torch.maximum(m1 - mean, -reach), reach)
    new_var = var + weight * (torch.minimum(d2, limit) - var)

    rows = list(old.unbind())
    rows[N] = torch.where(restart, 1.0, count)
    rows[MEAN] = torch.where(restart, 0.0, new_mean)
    rows[VAR] = torch.where(restart, s2, new_var).clamp(_VAR_MIN, _VAR_MAX)
    rows[AGE] = (age + 1).clamp(max=_COUNT_MAX)
    rows[BURST] = high.to(torch.float64)
    return torch.where(seen, torch.stack(rows).to(stats.dtype), stats)
