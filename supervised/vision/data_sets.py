"""Data sets for classification by what `--data` says."""

from __future__ import annotations

from collections.abc import Callable

from supervised.config import TrainConfig
from supervised.vision import small_data
from supervised.vision.splits import DataSet

SMALL = {"fashion-mnist": small_data.fashion_mnist, "digits": small_data.digits}


def find(config: TrainConfig, message: Callable[[str], None]) -> DataSet:
    """The data set of a run.

    Raises:
        UserError: it is not there, or broken: says what to get and where to put it.
    """
    name = config.data.name or ""
    if name in SMALL:
        return SMALL[name](config.data)
    from supervised.vision.image_data import image_data

    return image_data(config, message)
