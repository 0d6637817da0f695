"""A trainer to be measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from evaluation.runs.hardware import keep_freed_memory
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers
from rl import backends
from rl.config import TrainConfig
from rl.preflight import choose
from rl.trainer import Trainer


@contextmanager
def started(config: TrainConfig) -> Iterator[Trainer]:
    """The trainer of a configuration, started in a run folder that is gone afterwards.

    Raises:
        UserError: something is wrong with the configuration.
    """
    config.validate()
    full, _ = choose(config, None)
    keep_freed_memory()  # as training does
    with (
        tempfile.TemporaryDirectory() as folder,
        RunFolder(
            Path(folder) / "run", full.to_dict(), seeds={"seed": full.seed}, device=full.device, tensorboard=False
        ) as run,
    ):
        trainer: Trainer = backends.trainer(full)(full, run, torch.device(full.device), Watchers())
        try:
            trainer.start()
            yield trainer
        finally:
            trainer.close()
