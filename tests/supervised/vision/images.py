"""Image folders for tests: small pictures whose colour says their class, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "fish": (60, 60, 200)}


def picture(name: str, number: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    rng = np.random.default_rng([number, *name.encode()])
    noise = rng.normal(0, 25, (size[1] // 8, size[0] // 8, 3)).repeat(8, 0).repeat(8, 1)
    return Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def make_folder(root: Path, train: int = 6, validation: int = 3) -> Path:
    """`root`/train and `root`/val with so many JPEGs and PNGs of each class."""
    for split, count in (("train", train), ("val", validation)):
        for name in COLOURS:
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                suffix = "png" if k % 2 else "jpg"
                picture(name, k + 100 * (split == "val")).save(root / split / name / f"{k}.{suffix}")
    return root
