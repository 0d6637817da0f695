"""Data sets for classification by what `--data` says."""

from __future__ import annotations

import dataclasses

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.order import first, last
from supervised.vision import small_data
from supervised.vision.in_memory import MemorySplit
from supervised.vision.splits import DataSet

SMALL = {"fashion-mnist": small_data.fashion_mnist, "digits": small_data.digits}


def find(config: DataConfig) -> DataSet:
    """The data set of a run, of whose training images only the first `train_size` of a fixed order are there.

    Raises:
        UserError: it is not there, or broken: says what to get and where to put it.
    """
    if config.name in SMALL:
        found = SMALL[config.name](config)
    else:
        from supervised.vision.image_data import image_data  # and with it torchvision

        found = image_data(config)
    size, kept = len(found.train), config.train_size
    if config.held_out is not None:
        if not isinstance(found.train, MemorySplit):
            raise UserError(f"--data.held-out {config.held_out}: only {' and '.join(SMALL)} have it")
        kept = size - config.held_out if kept is None else kept
        if kept < 1 or kept + config.held_out > size:
            raise UserError(
                f"--data.held-out {config.held_out}: {config.name} has {size} training images, {kept} in use"
            )
        apart = found.train.set_apart(last(size, config.held_out, "train_size"))
        found = dataclasses.replace(found, validation=apart)
    if kept is not None:
        found.train.subset(first(size, kept, "train_size"))
    return found
