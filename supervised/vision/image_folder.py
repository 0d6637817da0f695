"""Folders of images with a folder for each class: torchvision's `ImageFolder` layout, which its `ImageNet` has too."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from evaluation.cli.errors import UserError
from supervised.order import Indices
from supervised.vision.image_source import ImageSource

TRAIN, VALIDATION = ("train",), ("val", "validation", "valid", "test")
SIZES = 10_000  # files whose size tells one folder from another, at least, where there are as many
LAYOUT = "FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg, with the same classes in both"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class ImageFolder(ImageSource):
    """The images below a folder; the first folders on their paths are their classes, in the order of their names.

    Raises:
        UserError: no classes, or one without images.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        entries = sorted(folder.iterdir())
        self.classes = tuple(path.name for path in entries if path.is_dir())
        loose = [path.name for path in entries if path.suffix.lower() in SUFFIXES]
        if len(self.classes) < 2:
            has = f"{len(loose):,} images" if loose else "none"
            raise UserError(
                f"{folder} needs a folder for each class (at least two), with its images in it; it has {has}"
                f"{' that stand in no class' if loose else ''}: {LAYOUT}"
            )
        files = [_files(folder, name) for name in self.classes]
        empty = [name for name, found in zip(self.classes, files, strict=True) if not found]
        if empty:
            raise UserError(
                f"{folder} has no images of {len(empty):,} of its {len(files):,} classes ({', '.join(empty[:3])}"
                f"{', ...' if len(empty) > 3 else ''}): put some there, or remove the folders. "
                f"Images are {', '.join(sorted(SUFFIXES))}"
            )
        self.labels = np.repeat(np.arange(len(files)), [len(found) for found in files])
        # One array, not a million strings: the processes that read images share it.
        self._files = np.array([os.fsencode(file) for found in files for file in found])

    def open(self, index: int) -> Path:
        return self._folder / os.fsdecode(bytes(self._files[index]))

    def name(self, index: int) -> str:
        return str(self.open(index))

    def subset(self, indices: Indices) -> None:
        self.labels, self._files = self.labels[indices], self._files[indices]

    def fingerprint(self) -> str:
        """Of all names, the classes' among them, and of some `SIZES` files' sizes: a million of them take minutes on a
        disk that is far away."""
        digest, folder = hashlib.sha256(), os.fsencode(self._folder)
        for file in self._files.tolist():
            digest.update(b"%s\0" % file)
        for file in self._files[:: max(1, len(self._files) // SIZES)].tolist():
            digest.update(b"%d\0" % _size(os.path.join(folder, file)))  # noqa: PTH118 - thousands of times
        return digest.hexdigest()


def _files(folder: Path, name: str) -> list[str]:
    """Paths of a class's images below the folder, in order."""
    found = []
    for here, folders, files in os.walk(folder / name, followlinks=True):
        folders.sort()
        inside = os.path.relpath(here, folder)
        found += [os.path.join(inside, file) for file in sorted(files) if os.path.splitext(file)[1].lower() in SUFFIXES]  # noqa: PTH118, PTH122 - a million times
    return found


def _size(path: bytes) -> int:
    """Bytes of a file; -1: there is none, as at the end of a broken link."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a million times
    except OSError:
        return -1


def open_folders(folder: Path) -> tuple[ImageFolder, ImageFolder]:
    """Training and validation images.

    Raises:
        UserError: what is missing, and how the folder has to look.
    """
    train, validation = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (TRAIN, VALIDATION)
    )
    packed = sorted(path.name for path in folder.glob("ILSVRC2012_*.tar*"))
    if packed and (train is None or validation is None):
        raise UserError(
            f"{folder} holds ImageNet's archives as they are downloaded: unpack them once with torchvision, "
            f"python -c \"from torchvision.datasets import ImageNet; [ImageNet('{folder}', s) for s in "
            "('train', 'val')]\""
        )
    if train is None and validation is None:
        raise UserError(
            f"{folder} is no data set: expected {LAYOUT}, or what `datasets` of Hugging Face saved "
            "(`--data hf:ILSVRC/imagenet-1k` gets ImageNet from its hub); for text: --task wmt14"
        )
    if train is None:
        raise UserError(f"{folder} has no folder train: expected {LAYOUT}")
    if validation is None:
        raise UserError(
            f"{folder} has no folder val: move some images of each class from train/CLASS to val/CLASS. "
            f"Expected {LAYOUT}"
        )
    return ImageFolder(train), ImageFolder(validation)
