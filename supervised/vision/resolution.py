"""Progressive resolution: small images first, which are cheaper, larger ones towards the end (arXiv 2104.00298)."""

from __future__ import annotations

import math

COARSE, FINE = 32, 4  # sides are multiples of these, for images of at least 128 pixels and for smaller ones


def resolution_at(epoch: int, epochs: float, start: int | None, end: int) -> int:
    """Pixels of the sides of an epoch's training images: from `start` in the first epoch linearly to `end` in the last,
    in multiples of 32 pixels, or of 4 where `end` is below 128; a pure function of its arguments.

    Args:
        epochs: of the whole run.
        start: None: `end`, always.
    """
    last = math.ceil(epochs) - 1
    if start is None or epoch >= last:
        return end
    step = COARSE if end >= 128 else FINE
    side = step * round((start + (end - start) * epoch / last) / step)
    return min(max(side, min(start, end)), max(start, end))
