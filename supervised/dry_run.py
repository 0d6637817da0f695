"""`asgc-sup train --dry-run`: what a run would take, from its data, its model and a few real updates."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from evaluation.cli.errors import tell
from evaluation.runs.hardware import deterministic, keep_freed_memory, torch_threads
from evaluation.runs.resources import human_bytes
from evaluation.study.status import duration
from supervised import backends, tasks
from supervised.config import TrainConfig
from supervised.distributed import ALONE
from supervised.learner import Learner
from supervised.preflight import check_resources, choose, data_workers, default_run_dir
from supervised.stream import Stream
from supervised.tasks.task import Batch, Task
from supervised.trainer import schedule_of

UPDATES = 8  # that are timed, after one that is not
SECONDS = 60.0  # after which no more are
_Shapes = tuple[torch.Size, ...]  # of the tensors of an update


def dry_run(config: TrainConfig) -> None:
    """Make data and model, time a few updates, print what the whole run comes to. Nothing is written but
    prepared text, where the run prepares its own.

    Raises:
        UserError: as a run would.
    """
    full, lines = choose(config, None)
    for line in lines:
        tell(line)
    device = torch.device(full.device)
    keep_freed_memory()
    with deterministic(full.deterministic), torch_threads(full.threads or 1):
        task = tasks.find(full.task)(full, ALONE, tell)
        path = Path(full.run_dir) if full.run_dir else default_run_dir(full)
        check_resources(full, task, device, path)
        schedule = schedule_of(full, task)
        learner = backends.learner_class(full)(full, task, device, ALONE, schedule.total)
        stream = Stream(task, ALONE, device, 0, schedule.total, data_workers(full, task))
        try:
            measured = _measured(learner, task, stream, min(UPDATES, schedule.total - 1))
        finally:
            stream.close()
    parameters = sum(parameter.numel() for parameter in learner.model.parameters())
    held = _bytes(learner)
    epoch = task.order.updates_per_epoch
    evaluations = -(-schedule.total // schedule.evaluation)
    # Updates on text have more or fewer tokens: what is measured is counted by item, and told of a mean update.
    items = statistics.mean(task.order.update(number).items for number in range(min(epoch, schedule.total)))
    flops = items * sum(one.flops for one in measured) / sum(one.items for one in measured)
    seconds = items * statistics.median(one.seconds / one.items for one in measured)
    speed = statistics.median(one.flops / one.seconds for one in measured)
    print(f"parameters       {parameters:,}")
    length = f"{schedule.total:,}, {schedule.total / epoch:.3g} epochs of {epoch:,}"
    print(f"updates          {length}; {items:,.0f} {task.item} each")
    print(f"operations       {flops:.3g} FLOPs an update, {flops * schedule.total:.3g} in all (forward and backward)")
    print(f"memory           {human_bytes(held)} for weights, gradients and the optimizer; {_peak(device)}")
    rate = f"{items / seconds:,.0f} {task.item}/s, {speed / 1e12:.3g} TFLOP/s"
    print(f"time             {1000 * seconds:.3g} ms an update ({rate}), of {device} with {full.precision}")
    print(f"                 {duration(seconds * schedule.total)} for the whole run, beside {evaluations} evaluations")


def operations(learner: Learner, task: Task, batches: list[Batch], items: int) -> float:
    """Floating-point operations of the forward and backward passes of one update, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            with learner.autocast():
                loss = task.loss(learner.model, batch)
            (loss.total / items).backward()
    learner.optimizer.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


class _Update(NamedTuple):
    """What was measured of an update."""

    items: int
    flops: float
    seconds: float


def _measured(learner: Learner, task: Task, stream: Stream, count: int) -> list[_Update]:
    """A few updates with their data, after one that is not timed; where there is no other, that one again."""
    batches, items = stream.next()
    learner.update(batches, items)
    timed: list[tuple[_Shapes, int, float]] = []
    kept: dict[_Shapes, list[Batch]] = {}
    began = time.monotonic()
    while len(timed) < max(1, count) and time.monotonic() - began < SECONDS:
        _wait(learner.device)
        started = time.monotonic()
        if count > 0:
            batches, items = stream.next()
        learner.update(batches, items)
        _wait(learner.device)
        shapes = tuple(tensor.shape for batch in batches for tensor in batch)
        kept.setdefault(shapes, batches)
        timed.append((shapes, items, time.monotonic() - started))
    # Afterwards, or data would be read ahead meanwhile; once for each shape, which is all that they depend on.
    flops = {shapes: operations(learner, task, some, timed[0][1]) for shapes, some in kept.items()}
    return [_Update(items, flops[shapes], seconds) for shapes, items, seconds in timed]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(learner: Learner) -> int:
    """Of weights, as many gradients, and the optimizer's state."""
    weights = sum(parameter.nbytes for parameter in learner.model.parameters())
    states = learner.optimizer.state.values()
    return 2 * weights + sum(
        value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor)
    )


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{human_bytes(torch.cuda.max_memory_allocated(device))} of the GPU at most"
    return f"{human_bytes(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)} of this process at most"
