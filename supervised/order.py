"""Which samples each update of a run learns from: pure functions of its number.

A run can therefore go on anywhere, in the middle of an epoch and on another number of processes: no sample is lost and
none is seen twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.runs import seeding

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Update:
    """What one update learns from.

    Attributes:
        epoch: passes over the data before it.
        indices: its samples.
        items: what its loss is the mean over: images, target tokens.
    """

    epoch: int
    indices: Indices
    items: int


class Order(ABC):
    """The updates of a run.

    Attributes:
        updates_per_epoch: the same for all epochs.
    """

    updates_per_epoch: int

    @abstractmethod
    def update(self, number: int) -> Update:
        """Update number `number` of the run, from 0."""

    def samples(self, updates: int) -> int:
        """Samples that so many updates learn from."""
        raise NotImplementedError


class ShuffledOrder(Order):
    """Every sample once an epoch, in an order drawn anew for each; the last, smaller batch of an epoch is left out
    unless it is the only one.

    Args:
        size: samples.
        batch: of one update.
        seed: of the order.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self._size, self._batch, self._seed = size, min(batch, size), seed
        self.updates_per_epoch = self._size // self._batch
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def update(self, number: int) -> Update:
        epoch, k = divmod(number, self.updates_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng(seeding.derive(self._seed, "order", epoch))
            self._epoch, self._order = epoch, rng.permutation(self._size)
        return Update(epoch, self._order[k * self._batch : (k + 1) * self._batch], self._batch)

    def samples(self, updates: int) -> int:
        return updates * self._batch


class BatchOrder(Order):
    """Batches that were made once, in an order drawn anew for each epoch.

    Args:
        batches: the samples of each.
        items: of each, see `Update.items`.
        seed: of the order.
    """

    def __init__(self, batches: Sequence[Indices], items: Sequence[int], seed: int) -> None:
        self._batches, self._items, self._seed = batches, items, seed
        self.updates_per_epoch = len(batches)
        self._sizes = np.array([len(batch) for batch in batches])
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def update(self, number: int) -> Update:
        epoch, k = divmod(number, self.updates_per_epoch)
        chosen = self._shuffled(epoch)[k]
        return Update(epoch, self._batches[chosen], int(self._items[chosen]))

    def samples(self, updates: int) -> int:
        epochs, k = divmod(updates, self.updates_per_epoch)
        return int(epochs * self._sizes.sum() + self._sizes[self._shuffled(epochs)[:k]].sum())

    def _shuffled(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            rng = np.random.default_rng(seeding.derive(self._seed, "order", epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._batches))
        return self._order


def share(indices: Indices, rank: int, ranks: int) -> Indices:
    """The samples of an update that one of several processes takes: every `ranks`-th, so that batches sorted by length
    give all of them as much to do."""
    return indices[rank::ranks]


def pieces(indices: Indices, count: int) -> list[Indices]:
    """`count` parts of about the same size, one after the other; empty ones where there are fewer samples."""
    return [np.ascontiguousarray(part) for part in np.array_split(indices, count)]


def last(size: int, count: int, purpose: str) -> Indices:
    """`count` of `size` samples, the last of the order of which `first` takes the first; sorted."""
    order = np.random.default_rng(seeding.derive(0, purpose, size)).permutation(size)
    return np.sort(order[size - count :])


def first(size: int, count: int | None, purpose: str) -> Indices:
    """`count` of `size` samples, the first of a fixed order, which is drawn for the purpose; sorted. None: all."""
    if count is None or count >= size:
        return np.arange(size)
    order = np.random.default_rng(seeding.derive(0, purpose, size)).permutation(size)
    return np.sort(order[:count])
