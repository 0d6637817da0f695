"""Data sets of image files: folders, and Hugging Face `datasets`."""

from __future__ import annotations

from pathlib import Path

from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean
from supervised.data_names import HUGGING_FACE, SMALL, is_saved
from supervised.option_groups import DataConfig
from supervised.vision import hf_images
from supervised.vision.file_split import FileSplit
from supervised.vision.image_folder import LAYOUT, open_folders
from supervised.vision.image_source import ImageSource, check_classes
from supervised.vision.splits import IMAGENET, DataSet

IMAGENET_CLASSES, IMAGENET_TARGET = 1000, 75.9  # percent, MLPerf Training's for ResNet-50


def image_data(config: DataConfig) -> DataSet:
    """The data set of a folder or a name on the hub.

    Raises:
        UserError: it is not there, or not as it has to be; says how that is.
    """
    name = config.name or ""
    train: ImageSource
    validation: ImageSource
    if name.startswith(HUGGING_FACE):
        train, validation = hf_images.open_hf(name.removeprefix(HUGGING_FACE), config.root)
    else:
        folder = Path(config.root or ".") / Path(name).expanduser()
        if not folder.is_dir():
            hint = did_you_mean(name, (*SMALL["imagenet"], *SMALL["wmt14"]))
            raise UserError(
                f"--data {name}: there is no such folder, nor is it fashion-mnist or digits{hint or '.'} Expected "
                f"{LAYOUT}, or hf:NAME of Hugging Face (hf:ILSVRC/imagenet-1k); for text: --data dict-ende, or "
                "--task wmt14 and a --data of your own"
            )
        if is_saved(folder):
            train, validation = hf_images.open_hf(str(folder), config.root)
        else:
            train, validation = open_folders(folder)
    check_classes(train, validation, name)
    target = IMAGENET_TARGET if len(train.classes) == IMAGENET_CLASSES and config.label_noise == 0 else None
    return DataSet(name, FileSplit(train, config), FileSplit(validation, config), train.classes, IMAGENET, target)
