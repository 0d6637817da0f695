"""The training loss of a task as a function of its model's parameters, for `evaluation.curvature`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from evaluation.curvature.hessian import Problem
from supervised.learner import Learner
from supervised.tasks.task import Batch, Task
from supervised.text.losses import differentiable_often


@contextmanager
def training_loss(learner: Learner, task: Task, updates: int, samples: int) -> Iterator[Problem]:
    """The mean loss over what the latest of so many updates learned from: as many of them as it takes for that many
    samples, or all; without what is random in the model (dropout), with the batch statistics of evaluations, and in
    float32."""
    batches: list[Batch] = []
    items, number = 0, updates
    while number > 0 and sum(len(batch[0]) for batch in batches) < samples:
        number -= 1
        update = task.order.update(number)
        batches.append(tuple(one.to(learner.device) for one in task.fetch(update.indices, update.epoch)))
        items += update.items
    if len({tuple(one.shape[1:] for one in batch) for batch in batches}) == 1:  # sentences have widths of their own
        batches = [tuple(map(torch.cat, zip(*batches, strict=True)))]
    starts = torch.tensor([0, *(len(batch[0]) for batch in batches)]).cumsum(0).tolist()

    def loss(rows: Tensor) -> Tensor:
        total = torch.zeros((), device=learner.device)
        for batch, start, end in zip(batches, starts, starts[1:], strict=False):
            chosen = rows[(rows >= start) & (rows < end)] - start
            if len(chosen):
                with differentiable_often():
                    total = total + task.loss(learner.model, tuple(one[chosen] for one in batch)).total
        return total

    training = learner.model.training
    learner.model.eval()
    try:
        yield Problem(learner.model, loss, samples=starts[-1], items=items)
    finally:
        learner.model.train(training)
