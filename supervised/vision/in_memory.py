"""Small grey images that are held in memory and augmented a batch at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from supervised.order import Indices
from supervised.vision import draws, erasing
from supervised.vision.splits import Split

_DRAWS = 3  # row, column, flip


class MemorySplit(Split):
    """Grey squares of one size.

    Args:
        images: bytes, shape (images, side, side).
        labels: of each.
        side: pixels of evaluated images' sides; those of another size are scaled.
        augment: "none"; "crop-flip": moved by up to a twelfth of the side, at least a pixel (what comes in is black),
            and mirrored, if `flips`; "trivial": TrivialAugment besides, an image at a time.
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
        self.resize, self._augment, self._erasing, self._flips = side, augment, erasing, flips
        self._margin = 0 if augment == "none" else max(1, self.side // 12)
        margin = (self._margin, self._margin)
        self._images = torch.from_numpy(np.pad(images, ((0, 0), margin, margin)))  # so that a crop is one gathering

    def subset(self, indices: Indices) -> None:
        self.labels, self._images = self.labels[indices], self._images[torch.from_numpy(indices)]

    def fingerprint(self) -> str:
        """A checksum of all pixels and labels."""
        return f"{zlib.crc32(self.labels.tobytes(), zlib.crc32(self._images.numpy().data)):08x}"

    def augmented(self, indices: Indices, seed: int, epoch: int, side: int) -> tuple[Tensor, Indices]:
        numbers = draws.uniform(seed, epoch, indices, _DRAWS + erasing.DRAWS)
        images = self._cropped(indices, numbers) if self._augment != "none" else self._middle(indices)
        if self._augment == "trivial":
            from supervised.vision import augmentation  # and with it torchvision

            images = augmentation.trivial(images, draws.sample_seeds(seed, epoch, indices))
        if self._erasing:
            erasing.erase(images, numbers[:, _DRAWS:], self._erasing, (0.5,))
        return _scaled(images, side), indices

    def plain(self, batches: list[Indices], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            yield _scaled(self._middle(indices), self.resize), torch.ones(len(indices), dtype=torch.bool)

    def set_apart(self, indices: Indices) -> MemorySplit:
        """These images as a split of their own, which is not augmented."""
        return MemorySplit(self._middle(indices)[:, 0].numpy(), self.labels[indices], side=self.resize)

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
