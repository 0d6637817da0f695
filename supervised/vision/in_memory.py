"""Small grey images that are held in memory and augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from supervised.order import Indices
from supervised.vision import draws
from supervised.vision.splits import Split

_DRAWS = 8  # row, column, flip; whether a part is erased, how much, of which form, and where (two)


class MemorySplit(Split):
    """Grey squares of one size.

    Args:
        images: bytes, shape (images, side, side).
        labels: of each.
        side: pixels of evaluated images' sides; those of another size are scaled.
        augment: "none" or "crop-flip": the image moved by up to a twelfth of its side and at least a pixel (what comes in is
            black) and, if
            `flips`, mirrored; "trivial": TrivialAugment besides, an image at a time.
        erasing: share of images of which a random part becomes grey.
        flips: whether a mirrored image is one of the same class.
    """

    channels = 1
    in_memory = True

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: Indices,
        *,
        side: int,
        augment: Literal["none", "crop-flip", "trivial"] = "none",
        erasing: float = 0.0,
        flips: bool = True,
    ) -> None:
        self.labels, self.side = labels.astype(np.int64), int(images.shape[-1])
        self._eval_side, self._augment, self._erasing, self._flips = side, augment, erasing, flips
        self._margin = 0 if augment == "none" else max(1, self.side // 12)
        margin = (self._margin, self._margin)
        self._images = torch.from_numpy(np.pad(images, ((0, 0), margin, margin)))  # so that a crop is one gathering

    def augmented(self, indices: Indices, seed: int, epoch: int, side: int) -> Tensor:
        numbers = draws.uniform(seed, epoch, indices, _DRAWS)
        images = self._cropped(indices, numbers) if self._augment != "none" else self._middle(indices)
        if self._augment == "trivial":
            from supervised.vision.augmentation import trivial

            images = trivial(images, draws.sample_seeds(seed, epoch, indices))
        if self._erasing:
            _erase(images, numbers[:, 3:], self._erasing)
        return _scaled(images, side)

    def plain(self, batches: list[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            yield _scaled(self._middle(indices), self._eval_side), torch.ones(len(indices), dtype=torch.bool)

    def _middle(self, indices: Indices) -> Tensor:
        inside = slice(self._margin, self._margin + self.side)
        return self._images[torch.from_numpy(indices), inside, inside].unsqueeze(1)

    def _cropped(self, indices: Indices, numbers: NDArray[np.float64]) -> Tensor:
        """The images moved and mirrored, each by its own draws."""
        height, width = self._images.shape[1:]
        along = np.arange(self.side)
        top, left = (numbers[:, :2] * (2 * self._margin + 1)).astype(np.int64).T
        columns = np.where(self._flips & (numbers[:, 2:3] < 0.5), along[::-1], along) + left[:, None]
        rows = (indices * height + top)[:, None] + along
        return self._images.view(-1)[torch.from_numpy(rows[:, :, None] * width + columns[:, None, :])].unsqueeze(1)


def _scaled(images: Tensor, side: int) -> Tensor:
    """Of this size, bilinearly, with antialiasing where they get smaller."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=side < images.shape[-1])


def _erase(images: Tensor, numbers: NDArray[np.float64], share: float) -> None:
    """Make rectangles of 2 to 33 % of the image and sides of up to 1 : 3.3 grey (arXiv 1708.04896, section 3), in place."""
    side = images.shape[-1]
    area = (0.02 + 0.31 * numbers[:, 1]) * side**2
    ratio = np.exp(np.log(3.3) * (2 * numbers[:, 2] - 1))
    height, width = (np.clip(np.sqrt(x), 1, side).astype(int) for x in (area * ratio, area / ratio))
    top, left = (numbers[:, 3] * (side - height + 1)).astype(int), (numbers[:, 4] * (side - width + 1)).astype(int)
    for k in np.flatnonzero(numbers[:, 0] < share):
        images[k, :, top[k] : top[k] + height[k], left[k] : left[k] + width[k]] = 128
