"""The command line of `asgc-rl train`: what its help page shows; its flags are made from `TrainConfig`."""

from __future__ import annotations

from evaluation.cli.train_command import TrainCommand
from rl.config import PRESETS, TrainConfig, default_preset

COMMAND = TrainCommand(
    prog="asgc-rl",
    usage="[--game GAME] [--preset PRESET]",
    description="Train DQN on an Atari game or a control task and write a run folder.",
    config=TrainConfig,
    folder="rl",
    presets=PRESETS,
    default_preset=default_preset,
    defaults_in_words="quick, or control",
    common={
        "run": ("game", "total_steps", "run_dir", "seed", "device", "precision", "checkpoint_interval"),
        "optimizer": [f"optimizer.{name}" for name in ("name", "lr", "mode", "clip_factor", "noise_scale", "max_norm")],
        "DQN": (
            *("replay_size", "batch_size", "train_every", "gradient_steps", "learning_starts", "n_step", "gamma"),
            *("target_interval", "exploration.steps", "exploration.end", "env.protocol", "env.num_envs"),
        ),
        "evaluation": ("evaluation.interval", "evaluation.episodes", "evaluation.final_episodes"),
    },
    headings={"": "DQN", "env": "environments"},
    aliases={"--optimizer.name": "--optimizer"},
)
