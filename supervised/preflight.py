"""What comes before a run: its folder's name, what is left to the machine, and the checks after which nothing is
written for a run that cannot start."""

from __future__ import annotations

import copy
import datetime
import os
import re
import sys
from pathlib import Path

import torch

from evaluation.cli.errors import UserError
from evaluation.runs import resources
from evaluation.runs.checkpoint import CheckpointStore
from evaluation.runs.hardware import (
    cpu_quota,
    has_bf16,
    select_device,
    select_precision,
    select_threads,
)
from evaluation.runs.run_folder import CHECKPOINTS, chosen, is_run, load_config
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group
from supervised.model import MODELS
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
    known, before = (chosen(run), load_config(run)) if run is not None and is_run(run) else ({}, {})
    full, lines = copy.deepcopy(config), []
    given = {name: getattr(config, name) for name in CHOSEN}
    for name in CHOSEN:
        if name in known and given[name] == before.get(name, given[name]):
            setattr(full, name, known[name])
    try:
        device = select_device(full.device)
    except UserError as error:
        if full.device != known.get("device"):
            raise
        here = "cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(
            f"{run} was trained on {full.device}, which is not here: resume it where it is, or with --device {here} "
            "(from then on not with the numbers of the uninterrupted run)"
        ) from error
    if (last := known.get("device", str(device))) != str(device):
        lines.append(f"device {last} -> {device}: from here on not with the numbers of the uninterrupted run")
    most = max(1, (os.cpu_count() or 1) // group.local_ranks)
    full.device, full.threads = str(device), select_threads(full.threads, most)
    full.precision = select_precision(full.precision, device)  # type: ignore[assignment]
    # ResNets are faster so, also in bf16 on a CPU; of other models none was slower by more than a few percent.
    full.channels_last = config.has("channels_last") and full.channels_last is not False
    if full.precision == "bf16" and not has_bf16(device):
        lines.append("precision bf16 is slow here, for want of the hardware")
    return full, lines


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
        total = config.total_steps or round((config.epochs or 0) * task.order.updates_per_epoch)
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
    parent = Path("runs") / datetime.date.today().isoformat()
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())
