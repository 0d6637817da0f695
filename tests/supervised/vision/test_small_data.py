"""Fashion-MNIST and the digits."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.vision import data_sets, small_data
from supervised.vision.splits import Split


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


def fashion(folder: Path, packed: bool = True) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng, suffix = np.random.default_rng(1), ".gz" if packed else ""
    arrays = {}
    for part, size in (("train", 30), ("t10k", 12)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(256, size=(size, 28, 28)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(size) % 10).astype(np.uint8)
    for name, array in arrays.items():
        write_idx(folder / f"{name}{suffix}", array, packed)
    return arrays


@pytest.mark.parametrize(("below", "packed"), [("", True), ("FashionMNIST/raw", False), ("fashion-mnist", True)])
def test_files_are_found_and_read(tmp_path: Path, below: str, packed: bool) -> None:
    root = tmp_path / "data"
    arrays = fashion(root / below, packed)
    found = data_sets.find(DataConfig(name="fashion-mnist", root=str(root), resolution=28, augment="none"))
    pixels, _ = found.train.augmented(np.arange(30), 0, 0, 28)
    assert (pixels[:, 0].numpy() == arrays["train-images-idx3-ubyte"]).all()
    assert (found.validation.labels == arrays["t10k-labels-idx1-ubyte"]).all()
    assert (len(found.classes), found.target) == (10, 90.0)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    config = DataConfig(name="fashion-mnist", root=str(tmp_path / "data"), resolution=28)
    with pytest.raises(UserError, match="apt install dataset-fashion-mnist"):
        data_sets.find(config)
    fashion(tmp_path / "data")
    labels = tmp_path / "data" / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-12])
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is broken"):
        data_sets.find(config)
    labels.write_bytes(b"hello")
    with pytest.raises(UserError, match="is broken"):
        data_sets.find(config)
    write_idx(labels, np.zeros(11, np.uint8), packed=True)
    with pytest.raises(UserError, match="do not belong together"):
        data_sets.find(config)
    labels.unlink()
    with pytest.raises(UserError, match=r"has no t10k-labels-idx1-ubyte\.gz"):
        data_sets.find(config)


@pytest.mark.skipif(not small_data.FASHION_ROOTS[0].exists(), reason="dataset-fashion-mnist is not installed")
def test_normalization_is_that_of_the_pixels() -> None:
    found = data_sets.find(DataConfig(name="fashion-mnist", resolution=28, augment="none"))
    assert (len(found.train), len(found.validation)) == (60_000, 10_000)
    pixels, _ = found.train.augmented(np.arange(60_000), 0, 0, 28)
    x = found.normalization.apply(pixels)
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3


def test_digits() -> None:
    pytest.importorskip("sklearn")
    found, again = (data_sets.find(DataConfig(name="digits", resolution=8, augment="none")) for _ in range(2))
    assert len(found.train) + len(found.validation) == 1797
    counts = np.bincount(found.validation.labels), np.bincount(found.train.labels)
    assert np.abs(counts[0] / (counts[0] + counts[1]) - 0.2).max() < 0.005
    assert (found.train.labels == again.train.labels).all()
    x = found.normalization.apply(found.train.augmented(np.arange(len(found.train)), 0, 0, 8)[0])
    assert abs(float(x.mean())) < 2e-3
    assert abs(float(x.std()) - 1) < 2e-3


def test_train_size_is_a_fixed_part() -> None:
    pytest.importorskip("sklearn")
    options = {"name": "digits", "resolution": 8, "augment": "none"}
    small, large, whole = (data_sets.find(DataConfig(**options, train_size=n)) for n in (100, 500, None))  # type: ignore[arg-type]
    assert (len(small.train), len(large.train)) == (100, 500)
    images = [set(map(bytes, s.train.augmented(np.arange(len(s.train)), 0, 0, 8)[0].numpy())) for s in (small, large)]
    assert images[0] < images[1]
    assert len(whole.validation) == len(small.validation)


def test_held_out_images_are_training_images_that_nothing_trains_on() -> None:
    """And the images to train on are the same with them and without."""
    plain = data_sets.find(DataConfig(name="digits", augment="none", resolution=8, train_size=500))
    apart = data_sets.find(DataConfig(name="digits", augment="none", resolution=8, train_size=500, held_out=300))
    assert len(apart.validation) == 300

    def images(split: Split) -> set[bytes]:
        (batch, _) = next(iter(split.plain([np.arange(len(split))], 0)))
        return {image.numpy().tobytes() for image in batch}

    assert images(apart.train) == images(plain.train)
    assert len(images(apart.validation) & images(apart.train)) == 0
    assert len(images(apart.validation) & images(plain.validation)) == 0
    rest = data_sets.find(DataConfig(name="digits", augment="none", resolution=8, held_out=300))
    assert len(rest.train) == len(data_sets.find(DataConfig(name="digits", augment="none", resolution=8)).train) - 300
    with pytest.raises(UserError, match=r"--data.held-out 1400: digits has 1433 training images, 500 in use"):
        data_sets.find(DataConfig(name="digits", augment="none", resolution=8, train_size=500, held_out=1400))
