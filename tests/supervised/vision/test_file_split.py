"""Images read from files: augmentation, evaluation, those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from supervised.option_groups import DataConfig
from supervised.vision import data_sets
from supervised.vision.file_split import FileSplit
from supervised.vision.splits import IMAGENET
from tests.supervised.vision.images import make_folder, picture
from tests.torchvision_ops import import_torchvision, needs_torchvision

pytest.importorskip("PIL")
import_torchvision()
pytestmark = needs_torchvision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


def splits(folder: Path, **options) -> tuple[FileSplit, FileSplit]:  # type: ignore[no-untyped-def]
    found = data_sets.find(DataConfig(name=str(folder), **{"resolution": 32} | options))
    assert isinstance(found.train, FileSplit)
    assert isinstance(found.validation, FileSplit)
    return found.train, found.validation


@pytest.mark.parametrize("augment", ["crop-flip", "trivial"])
def test_a_sample_is_the_same_in_every_batch(folder: Path, augment: str) -> None:
    train, _ = splits(folder, augment=augment, random_erasing=0.5)
    state = torch.get_rng_state()
    together, used = train.augmented(np.arange(18), 1, 3, 24)
    assert together.shape == (18, 3, 24, 24)
    assert (used == np.arange(18)).all()
    for index in (0, 7, 17):
        torch.manual_seed(index)
        assert torch.equal(train.augmented(np.array([index]), 1, 3, 24)[0][0], together[index])
    torch.set_rng_state(state)
    assert not torch.equal(train.augmented(np.arange(18), 1, 4, 24)[0], together)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_whole_image_is_what_the_transform_gives(tmp_path: Path) -> None:
    """Where the crop is the whole image, the augmented one is the image, scaled, or its mirror image."""
    from torchvision.transforms import v2

    train, _ = splits(make_folder(tmp_path), augment="crop-flip")
    train._augmentation._crop = v2.RandomResizedCrop(1, scale=(1, 1), ratio=(40 / 32, 40 / 32))
    for index in range(6):
        with train._source.image(index) as image:
            expected = np.array(image.convert("RGB").resize((16, 16), 2))
        found = train.augmented(np.array([index]), 0, 0, 16)[0][0].permute(1, 2, 0).numpy()
        tolerance = 0 if train._source.name(index).endswith("png") else 4  # JPEGs are decoded at half of their size
        near, far = sorted(np.abs(x.astype(int) - expected).mean() for x in (found, found[:, ::-1]))
        assert near <= tolerance < 8 < far


@pytest.mark.parametrize("size", [(500, 375), (300, 451), (256, 256)])
def test_evaluation_is_torchvisions(tmp_path: Path, size: tuple[int, int]) -> None:
    from torchvision.models import ResNet50_Weights

    root = make_folder(tmp_path, 1, 1)
    image = picture("cat", 1, size)
    image.save(root / "val" / "cat" / "0.png")
    (root / "val" / "cat" / "0.jpg").unlink()
    _, validation = splits(root, resolution=224)
    (pixels, _) = next(validation.plain([np.array([0])], 0))
    expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(image)
    torch.testing.assert_close(IMAGENET.apply(pixels)[0], expected, rtol=0, atol=1e-5)


def test_workers_read_what_this_process_reads(folder: Path) -> None:
    _, validation = splits(folder)
    batches = [np.array([0, 5]), np.array([8, 1, 2]), np.array([3])]
    for (ours, _), (theirs, readable) in zip(validation.plain(batches, 0), validation.plain(batches, 2), strict=True):
        assert torch.equal(ours, theirs)
        assert bool(readable.all())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder in which images 2, 3 and the last one of the training images cannot be read, and one for validation."""
    root = make_folder(tmp_path)
    (root / "train" / "cat" / "2.jpg").write_bytes(b"")
    whole = (root / "train" / "cat" / "3.png").read_bytes()
    (root / "train" / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "fish" / "5.png").write_text("<html>not found</html>")
    (root / "val" / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    return root


def test_the_next_image_takes_the_place_of_one_that_cannot_be_read(broken: Path) -> None:
    train, validation = splits(broken, bad_share=0.2, augment="none")
    indices = np.array([17, 2, 5, 3])
    images, used = train.augmented(indices, 0, 0, 32)
    assert used.tolist() == [0, 4, 5, 4]
    assert torch.equal(images, train.augmented(used, 0, 0, 32)[0])
    said: list[str] = []
    for _ in range(2):
        train.bad.tell(said.append, "another takes its place")
    assert len(said) == 3
    assert all("cannot be read, another takes its place: " in line for line in said)
    assert ["2.jpg" in said[0], "3.png" in said[1], "5.png" in said[2]] == [True] * 3
    (pixels, readable) = next(validation.plain([np.arange(9)], 0))
    assert readable.tolist() == [k != 4 for k in range(9)]
    assert pixels[4].max() == 0


def test_workers_share_what_they_find(broken: Path) -> None:
    train, _ = splits(broken, bad_share=0.2)
    list(train.plain([np.arange(9), np.arange(9, 18)], 2))
    assert train.bad.found().tolist() == [2, 3, 17]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_that_cannot_be_read(broken: Path, workers: int) -> None:
    train, _ = splits(broken, bad_share=0.15)
    message = r"3 of 18 images cannot be read, more than --data.bad-share 0.15.*2\.jpg.*3\.png.*5\.png.*allow more"
    with pytest.raises(UserError, match=message):
        list(train.plain([np.arange(18)], workers))
    with pytest.raises(UserError, match=r"images cannot be read"):
        splits(broken, bad_share=0.0)[0].augmented(np.array([2]), 0, 0, 32)


def test_a_fault_of_the_transform_is_no_bad_image(folder: Path) -> None:
    train, _ = splits(folder)
    train._augmentation = lambda image, side, seed: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        train.augmented(np.array([0]), 0, 0, 32)
    assert not len(train.bad.found())


def test_many_are_counted(folder: Path) -> None:
    from supervised.vision.bad_images import NAMED, BadImages

    bad, said = BadImages(100, 0.9, lambda index: f"image {index}"), list[str]()
    for index in range(30):
        bad.add(index)
    bad.tell(said.append, "left out")
    assert len(said) == NAMED + 1
    assert said[-1] == "30 images cannot be read so far, left out"
    bad.add(40)
    bad.tell(said.append, "left out")
    assert said[-1] == "31 images cannot be read so far, left out"
