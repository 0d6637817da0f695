"""Random erasing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DRAWS = 5  # whether, how much, of which form, and where


def erase(images: Tensor, numbers: NDArray[np.float64], share: float, colour: Sequence[float]) -> None:
    """Paint over a rectangle of a share of the images, in place: 2 to 33 % of the image, sides up to 3.3 : 1 (arXiv
    1708.04896).

    Args:
        images: squares, bytes, shape (images, channels, side, side).
        numbers: in [0, 1), shape (images, `DRAWS`).
        colour: of each channel, from 0 to 1.
    """
    side = images.shape[-1]
    area = (0.02 + 0.31 * numbers[:, 1]) * side**2
    ratio = np.exp(np.log(3.3) * (2 * numbers[:, 2] - 1))
    height, width = (np.clip(np.sqrt(x), 1, side).astype(int) for x in (area * ratio, area / ratio))
    top = (numbers[:, 3] * (side - height + 1)).astype(int)
    left = (numbers[:, 4] * (side - width + 1)).astype(int)
    paint = (torch.tensor(colour) * 255).round().to(images.dtype)[:, None, None]
    for k in np.flatnonzero(numbers[:, 0] < share):
        images[k, :, top[k] : top[k] + height[k], left[k] : left[k] + width[k]] = paint
