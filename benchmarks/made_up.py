"""Tasks on data that is drawn at random and held in memory, for measurements without a data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supervised.order import Indices
from supervised.tasks.imagenet import ImageNet
from supervised.tasks.wmt14 import WMT14
from supervised.text.subwords import UNK
from supervised.vision.splits import IMAGENET, DataSet, Split

IMAGES, CLASSES, PAIRS = 2048, 1000, 40_000
Sentences = list[np.ndarray]


class RandomImages(Split):
    """Colour squares of random pixels, as they are."""

    channels, in_memory = 3, True

    def __init__(self, count: int, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
        self.labels, self.resize = np.random.default_rng(0).integers(CLASSES, size=count), side

    def subset(self, indices: Indices) -> None:
        self.pixels, self.labels = self.pixels[torch.from_numpy(indices)], self.labels[indices]

    def augmented(self, indices: Indices, seed: int, epoch: int, side: int) -> tuple[Tensor, Indices]:
        return self.pixels[torch.from_numpy(indices)], indices

    def plain(self, batches: list[Indices], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            yield self.pixels[torch.from_numpy(indices)], torch.ones(len(indices), dtype=torch.bool)


class MadeUpImages(ImageNet):
    """`data.train_size` random images of `data.resolution`, of ImageNet's 1000 classes."""

    def open(self) -> DataSet:
        data = self.config.data
        split = RandomImages(data.train_size or IMAGES, data.resolution)
        return DataSet("made up", split, split, tuple(map(str, range(CLASSES))), IMAGENET)


class MadeUpText(WMT14):
    """`data.train_size` random pairs of `data.vocabulary` subwords."""

    def open(self) -> Any:
        return _Text(self.config.data.train_size or PAIRS, self.config.data.vocabulary or 32_000)


class _Text:
    """As `supervised.text.opened.PreparedText`."""

    direction = "en-de"

    def __init__(self, pairs: int, vocabulary: int) -> None:
        self.subwords, self._pairs = _Subwords(vocabulary), _Pairs(pairs, vocabulary)

    def pairs(self, split: str) -> _Pairs:
        return self._pairs


class _Subwords:
    digest = "made up"

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Pairs:
    """As `supervised.text.token_files.TokenPairs`."""

    def __init__(self, pairs: int, vocabulary: int) -> None:
        self._sides = sentences(pairs, vocabulary)
        self.source_lengths, self.target_lengths = (np.array([len(one) for one in side]) for side in self._sides)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, index: int) -> np.ndarray:
        return self._sides[0][index]

    def target(self, index: int) -> np.ndarray:
        return self._sides[1][index]


def sentences(pairs: int, vocabulary: int, seed: int = 0) -> tuple[Sentences, Sentences]:
    """Sentence pairs as long as WMT14's are (a mean of 29 subwords, up to 100), of subwords drawn at random."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(3.2, 0.6, pairs), 2, 100)
    targets = np.clip(lengths * rng.lognormal(0.0, 0.15, pairs), 2, 100)
    found = [[rng.integers(UNK + 1, vocabulary, size=round(n)) for n in side] for side in (lengths, targets)]
    return found[0], found[1]
