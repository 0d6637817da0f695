"""Images of Hugging Face `datasets`: from its hub, or saved on a disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from evaluation.cli.errors import UserError, reason
from supervised.data_names import is_saved
from supervised.order import Indices
from supervised.vision.image_source import ImageSource

_VALIDATION = ("validation", "val", "valid", "test")
_LABELS = ("label", "labels", "class", "target", "fine_label", "category")  # names of columns that are no ClassLabel


class HFImages(ImageSource):
    """A split of a data set with a column of images and one of labels.

    Args:
        split: a `datasets.Dataset`.
        where: for errors.

    Raises:
        UserError: it has no such columns.
    """

    def __init__(self, split: Any, where: str) -> None:
        import datasets

        images = [name for name, kind in split.features.items() if isinstance(kind, datasets.Image)]
        labels = [name for name, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)]
        labels += [name for name in _LABELS if name in split.features and name not in labels]
        if not images or not labels:
            columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in split.features.items())
            what = "images (feature Image)" if not images else "labels (feature ClassLabel, or called label)"
            raise UserError(f"{where} has no column of {what}; its columns: {columns}")
        self._where, image, label = f"{where}/{split.split or ''}", images[0], labels[0]
        values = np.asarray(split.select_columns([label]).with_format("numpy")[:][label])
        names = getattr(split.features[label], "names", None)
        if names is None:
            found, values = np.unique(values, return_inverse=True)
            names = [str(name) for name in found]
        if len(values) == 0:
            raise UserError(f"{self._where} holds no images")
        if values.min() < 0:
            raise UserError(f"{self._where}: some of its images have no label (-1): choose a split that has them all")
        self.labels, self.classes = values.astype(np.int64), tuple(names)
        # Encoded: they are decoded where corrupt ones are caught.
        self._images = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        self._column = image
        self._fingerprint: str | None = getattr(split, "_fingerprint", None)

    def open(self, index: int) -> Path | IO[bytes]:
        image: Mapping[str, Any] = self._images[index][self._column]
        return Path(image["path"]) if image["bytes"] is None else io.BytesIO(image["bytes"])

    def name(self, index: int) -> str:
        return f"{self._where}[{index}]"

    def subset(self, indices: Indices) -> None:
        self.labels, self._images = self.labels[indices], self._images.select(indices)

    def fingerprint(self) -> str | None:
        """What `datasets` tells versions of its data apart by."""
        return self._fingerprint


def open_hf(name: str, root: str | None) -> tuple[HFImages, HFImages]:
    """Training and validation images.

    Args:
        name: of the hub, with ":CONFIGURATION" behind it where there are several; or a folder.
        root: where what is downloaded is kept; None: where `datasets` usually does.

    Raises:
        UserError: it is not there, the hub cannot be reached, or it has no such splits.
    """
    found = load(name, root)
    split = next((split for split in _VALIDATION if split in found), None)
    if "train" not in found or split is None:
        expected = f"train and {' or '.join(_VALIDATION)}"
        raise UserError(f"{name} has the splits {', '.join(found)}: expected {expected}")
    return HFImages(found["train"], name), HFImages(found[split], name)


def load(name: str, root: str | None) -> Mapping[str, Any]:
    """The splits of a data set by their names."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face data needs its library: pip install 'asgc[supervised]'") from error
    try:
        if is_saved(Path(name)):
            found = datasets.load_from_disk(name)
        else:
            name, _, which = name.partition(":")
            found = datasets.load_dataset(name, which or None, cache_dir=root)
    except Exception as error:  # of many kinds: no such data set, no connection, no licence agreed to, a broken file
        raise UserError(
            f"{name} cannot be loaded ({type(error).__name__}: {reason(error)}). A name is as on the hub "
            "(ILSVRC/imagenet-1k; one that asks to agree to its terms needs `hf auth login`), or a folder that "
            "`save_to_disk` wrote"
        ) from error
    if not isinstance(found, Mapping):
        raise UserError(f"{name} is one split alone: save a DatasetDict with train and validation")
    return found
