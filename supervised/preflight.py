"""What comes before a run: its folder's name, what is left to the machine, and the checks after which nothing is
written for a run that cannot start."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from evaluation.cores import cpu_quota
from evaluation.runs import resources
from evaluation.runs.checkpoint import CheckpointStore
from evaluation.runs.choosing import free_folder, take_over
from evaluation.runs.hardware import (
    has_bf16,
    select_precision,
    select_threads,
)
from evaluation.runs.kept_models import MODELS
from evaluation.runs.run_folder import CHECKPOINTS
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group
from supervised.tasks.task import Task

CHOSEN = ("device", "precision", "channels_last", "threads")  # by the machine, where an option leaves it open
STATES = 7  # numbers a parameter in a checkpoint, at most: model, average, three of the optimizer, best and last model
FLOAT = 4  # bytes
OVERHEAD = 600 << 20  # bytes: torch and its libraries, about


def choose(config: TrainConfig, run: Path | None, group: Group = ALONE) -> tuple[TrainConfig, list[str]]:
    """A configuration with what it leaves to the machine filled in, and lines about that for the user.

    Args:
        run: to be resumed: what was chosen at its start is kept, however this machine would choose.

    Raises:
        UserError: the device is not here.
    """
    found = take_over(config, run, CHOSEN)
    full, device, lines = found.config, found.device, found.lines
    most = max(1, (os.cpu_count() or 1) // group.local_ranks)
    full.threads = select_threads(full.threads, most)
    full.precision = select_precision(full.precision, device)  # type: ignore[assignment]
    # ResNets are faster so, also in bf16 on a CPU; of other models none was slower by more than a few percent.
    full.channels_last = config.has("channels_last") and full.channels_last is not False
    if full.precision == "bf16" and not has_bf16(device):
        lines.append("precision bf16 is slow here, for want of the hardware")
    return full, lines


def long_warmup(config: TrainConfig, task: Task) -> str | None:
    """What to say of a run that ends in its warm-up, as with a preset that was made for more data."""
    warmup, updates = config.lr_schedule.warmup, updates_of(config, task)
    if warmup <= updates:
        return None
    return (
        f"--lr-schedule.warmup {warmup}: longer than the run, of {updates:,} updates: the learning rate ends at "
        f"{updates / warmup:.2g} of --optimizer.lr"
    )


def updates_of(config: TrainConfig, task: Task) -> int:
    """How many updates the run of a configuration has."""
    if config.total_steps is not None:
        return config.total_steps
    assert config.epochs is not None  # `TrainConfig.faults` has seen to it
    return max(1, round(config.epochs * task.order.updates_per_epoch))


def data_workers(config: TrainConfig, task: Task, group: Group = ALONE) -> int:
    """Processes that read data ahead for this one: those asked for, else none for data in memory and as many as there
    are cores for files."""
    if config.data.workers is not None:
        return config.data.workers
    return 0 if task.in_memory else max(1, min(os.cpu_count() or 1, cpu_quota()) // group.local_ranks)


def check_resources(config: TrainConfig, task: Task, device: torch.device, path: Path, *, resume: bool = False) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in task.make_model().parameters())
    resources.check_memory(OVERHEAD + STATES * FLOAT * parameters, "this run", "free some, or choose a smaller --model")
    checkpoint = STATES * FLOAT * parameters + (1 << 18)
    store = CheckpointStore(path / CHECKPOINTS)
    present = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    needed = (store.keep + 1) * checkpoint - present + 2 * FLOAT * parameters
    if config.keep_models:
        total = updates_of(config, task)
        kept = sum(file.stat().st_size for file in (path / MODELS).glob("*.pt"))
        needed += max(0, total // config.keep_models * FLOAT * parameters - kept)
    remedy = "free some" if resume else "free some, or choose another --run-dir"
    resources.check_disk(path, max(0, needed), "its checkpoints, models and records", remedy)
    return checkpoint


def default_run_dir(config: TrainConfig, which: str | None = None) -> Path:
    """runs/DATE/DATA-MODEL-OPTIMIZER-sSEED, with a number behind it where that is taken; `which` in the place of
    sSEED."""
    data = re.sub(r"[^A-Za-z0-9.+_]+", "-", Path(config.data.name or config.task).name)
    name = f"{data}-{config.model.name}-{config.optimizer.name}-{which or f's{config.seed}'}"
    return free_folder(name)
