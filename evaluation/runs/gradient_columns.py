"""Figures of a layer's gradient: histogram of its magnitudes, tail index, noise scale; and the columns of their file.

Imports nothing heavy, so that readers of recorded gradients can use the constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LOW, _HIGH, _PER_DECADE = -12, 4, 4
HISTOGRAM_EDGES: tuple[float, ...] = tuple(_LOW + i / _PER_DECADE for i in range((_HIGH - _LOW) * _PER_DECADE + 1))
"""log10 |g| of the edges between the bins. Bin 0 lies below the first (zeros), the last bin above the last (inf)."""
BINS = len(HISTOGRAM_EDGES) + 1

INTEGERS = ("step", "update", "since_shift", "numel")
TEXTS = ("event", "layer")
FIGURES = (
    *("grad_rms", "grad_max", "after_rms", "threshold", "clipped", "attenuation", "noise_std"),
    *("update_rms", "weight_rms", "update_to_weight", "tail_index", "tail_index_after"),
    *("clip_factor", "clip_sharpness"),  # in use, with `adapt` or as given; NaN for an optimizer that has none
)
LATER = ("clip_factor", "clip_sharpness")  # files of earlier versions lack these
HISTOGRAMS = ("before", "after")
COLUMNS = ("step", "update", "event", "since_shift", "layer", "numel", *FIGURES, *HISTOGRAMS)

SMALLEST_TAIL = 4  # order statistics below which a tail index says nothing


def histograms(magnitudes: Tensor, sizes: list[int]) -> list[list[int]]:
    """Counts of |g| in the bins of `HISTOGRAM_EDGES`, BINS numbers for each of the layers that lie one after another.

    Args:
        magnitudes: |g| of all layers, float32, flat.
        sizes: elements of each layer; its counts sum to that.

    A logarithm of float32 decides, so a value within a millionth of an edge may be counted on its other side.
    """
    bins = magnitudes.log10().mul_(_PER_DECADE).add_(1 - _LOW * _PER_DECADE).floor_()
    bins = bins.nan_to_num_(nan=BINS - 1).clamp_(0, BINS - 1).int()
    return [layer.bincount(minlength=BINS).tolist() for layer in bins.split(sizes)]


def tail_index(magnitude: Tensor, largest: float | None = None) -> float:
    """Hill's estimator of the tail index alpha, P(|g| > x) ~ x^-alpha, from the k = floor(sqrt(m)) largest of the m
    positive finite elements: 1 / mean_i<=k log(x_(i) / x_(k+1)) (Hill 1975, Annals of Statistics 3(5)).

    Standard error alpha / sqrt(k). Small means heavy (2 and below: infinite variance). A Gaussian's tail is no power
    law: the index grows with m, to about 12 at a million elements. NaN below 16 elements; inf where the tail is flat.
    `largest`: the largest element, where it is known already.
    """
    x = magnitude.reshape(-1)
    if largest is None:
        largest = float(x.max()) if x.numel() else 0.0
    if not math.isfinite(largest):  # NaN, too
        x = x[x.isfinite()]
    k = math.isqrt(int(x.count_nonzero()))
    if k < SMALLEST_TAIL:
        return math.nan
    top = x.topk(k + 1).values.double()
    excess = float((top[:-1] / top[-1]).log().mean())
    return 1 / excess if excess > 0 else math.inf


def noise_scale(whole: list[Tensor], part: list[Tensor], batch: int, size: int) -> tuple[float, float]:
    """Unbiased estimates of the trace S of the covariance of one sample's gradient, and of the true |G|^2.

    McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, with the two batch sizes `size` and `batch` and the small
    batch a part of the large one. There E|G_b|^2 = |G|^2 + S/b; of a part of b samples and its complement in B samples
    the difference is pure noise, E|g_b - g_B|^2 = S (B - b) / (B b), so::

        S = |g_b - g_B|^2 B b / (B - b),   |G|^2 = |g_B|^2 - S / B

    which for b = B/2 is the paper's formula averaged over both halves. Their ratio is the simple noise scale S / |G|^2,
    in samples; of a single step it is far too noisy, so take the ratio of averages, as the paper does.

    Args:
        whole: gradients of the mean loss over `batch` samples, one tensor a layer.
        part: the same over `size` of these samples, 1 <= size < batch.

    Returns:
        (S, |G|^2); the second may come out negative.
    """
    spread = sum(float((a - b).double().square().sum()) for a, b in zip(part, whole, strict=True))
    square = sum(float(b.double().square().sum()) for b in whole)
    trace = spread * batch * size / (batch - size)
    return trace, square - trace / batch
