"""`asgc-rl`: train an agent on Atari or a control task, evaluate it, measure its speed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.cli.errors import EXIT_INTERRUPTED, main_guard, tell
from evaluation.cli.parser import Command, Flags, dispatch
from evaluation.cli.train_command import TrainCommand, several_seeds
from rl import tasks
from rl.config import TrainConfig

COMMAND = TrainCommand(
    prog="asgc-rl",
    usage="[--game GAME] [--preset PRESET]",
    description="Train DQN or PQN on an Atari game or a control task and write a run folder.",
    config=TrainConfig,
    default_words="quick, or control; with --algorithm pqn pqn-quick, or pqn-control",
    common={
        "run": (
            *("game", "algorithm", "backend", "total_steps", "run_dir", "seed", "device", "precision"),
            "checkpoint_interval",
        ),
        "optimizer": [f"optimizer.{name}" for name in ("name", "lr", "mode", "clip_factor", "noise_scale", "max_norm")],
        "learning": (
            *("replay_size", "batch_size", "train_every", "gradient_steps", "learning_starts", "n_step"),
            *("target_interval", "head.name", "pqn.rollout_steps", "pqn.epochs", "pqn.minibatches", "pqn.td_lambda"),
            *("gamma", "exploration.steps", "exploration.end", "env.protocol", "env.num_envs"),
        ),
        "evaluation": ("evaluation.interval", "evaluation.episodes", "evaluation.final_episodes"),
    },
    headings={"": "learning", "pqn": "learning", "env": "environments"},
    example='["--game", "CartPole", "--optimizer.lr", "0.001"]',
)

# What a study imports once and forks for every run (evaluation.study.engines.forked).
PRELOAD = (
    *("rl.trainer", "rl.algorithms.dqn", "rl.algorithms.pqn", "evaluation.runs.display"),
    *("asgc.optimizer", "asgc.implementations.cpu"),
    *("envpool", "pandas", "pyarrow.parquet"),  # pyarrow imports pandas, where it is, at its first table
)

USAGE = """\
asgc-rl: DQN and PQN on Atari and control tasks with Adaptive Stochastic Gradient Clipping

  asgc-rl train --game Pong     train an agent (`asgc-rl train --help`); --seeds 1-5 trains five
  asgc-rl eval RUN              evaluate the agent of a run folder
  asgc-rl play RUN              watch it play, on the terminal or in a video
  asgc-rl watch RUN ...         watch runs that go on
  asgc-rl bench --against sb3   measure throughput beside other libraries
  asgc-rl check < LINES         check command lines of `train` without running them
  asgc-rl games                 list the games and control tasks

  asgc-rl COMMAND --help        options of a command
  asgc-rl --version             version
"""


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Run `asgc-rl` with these arguments; returns the exit code (0 done, 2 the user can mend it, 130 interrupted)."""
    commands: dict[str, Command | str] = {"train": train_command, "eval": "rl.eval_cli:main"}
    commands |= {"play": "rl.view.play_cli:main", "watch": "rl.view.watch_cli:main"}
    commands |= {"bench": "benchmarks.bench_cli:main", "check": COMMAND.check, "games": games_command}
    return dispatch(sys.argv[1:] if argv is None else argv, commands, USAGE)


def train_command(argv: list[str]) -> int:
    """`asgc-rl train`: put the layers of the configuration together and train."""
    typed, faults = COMMAND.flags().read_all(argv)
    if not faults and several_seeds(typed):
        from evaluation.study.seeds import train_seeds

        return train_seeds(COMMAND, (sys.executable, "-m", "rl.cli"), argv, typed, _folder_of_seeds)
    config, resume = COMMAND.read(argv)
    if config is None:
        return 0

    from evaluation.plots.learning_curve import LearningCurve
    from evaluation.runs.display import make_display
    from evaluation.runs.loop import Interrupted
    from rl.trainer import train

    try:
        train(config, resume=resume, watchers=[make_display(), LearningCurve()])
    except Interrupted as stopped:
        tell(str(stopped))
        return EXIT_INTERRUPTED
    return 0


def _folder_of_seeds(config: TrainConfig) -> Path:
    from rl.preflight import default_run_dir

    return default_run_dir(config, "seeds")


def games_command(argv: list[str]) -> int:
    """`asgc-rl games`: the names of all games, then those of the control tasks."""
    what = "List the Atari games and, below, the control tasks. Gymnasium's environments are --game gym:ID, your own"
    Flags("asgc-rl games", "", f"{what} --env.make package.module:function.").read(argv)
    print("\n\n".join("\n".join(tasks.names(family)) for family in tasks.FAMILIES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
