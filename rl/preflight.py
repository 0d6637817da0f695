"""What comes before a run: its folder's name, the checks after which nothing is written for a run that cannot start,
and the threads it gets."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from evaluation.runs import resources
from evaluation.runs.checkpoint import CheckpointStore
from evaluation.runs.run_folder import CHECKPOINTS
from rl import tasks
from rl.config import TrainConfig
from rl.replay.ring import FrameReplay


def check_resources(config: TrainConfig, device: torch.device, path: Path) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    env = config.env
    spec = tasks.find(config.game).observation(env)
    replay = FrameReplay.nbytes(config.replay_size, env.num_envs, spec.frame, spec.stack, config.n_step, spec.dtype)
    overhead = 1 << 30  # torch, EnvPool, the networks and their activations
    resources.check_memory(replay, "the replay", "--replay-size", device=str(device))
    resources.check_memory(overhead + (replay if device.type == "cpu" else 0), "this run", "--replay-size")
    checkpoint = replay + (64 << 20)
    store = CheckpointStore(path / CHECKPOINTS)
    present = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    needed = max(0, store.peak_bytes(checkpoint) - present)
    resources.check_disk(path, needed, "three checkpoints with the replay in them", "--replay-size")
    return checkpoint


def default_run_dir(config: TrainConfig) -> Path:
    """runs/DATE/GAME-OPTIMIZER-sSEED, with a number behind it where that is taken."""
    name = f"{config.game}-{config.optimizer.name}-s{config.seed}"
    parent = Path("runs") / datetime.date.today().isoformat()
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())


@contextlib.contextmanager
def enough_threads(config: TrainConfig) -> Iterator[None]:
    """As many threads as the task's networks profit from."""
    before = torch.get_num_threads()
    torch.set_num_threads(tasks.find(config.game).family.torch_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
