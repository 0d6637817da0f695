"""Images of Hugging Face data sets saved on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.vision import data_sets
from tests.supervised.vision.images import COLOURS, picture
from tests.torchvision_ops import import_torchvision, needs_torchvision

import_torchvision()  # before datasets, which imports it
datasets = pytest.importorskip("datasets")
pytestmark = needs_torchvision


def saved(path: Path, splits: tuple[str, ...] = ("train", "validation"), label: Any = None, **rename: str) -> Path:
    kind = datasets.ClassLabel(names=list(COLOURS)) if label is None else datasets.Value("string")
    features = datasets.Features({"picture": datasets.Image(), "kind": kind})
    labels = [k % 3 for k in range(9)] if label is None else [label(k % 3) for k in range(9)]
    pictures = [picture(list(COLOURS)[k % 3], k) for k in range(9)]
    split = datasets.Dataset.from_dict({"picture": pictures, "kind": labels}, features=features)
    datasets.DatasetDict({name: split.rename_columns(rename) for name in splits}).save_to_disk(str(path))
    return path


def find(name: str, **options: Any) -> Any:
    return data_sets.find(DataConfig(name=name, resolution=16, augment="none", **options))


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_saved_to_disk(tmp_path: Path, prefix: str) -> None:
    found = find(f"{prefix}{saved(tmp_path / 'set')}", train_size=5)
    assert found.classes == tuple(COLOURS)
    assert (len(found.train), len(found.validation)) == (5, 9)
    images, _ = found.train.augmented(np.arange(5), 0, 0, 16)
    colours = images.float().mean((2, 3))
    assert (colours.argmax(1).numpy() == found.train.labels).all()


def test_labels_as_words(tmp_path: Path) -> None:
    words = ["plum", "apple", "pear"]
    found = find(f"hf:{saved(tmp_path / 'set', label=words.__getitem__, kind='label')}")
    assert found.classes == ("apple", "pear", "plum")
    assert found.train.labels.tolist() == [2, 0, 1] * 3


def test_other_images_at_the_same_place_have_another_fingerprint(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other", label=str, kind="label")
    first, again, second = (find(str(path), train_size=5).train.fingerprint() for path in (one, one, other))
    assert first == again != second
    one.rename(tmp_path / "moved")
    assert find(str(tmp_path / "moved"), train_size=5).train.fingerprint() == first


def test_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the splits train, extra: expected train and validation or"):
        find(f"hf:{saved(tmp_path / 'a', ('train', 'extra'))}")
    with pytest.raises(UserError, match=r"no column of labels.*picture \(Image\), kind \(Value\)"):
        find(f"hf:{saved(tmp_path / 'b', label=str)}")
    with pytest.raises(UserError, match=r"cannot be loaded.*ILSVRC/imagenet-1k"):
        find(f"hf:{tmp_path / 'nowhere'}")
    whole = tmp_path / "c"
    datasets.load_from_disk(str(tmp_path / "a"))["train"].save_to_disk(str(whole))
    with pytest.raises(UserError, match=r"is one split alone"):
        find(str(whole))
