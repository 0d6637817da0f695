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

__all__ = [
    *("STATISTICS", "Sums", "averaged", "averages", "complete", "count_nonfinite", "init", "measure"),
    *("noise_level", "raw_sums", "start", "threshold", "update", "wide", "with_all_rows"),
]

# New rows go to the end: a state that was saved before there were some gets them as zeros (``with_all_rows``).
STATISTICS = (
    *("n", "mean", "var", "age", "burst", "nonfinite", "threshold", "clipped", "attenuation"),
    *("noise", "streak"),  # standard deviation of the last step's noise; non-finite gradients in a row up to now
)
N, MEAN, VAR, AGE, BURST, NONFINITE, THRESHOLD, CLIPPED, ATTENUATION, NOISE, STREAK = range(len(STATISTICS))

Scalar = float | Tensor

# The stored variance stays a positive normal fp32 number: with 0 the layer would be clipped to nothing for ever.
_VAR_MIN, _VAR_MAX = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
_COUNT_MAX = float(1 << 23)  # counters stop here, where fp32 still counts exactly
_LARGEST = 1e150  # of an fp64 element in sums of squares, which then stay finite for 10^8 elements


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


def with_all_rows(stats: Tensor) -> Tensor:
    """Statistics as version 1 of the saved state has them (no noise, no streak), with zeros in the other rows."""
    if stats.dim() != 2 or stats.shape[0] != NOISE:
        return stats
    return torch.cat([stats, stats.new_zeros(len(STATISTICS) - NOISE, stats.shape[1])])


def averages(stats: Tensor) -> Tensor:
    """Each row's mean over the units, fp64; of a tensor without units what a layer has that has seen no gradient."""
    if stats.shape[1]:
        return stats.to(torch.float64).mean(1)
    rows = stats.new_zeros(len(STATISTICS), dtype=torch.float64)
    rows[ATTENUATION] = 1.0
    return rows


def wide(x: Tensor) -> Tensor:
    """In fp64, for sums of squares: finite elements that would overflow them are bounded."""
    if x.dtype != torch.float64:
        return x.to(torch.float64)
    return torch.where(torch.isinf(x), x, x.clamp(-_LARGEST, _LARGEST))


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
    x = wide(grad).reshape(units, grad.numel() // max(1, units))
    deviation = x - center.to(torch.float64).unsqueeze(1)
    return torch.stack([x.sum(1), x.square().sum(1), deviation.square().sum(1)])


def complete(stats: Tensor, figures: Tensor, size: int) -> Tensor:
    """The statistics with ``clipped`` and ``attenuation`` of one step.

    Args:
        stats: shape (len(STATISTICS), units).
        figures: fp64, shape (3, units): the number of clipped elements, and sums over those with a finite gradient: of
            phi(h)^2 and of h^2.
        size: elements a unit.
    """
    clipped, after, before = figures.unbind()
    attenuation = torch.where(before > 0, safe_sqrt(after / torch.where(before > 0, before, 1.0)), 1.0).clamp(max=1)
    rows = list(stats.unbind())
    rows[CLIPPED], rows[ATTENUATION] = (clipped / size).to(stats.dtype), attenuation.to(stats.dtype)
    return torch.stack(rows)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0 instead of infinite."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def noise_level(stats: Tensor, sums: Sums, noise_zeros: bool) -> Tensor:
    """What noise is a multiple of: min(sigma, root mean square of this gradient), fp64, shape (units,).

    sigma alone would bury a gradient that has fallen below it for as long as the statistics take to follow. The root
    mean square is over all elements of the unit, as sigma is, so that a sparse gradient which keeps its pattern keeps
    its ratio of noise. A non-finite gradient gets no noise. One that is zero throughout leaves nothing to be buried:
    with ``noise_zeros``, which asks for noise there, it is sigma.

    Args:
        stats: with the scale that this gradient has set, if it is the first (``start``).
    """
    sigma = safe_sqrt(stats[VAR].to(torch.float64))
    square = torch.where(torch.isfinite(sums.square), sums.square, 0.0)
    level = torch.minimum(sigma, safe_sqrt(square))
    return torch.where(sums.square == 0, sigma, level) if noise_zeros else level


def count_nonfinite(stats: Tensor, bad: Tensor) -> Tensor:
    """The statistics after a step in which the gradients of the units ``bad`` (bool, (units,)) were not finite."""
    rows = list(stats.unbind())
    rows[NONFINITE] = (rows[NONFINITE] + bad.to(stats.dtype)).clamp(max=_COUNT_MAX)
    rows[STREAK] = torch.where(bad, (rows[STREAK] + 1).clamp(max=_COUNT_MAX), 0.0)
    return torch.stack(rows)


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
