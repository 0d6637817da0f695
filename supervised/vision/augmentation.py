"""Augmentation of images: torchvision's transforms, with random numbers that are each sample's own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from supervised.vision.torchvision_import import import_torchvision


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generator, from which transforms draw, starts at `seed` and is afterwards as it was.

    `torch.random.fork_rng` and `torch.manual_seed`, which see to all devices, take 0.8 ms together; this takes 5 µs.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Augmentation:
    """Random resized crops and mirroring, as ResNets are trained (arXiv 1409.4842, section 6).

    Args:
        crop: otherwise the middle is taken, as in evaluations.
        trivial: TrivialAugment (arXiv 2103.10158) besides.
    """

    def __init__(self, *, crop: bool, trivial: bool) -> None:
        v2 = import_torchvision("torchvision.transforms.v2")
        self._crop = v2.RandomResizedCrop(1) if crop else None  # of which only the draws are used
        self._trivial = v2.TrivialAugmentWide() if trivial else None

    def __call__(self, image: Image.Image, side: int, seed: int) -> NDArray[np.uint8]:
        """An image just opened as bytes, shape (side, side, 3)."""
        if self._crop is None:
            return evaluated(image, side, side)
        with seeded(seed):
            drawn = self._crop.make_params([image])
            width, height, left, top = (drawn[name] for name in ("width", "height", "left", "top"))
            whole = image.size
            # A JPEG can be decoded at a half or a quarter of its size, which is far quicker, where what is cut out has
            # still as many pixels as are needed.
            image.draft("RGB", (math.ceil(whole[0] * side / width), math.ceil(whole[1] * side / height)))
            x, y = image.size[0] / whole[0], image.size[1] / whole[1]
            box = (left * x, top * y, (left + width) * x, (top + height) * y)
            image = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box)
            if torch.rand(()) < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if self._trivial is not None:
                image = self._trivial(image)
        return np.array(image)


def evaluated(image: Image.Image, side: int, resize: int, *, grey: bool = False) -> NDArray[np.uint8]:
    """The middle of an image as bytes, shape (side, side, 3), or (side, side) where grey.

    Args:
        resize: pixels of the image's shorter side before.
    """
    functional = import_torchvision("torchvision.transforms.v2.functional")
    image = functional.resize(image.convert("L" if grey else "RGB"), [resize], antialias=True)
    return np.array(functional.center_crop(image, [side, side]))


def trivial(images: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
    """TrivialAugment (arXiv 2103.10158) on bytes, shape (images, channels, height, width), each by its own seed."""
    transform = import_torchvision("torchvision.transforms.v2").TrivialAugmentWide()
    result = []
    for image, seed in zip(images, seeds, strict=True):
        with seeded(int(seed >> np.uint64(1))):
            result.append(transform(image))
    return torch.stack(result) if result else images
