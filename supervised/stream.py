"""The training batches of one process, from any update on, read ahead by other processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evaluation.cli.errors import UserError
from evaluation.runs.stopping import STOPPING
from supervised.distributed import Group
from supervised.order import Indices, pieces, share
from supervised.tasks.task import Batch, Task

AHEAD = 4  # batches that each worker has ready
_Fetched = tuple[Batch | UserError, int, int, bool]


class StandIn(tuple[Tensor, ...]):
    """A batch that does not count: of a process that an update has no samples for, in whose passes it takes part."""


class _Request(NamedTuple):
    """One forward pass of this process: its samples, the epoch, how many of its update follow, the update's items,
    whether it counts."""

    indices: Indices
    epoch: int
    left: int
    items: int
    counts: bool = True


class Stream:
    """What each update from number `start` to `total` learns from, in this process.

    Args:
        workers: processes that read; 0: this one.

    Attributes:
        waited_s: seconds that the trainer waited for data, since somebody set it to 0.
    """

    def __init__(self, task: Task, group: Group, device: torch.device, start: int, total: int, workers: int) -> None:
        self._device, self.waited_s = device, 0.0
        requests = _Requests(task, group, start, total)
        self._pins = workers == 0 and device.type == "cuda"  # else copies wait for the device; workers' are pinned
        if workers == 0:
            self._batches: Iterator[_Fetched] = map(_Fetch(task).__getitem__, requests)
        else:
            loader: DataLoader[_Fetched] = DataLoader(
                _Fetch(task),
                sampler=requests,  # type: ignore[arg-type]  # requests, not integers
                batch_size=None,
                collate_fn=_as_it_is,  # type: ignore[arg-type]  # of one sample, not of a list
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=device.type == "cuda",
                worker_init_fn=ignore_signals,
                generator=torch.Generator(),  # not the global one, from which the model draws
            )
            self._batches = iter(loader)

    def next(self) -> tuple[list[Batch], int]:
        """The batches of the next update, on the device, and how many items (images, target tokens) it has in all
        processes."""
        started, batches, left, items = time.monotonic(), list[Batch](), 1, 0
        while left:
            batch, left, items, counts = next(self._batches)
            if isinstance(batch, UserError):
                raise batch
            kind = tuple if counts else StandIn
            there = (tensor.pin_memory() for tensor in batch) if self._pins else batch
            batches.append(kind(tensor.to(self._device, non_blocking=True) for tensor in there))
        self.waited_s += time.monotonic() - started
        return batches, items

    def close(self) -> None:
        """End the workers."""
        shutdown = getattr(self._batches, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


class _Requests:
    """The forward passes of this process."""

    def __init__(self, task: Task, group: Group, start: int, total: int) -> None:
        self._task, self._group, self._start, self._total = task, group, start, total

    def __iter__(self) -> Iterator[_Request]:
        for number in range(self._start, self._total):
            update = self._task.order.update(number)
            mine = share(update.indices, self._group.rank, self._group.ranks)
            parts = pieces(mine, self._task.passes(update.indices))
            if self._group.ranks == 1:
                parts = [part for part in parts if len(part)]
            for k, part in enumerate(parts, start=1):
                counts = len(part) > 0
                chosen = part if counts else update.indices[:2]  # batch statistics need two
                yield _Request(chosen, update.epoch, len(parts) - k, update.items, counts)

    def __len__(self) -> int:
        return self._total - self._start  # at least; asked by nobody


class _Fetch(Dataset[_Fetched]):
    def __init__(self, task: Task) -> None:
        self._task = task

    def __getitem__(self, request: _Request) -> _Fetched:
        try:
            batch: Batch | UserError = self._task.fetch(request.indices, request.epoch)
        except UserError as error:  # a worker's exception would arrive with its traceback as text
            batch = error
        return batch, request.left, request.items, request.counts


def _as_it_is(sample: _Fetched) -> _Fetched:
    return sample


def ignore_signals(worker: int) -> None:
    """Ctrl-C and `torchrun` reach the processes that read as well; they end with the trainer, which saves before."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
