"""What a data set is to the task: two splits of images with labels."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from supervised.order import Indices
from supervised.vision.bad_images import BadImages


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Pixels from 0 to 255 as numbers around 0, in fp32; shape (images, channels, height, width)."""
        mean, std = _constants(self.mean, self.std, images.device)
        return (images.float() - mean) / std


@functools.cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of pixels from 0 to 255, on the device: copied there once."""
    with torch.inference_mode(False):
        return tuple(255 * torch.tensor(values, device=device)[:, None, None] for values in (mean, std))  # type: ignore[return-value]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, of all colour images


class Split(ABC):
    """Images with labels, of one kind or another.

    Attributes:
        labels: of all images, as they are in the data.
        channels: 1 or 3.
        resize: pixels of an evaluated image's shorter side before its middle is cut out.
        in_memory: whether images are there without reading files.
        bad: those that cannot be read, where they are files.
    """

    labels: Indices
    channels: int
    resize: int
    in_memory: bool = False
    bad: BadImages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: Indices) -> None:
        """Keep only these images."""

    def fingerprint(self) -> str | None:
        """What differs where the images or their labels are others, found without decoding any; None: not known."""
        return None

    @abstractmethod
    def augmented(self, indices: Indices, seed: int, epoch: int, side: int) -> tuple[Tensor, Indices]:
        """Training images of this size, bytes, shape (images, channels, side, side): pure functions of (seed, epoch,
        index). And which they are: another stands for one that cannot be read.

        Raises:
            UserError: too many cannot be read.
        """

    @abstractmethod
    def plain(self, batches: list[Indices], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as evaluations see them, batch by batch, and which of each could be read.

        Args:
            workers: processes that read files.

        Raises:
            UserError: too many cannot be read.
        """


@dataclass(frozen=True)
class DataSet:
    """A data set for classification.

    Attributes:
        name: for people and signatures.
        classes: their names.
        normalization: of its pixels.
        target: usual validation accuracy in percent for time to threshold, where there is one.
    """

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    normalization: Normalization
    target: float | None = None
