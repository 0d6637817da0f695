"""Folders of images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.vision import data_sets
from supervised.vision.image_folder import open_folders
from tests.supervised.vision.images import COLOURS, make_folder, picture
from tests.torchvision_ops import import_torchvision, needs_torchvision

pytest.importorskip("PIL")
import_torchvision()


@needs_torchvision
def test_classes_and_files_are_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = make_folder(tmp_path)
    deep = root / "train" / "dog" / "more"
    deep.mkdir()
    picture("dog", 5).save(deep / "a.png")
    (root / "train" / "dog" / "notes.txt").write_text("no image")
    train, validation = open_folders(root)
    for found, split in ((train, "train"), (validation, "val")):
        theirs = ImageFolder(str(root / split))
        ours = [(found.name(k), int(found.labels[k])) for k in range(len(found.labels))]
        assert sorted(ours) == sorted(theirs.samples)
        assert list(found.classes) == theirs.classes
    assert [int(n) for n in np.bincount(train.labels)] == [6, 7, 6]


def test_a_fingerprint_is_of_names_and_sizes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", 2, 1)
    before = [source.fingerprint() for source in open_folders(root)]
    root.rename(tmp_path / "moved")
    train, validation = open_folders(tmp_path / "moved")
    assert [train.fingerprint(), validation.fingerprint()] == before
    image = tmp_path / "moved" / "train" / "dog" / "1.png"
    with image.open("ab") as file:
        file.write(b"1")
    found = [train.fingerprint()]
    image.unlink()
    found.append(train.fingerprint())
    picture("dog", 1).save(image.with_name("2.png"))
    found.append(open_folders(tmp_path / "moved")[0].fingerprint())
    assert len({before[0], *found}) == 4
    assert validation.fingerprint() == before[1]


def find(folder: Path) -> None:
    data_sets.find(DataConfig(name=str(folder), resolution=32))


@needs_torchvision
def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder.*FOLDER/train/CLASS.*hf:ILSVRC/imagenet-1k"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no data set: expected FOLDER/train/CLASS.*hf:ILSVRC/imagenet-1k"):
        find(tmp_path)
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    with pytest.raises(UserError, match=r"unpack them once with torchvision"):
        find(tmp_path)


@needs_torchvision
def test_what_a_folder_lacks(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", 2, 1)
    shutil.rmtree(root / "val" / "fish")
    with pytest.raises(UserError, match=r"3 classes for training, 2 for validation: 1 of the classes.*\(fish\)"):
        find(root)
    (root / "val" / "fish").mkdir()
    with pytest.raises(UserError, match=r"no images of 1 of its 3 classes \(fish\)"):
        find(root)
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match=r"has no folder val: move some images of each class"):
        find(root)
    (root / "val").mkdir()
    for name in COLOURS:
        picture(name, 0).save(root / "val" / f"{name}.png")
    with pytest.raises(UserError, match=r"needs a folder for each class.*3 images that stand in no class"):
        find(root)
    shutil.rmtree(root / "train")
    with pytest.raises(UserError, match=r"has no folder train"):
        find(root)
