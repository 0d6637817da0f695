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
from rl.config import TrainConfig
from rl.replay.ring import FrameReplay
from rl.tasks.atari import configured_envs, observation_space
from rl.tasks.names import is_control


def check_game(config: TrainConfig) -> None:
    """Refuse a mode or difficulty that the game does not have, before a run folder is made for it."""
    env = config.env
    if env.mode is not None or env.difficulty is not None:
        configured_envs(config.game, env, num_envs=1, seed=0, training=True).close()


def check_resources(config: TrainConfig, device: torch.device, path: Path) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    env = config.env
    (stack, *frame), dtype = observation_space(config.game, env)
    replay = FrameReplay.nbytes(config.replay_size, env.num_envs, tuple(frame), stack, config.n_step, dtype)
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
    """One thread for the small networks of control tasks, whose products are too small to be shared.

    On a machine with other jobs a second thread that waits for its turn makes an update ten times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_control(config.game) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
