"""Data sets for classification by what `--data` says."""

from __future__ import annotations

from supervised.option_groups import DataConfig
from supervised.order import first
from supervised.vision import small_data
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
    if config.train_size is not None:
        found.train.subset(first(len(found.train), config.train_size, "train_size"))
    return found
