"""Where encoded images come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

from PIL import Image

from evaluation.cli.errors import UserError, reason
from supervised.order import Indices


class ImageSource(ABC):
    """Encoded images with labels.

    Attributes:
        labels: of each.
        classes: names of the labels.
    """

    labels: Indices
    classes: tuple[str, ...]

    @abstractmethod
    def open(self, index: int) -> Path | IO[bytes]:
        """Where the bytes of an image are."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What it is called."""

    @abstractmethod
    def subset(self, indices: Indices) -> None:
        """Keep only these."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """As `supervised.vision.splits.Split.fingerprint`."""

    def image(self, index: int) -> Image.Image:
        """The image, opened but not decoded yet."""
        return Image.open(self.open(index))

    def fault(self, index: int) -> str | None:
        """Why an image cannot be read; None: it can."""
        try:
            with self.image(index) as image:
                image.convert("RGB")
        except Exception as error:  # of any kind: see `FileSplit`
            return reason(error)
        return None

    def described(self, index: int) -> str:
        """Its name, and why it cannot be read."""
        return f"{self.name(index)} ({self.fault(index)})"


def check_classes(train: ImageSource, validation: ImageSource, where: str) -> None:
    """Refuse splits of different classes.

    Raises:
        UserError: names classes that one has and the other lacks.
    """
    ours, theirs = set(train.classes), set(validation.classes)
    if train.classes == validation.classes:
        return
    lacking = [
        f"{len(names):,} of the classes are only in the {split} images ({', '.join(sorted(names)[:3])}"
        f"{', ...' if len(names) > 3 else ''})"
        for split, names in (("training", ours - theirs), ("validation", theirs - ours))
        if names
    ]
    raise UserError(
        f"{where}: {len(ours):,} classes for training, {len(theirs):,} for validation: "
        f"{'; '.join(lacking) or 'they stand in another order'}. Both need images of the same classes"
    )
