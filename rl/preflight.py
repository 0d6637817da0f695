"""What comes before a run: its folder's name, and the checks after which nothing is written for a run that cannot
start."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import torch

from evaluation.runs import resources
from evaluation.runs.checkpoint import CheckpointStore
from evaluation.runs.run_folder import CHECKPOINTS
from rl import algorithms, tasks
from rl.config import TrainConfig


def check_resources(config: TrainConfig, device: torch.device, path: Path) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    memory: int = algorithms.find(config.algorithm).memory(config, tasks.find(config.game).observation(config.env))
    overhead = 1 << 30  # torch, EnvPool, the networks and their activations
    resources.check_memory(memory, "the replay", "--replay-size", device=str(device))
    resources.check_memory(overhead + (memory if device.type == "cpu" else 0), "this run", "--replay-size")
    checkpoint = memory + (64 << 20)
    store = CheckpointStore(path / CHECKPOINTS)
    present = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    needed = max(0, (store.keep + 1) * checkpoint - present)
    resources.check_disk(path, needed, "three checkpoints with the replay in them", "--replay-size")
    return checkpoint


def default_run_dir(config: TrainConfig) -> Path:
    """runs/DATE/GAME-OPTIMIZER-sSEED, with a number behind it where that is taken."""
    name = f"{config.game}-{config.optimizer.name}-s{config.seed}"
    parent = Path("runs") / datetime.date.today().isoformat()
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())
