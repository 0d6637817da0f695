"""Small real data sets that need no download: Fashion-MNIST as Debian packages it, scikit-learn's digits."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError, reason
from evaluation.runs import seeding
from supervised.option_groups import DataConfig
from supervised.vision.in_memory import MemorySplit
from supervised.vision.splits import DataSet, Normalization

FASHION_ROOTS = (Path("/usr/share/datasets/fashion-mnist"),)
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def fashion_mnist(config: DataConfig) -> DataSet:
    """Fashion-MNIST (arXiv 1708.07747): 60,000 + 10,000 grey images of clothes, 28 x 28 pixels, 10 classes.

    Raises:
        UserError: its files are not there, or broken.
    """
    roots = FASHION_ROOTS if config.root is None else (Path(config.root),)
    folder = _folder(roots)
    train, validation = (
        (_idx(folder, f"{part}-images-idx3-ubyte"), _idx(folder, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )
    for images, labels in (train, validation):
        if images.ndim != 3 or len(images) != len(labels) or labels.max(initial=0) >= len(_CLOTHES):
            raise UserError(f"{folder}: its images and labels do not belong together; get the four files anew")
    # Of the training images' pixels.
    return _data_set(config, "fashion-mnist", train, validation, _CLOTHES, Normalization((0.2860,), (0.3530,)), 90.0)


def load_digits() -> Any:
    """scikit-learn's digits as it gives them: `images` (1797, 8, 8) from 0 to 16, `data` (1797, 64), `target` (1797,).

    Raises:
        UserError: it is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError("--data digits needs scikit-learn: pip install 'asgc[supervised]'") from error
    return datasets.load_digits()


def digits(config: DataConfig) -> DataSet:
    """The digits of scikit-learn: 1,797 grey images of 8 x 8 pixels; of each class every fifth in a fixed order is for
    validation.

    Raises:
        UserError: scikit-learn is not installed.
    """
    found = load_digits()
    images, labels = np.round(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        rng = np.random.default_rng(seeding.derive(0, "digits", label))
        held_out[rng.permutation(np.flatnonzero(labels == label))[::5]] = True
    train, validation = (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
    normalization = Normalization((0.3052,), (0.3760,))
    return _data_set(config, "digits", train, validation, tuple("0123456789"), normalization, 95.0, flips=False)


def _data_set(
    config: DataConfig,
    name: str,
    train: tuple[NDArray[np.uint8], NDArray[np.integer]],
    validation: tuple[NDArray[np.uint8], NDArray[np.integer]],
    classes: Sequence[str],
    normalization: Normalization,
    target: float,
    *,
    flips: bool = True,
) -> DataSet:
    side = config.eval_resolution or config.resolution
    erasing = config.random_erasing
    return DataSet(
        name,
        MemorySplit(*train, side=side, augment=config.augment, erasing=erasing, flips=flips),  # type: ignore[arg-type]
        MemorySplit(*validation, side=side),  # type: ignore[arg-type]
        tuple(classes),
        normalization,
        target if config.label_noise == 0 else None,
    )


def _folder(roots: Sequence[Path]) -> Path:
    """The folder of the four files: one of the roots, or torchvision's or our own name below."""
    for root in roots:
        for folder in (root, root / "FashionMNIST" / "raw", root / "fashion-mnist"):
            if any(path.exists() for path in _candidates(folder, "train-images-idx3-ubyte")):
                return folder
    looked = " or ".join(map(str, roots))
    raise UserError(
        f"no Fashion-MNIST in {looked}: `apt install dataset-fashion-mnist` (Debian, Ubuntu), or put "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz in a folder and say --data.root FOLDER (torchvision's root works, too)"
    )


def _candidates(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.gz", folder / name


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """The bytes of an IDX file (as Yann LeCun's page on MNIST defines it), packed or not."""
    path = next((path for path in _candidates(folder, name) if path.exists()), None)
    if path is None:
        raise UserError(f"{folder} has no {name}.gz: put it beside the others (`apt install dataset-fashion-mnist`)")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        zeros, kind, axes = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        if zeros != 0 or kind != 8:
            raise ValueError("not an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (ValueError, struct.error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is broken ({reason(error)}): get it anew") from error
