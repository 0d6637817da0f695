"""Images that are read from files while training goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.order import Indices
from supervised.stream import ignore_signals
from supervised.vision import draws, erasing
from supervised.vision.augmentation import Augmentation, evaluated
from supervised.vision.bad_images import BadImages
from supervised.vision.image_source import ImageSource
from supervised.vision.splits import IMAGENET, Split


class FileSplit(Split):
    """Colour images of a source.

    An image that cannot be read is replaced by the next one of the source that can, wherever it is drawn: batches keep
    their size, and every run, process and worker takes the same one.

    Attributes:
        side: pixels of evaluated images' sides.
    """

    channels = 3
    bad: BadImages

    def __init__(self, source: ImageSource, config: DataConfig) -> None:
        self._source, self._erasing = source, config.random_erasing
        self._bad_share = config.bad_share
        self._augmentation = Augmentation(crop=config.augment != "none", trivial=config.augment == "trivial")
        self.side = config.eval_resolution or config.resolution
        self.resize = max(self.side, config.resize or round(self.side * 8 / 7))  # 256 for 224
        self._opened()

    def _opened(self) -> None:
        self.labels = self._source.labels
        self.bad = BadImages(len(self), self._bad_share, self._source.described)

    def subset(self, indices: Indices) -> None:
        self._source.subset(indices)
        self._opened()

    def fingerprint(self) -> str | None:
        return self._source.fingerprint()

    def augmented(self, indices: Indices, seed: int, epoch: int, side: int) -> tuple[Tensor, Indices]:
        seeds = draws.sample_seeds(seed, epoch, indices) >> np.uint64(1)
        images, used = np.empty((len(indices), side, side, 3), np.uint8), indices.copy()
        for k, key in enumerate(seeds):
            while (image := self._read(int(used[k]), side, int(key))) is None:
                used[k] = (used[k] + 1) % len(self)
            images[k] = image
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        if self._erasing:
            erasing.erase(batch, draws.uniform(seed, epoch, indices, erasing.DRAWS), self._erasing, IMAGENET.mean)
        return batch, used

    def plain(self, batches: list[Indices], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[tuple[Tensor, Tensor] | UserError] = DataLoader(
            _Plain(self, batches),
            batch_size=None,
            num_workers=min(workers, len(batches)),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # not the global one, which belongs to the run
            worker_init_fn=ignore_signals,
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def middle(self, index: int) -> NDArray[np.uint8] | None:
        """An image as evaluations see it, shape (side, side, 3); None: it cannot be read."""
        return self._read(index, None, 0)

    def _read(self, index: int, side: int | None, seed: int) -> NDArray[np.uint8] | None:
        if index in self.bad:
            return None
        try:
            with self._source.image(index) as image:
                if side is None:
                    return evaluated(image, self.side, self.resize)
                return self._augmentation(image, side, seed)
        except Exception:  # the decoders' errors are of any kind, for anything may stand in a file
            if self._source.fault(index) is None:
                raise
            self.bad.add(index)
            return None


class _Plain(Dataset[tuple[Tensor, Tensor] | UserError]):
    """Batches of un-augmented images; those that cannot be read are black."""

    def __init__(self, split: FileSplit, batches: list[Indices]) -> None:
        self._split, self._batches = split, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor] | UserError:
        try:
            images = [self._split.middle(int(index)) for index in self._batches[k]]
        except UserError as error:  # a worker's exception would arrive with its traceback as text
            return error
        readable = [image is not None for image in images]
        black = np.zeros((self._split.side, self._split.side, 3), np.uint8)
        stacked = np.stack([black if image is None else image for image in images])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.tensor(readable)
