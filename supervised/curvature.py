"""The training loss of a task as a function of its model's parameters, for `evaluation.curvature`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evaluation.curvature.hessian import AT_ONCE, Problem
from supervised.learner import Learner
from supervised.tasks.task import Batch, Task
from supervised.text.losses import differentiable_often

INPUT_BYTES = 4 << 20  # of what goes into one pass, unless an update's own is larger


@contextmanager
def training_loss(learner: Learner, task: Task, updates: int, samples: int) -> Iterator[Problem]:
    """The mean loss over what the latest of so many updates learned from: as many whole updates as it takes for that
    many samples, or all; without dropout, and in float32. Batch normalization has the statistics of each pass, as in
    training; passes are then as large as the training's own, and what evaluations normalize by stays as it is."""
    batches: list[Batch] = []
    items, number = 0, updates
    while number > 0 and sum(len(batch[0]) for batch in batches) < samples:
        number -= 1
        update = task.order.update(number)
        passes = task.passes(update.indices)
        whole = task.fetch(update.indices, update.epoch)
        batches += zip(*(one.to(learner.device).chunk(passes) for one in whole), strict=True)
        items += update.items
    sizes = [len(batch[0]) for batch in batches]
    at_once: int | list[int] = sizes
    norms = [module for module in learner.model.modules() if isinstance(module, _BatchNorm)]
    alike = len({tuple(one.shape[1:] for one in batch) for batch in batches}) == 1  # sentences have their own widths
    if alike and not norms:
        batches = [tuple(map(torch.cat, zip(*batches, strict=True)))]
        each = sum(one[0].nbytes for one in batches[0])
        at_once = max([*sizes, min(AT_ONCE, INPUT_BYTES // each)])
    starts = torch.tensor([0, *(len(batch[0]) for batch in batches)]).cumsum(0).tolist()

    def loss(rows: Tensor) -> Tensor:
        total = torch.zeros((), device=learner.device)
        for batch, start, end in zip(batches, starts, starts[1:], strict=False):
            chosen = rows[(rows >= start) & (rows < end)] - start
            if len(chosen):
                with differentiable_often():
                    total = total + task.loss(learner.model, tuple(one[chosen] for one in batch)).total
        return total

    with _without_dropout(learner.model, norms):
        yield Problem(learner.model, loss, samples=starts[-1], items=items, at_once=at_once)


@contextmanager
def _without_dropout(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    training, tracked = model.training, [norm.track_running_stats for norm in norms]
    model.eval()
    for norm in norms:
        norm.training, norm.track_running_stats = True, False  # of the pass, and no other is told
    try:
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before
        model.train(training)
