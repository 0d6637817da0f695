"""`asgc-sup`: train a classifier of images or a translator, evaluate it, use it, measure its speed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.cli.errors import EXIT_INTERRUPTED, UserError, main_guard, tell
from evaluation.cli.parser import Command, dispatch
from evaluation.cli.train_command import TrainCommand, several_seeds
from supervised.config import TrainConfig
from supervised.launched import launched

if TYPE_CHECKING:
    from supervised.distributed import Group

COMMAND = TrainCommand(
    prog="asgc-sup",
    usage="[--task TASK] [--data DATA] [--model MODEL]",
    description="Train a classifier of images or a translator and write a run folder.",
    config=TrainConfig,
    default_words="the one named as --data, else as --task",
    common={
        "run": ("task", "data.name", "model.name", "epochs", "total_steps", "run_dir", "seed", "device", "precision"),
        "optimizer": [f"optimizer.{name}" for name in ("name", "lr", "mode", "clip_factor", "noise_scale", "max_norm")],
        "learning": (
            *("batch_size", "device_batch", "lr_schedule.name", "lr_schedule.warmup", "label_smoothing", "ema_decay"),
            *("data.label_noise", "data.train_size", "data.resolution", "data.augment", "data.vocabulary"),
        ),
        "evaluation": ("evaluation.interval", "evaluation.train_subset", "evaluation.metric", "evaluation.beam"),
    },
    headings={"": "learning"},
    switches={"--dry-run": "print parameters, operations, memory and time of the run, and stop"},
    example='["--data", "digits", "--optimizer.lr", "0.001"]',
)

# What a study imports once and forks for every run (evaluation.study.engines.forked).
PRELOAD = (
    *("supervised.trainer", "supervised.tasks.imagenet", "supervised.tasks.wmt14", "evaluation.runs.display"),
    *("asgc.optimizer", "asgc.implementations.cpu"),
    *("pandas", "pyarrow.parquet"),  # pyarrow imports pandas, where it is, at its first table
)

USAGE = """\
asgc-sup: image classification and translation with Adaptive Stochastic Gradient Clipping

  asgc-sup train --task imagenet --data FOLDER     train ResNet-50 (`asgc-sup train --help`); --seeds 1-5 trains five
  asgc-sup train --task wmt14 --data FOLDER        train a Transformer
  asgc-sup train --data fashion-mnist              the same on data that a laptop has; also digits, dict-ende
  asgc-sup eval RUN                                evaluate the model of a run folder
  asgc-sup predict RUN IMAGE...                    classify images
  asgc-sup translate RUN < LINES                   translate lines
  asgc-sup data prepare|info                       prepare text once, look at what is prepared
  asgc-sup bench                                   measure throughput beside other libraries
  asgc-sup check < LINES                           check command lines of `train` without running them

  asgc-sup COMMAND --help                          options of a command
  asgc-sup --version                               version
"""


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Run `asgc-sup` with these arguments; returns the exit code (0 done, 2 the user can mend it, 130 interrupted)."""
    commands: dict[str, Command | str] = {"train": train_command, "check": COMMAND.check}
    commands |= {"eval": "supervised.eval_cli:main", "predict": "supervised.predict_cli:predict_command"}
    commands |= {"translate": "supervised.translate_cli:main", "data": "supervised.data_cli:data_command"}
    commands |= {"bench": "benchmarks.supervised_bench_cli:main"}
    return dispatch(sys.argv[1:] if argv is None else argv, commands, USAGE)


def train_command(argv: list[str]) -> int:
    """`asgc-sup train`: put the layers of the configuration together and train."""
    if not launched():
        return _train(argv, None)
    from supervised.distributed import joined

    with joined() as group, contextlib.ExitStack() as quiet:
        if not group.main:
            null = quiet.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            quiet.enter_context(contextlib.redirect_stdout(null))
            logging.disable(logging.WARNING)  # warnings are the same in all processes
            warnings.simplefilter("ignore")
        return _train(argv, group)


def _train(argv: list[str], group: Group | None) -> int:
    typed, faults = COMMAND.flags().read_all(argv)
    several = group is not None and group.ranks > 1
    if not faults and several_seeds(typed):
        if several:
            raise UserError("--seeds: not under torchrun: each run of a seed is one process")
        if "dry_run" in typed:
            raise UserError("--dry-run: what one run takes: leave out --seeds")
        from evaluation.study.seeds import train_seeds

        return train_seeds(COMMAND, (sys.executable, "-m", "supervised.cli"), argv, typed, _folder_of_seeds)
    config, resume = COMMAND.read(argv)
    if config is None:
        return 0
    if "dry_run" in typed:
        if several:
            raise UserError("--dry-run: not under torchrun: it is of one process")
        from supervised.dry_run import dry_run

        dry_run(config)
        return 0

    from evaluation.plots.learning_curve import LearningCurve
    from evaluation.runs.display import make_display
    from evaluation.runs.loop import Interrupted
    from supervised.trainer import train

    try:
        train(config, resume=resume, watchers=[make_display(), LearningCurve()], group=group)
    except Interrupted as stopped:
        if group is None or group.main:
            tell(str(stopped))
        return EXIT_INTERRUPTED
    return 0


def _folder_of_seeds(config: TrainConfig) -> Path:
    from supervised.preflight import default_run_dir

    return default_run_dir(config, "seeds")


if __name__ == "__main__":
    sys.exit(main())
