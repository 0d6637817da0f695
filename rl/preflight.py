"""What is checked before a run folder is made: nothing is written for a run that cannot start."""

from __future__ import annotations

from pathlib import Path

import torch

from evaluation import resources
from evaluation.runs import CHECKPOINTS
from rl.config import TrainConfig
from rl.envs import make_envs
from rl.protocols import PROTOCOLS
from rl.replay import FrameReplay


def check_game(config: TrainConfig) -> None:
    """Refuse a mode or difficulty that the game does not have, before a run folder is made for it."""
    env = config.env
    if env.mode is not None or env.difficulty is not None:
        make_envs(
            config.game,
            PROTOCOLS[env.protocol],
            num_envs=1,
            seed=0,
            training=True,
            mode=env.mode,
            difficulty=env.difficulty,
        ).close()


def check_resources(config: TrainConfig, device: torch.device, path: Path) -> int:
    """Refuse a run that memory or disk cannot hold; returns the bytes of one checkpoint, about."""
    env = config.env
    replay = FrameReplay.nbytes(config.replay_size, env.num_envs, (env.height, env.width), env.stack, config.n_step)
    overhead = 1 << 30  # torch, EnvPool, the networks and their activations
    resources.check_memory(replay, "the replay", "--replay-size", device=str(device))
    resources.check_memory(overhead + (replay if device.type == "cpu" else 0), "this run", "--replay-size")
    checkpoint = replay + (64 << 20)
    present = sum(file.stat().st_size for file in (path / CHECKPOINTS).rglob("*") if file.is_file())
    needed = max(0, 3 * checkpoint - present)  # two are kept while the third is written
    resources.check_disk(path, needed, "three checkpoints with the replay in them", "--replay-size")
    return checkpoint
