"""Images that are held in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from supervised.vision import draws
from supervised.vision.in_memory import MemorySplit
from tests.torchvision_ops import needs_torchvision

IMAGES = np.random.default_rng(0).integers(1, 256, (50, 24, 24)).astype(np.uint8)


def split(**options) -> MemorySplit:  # type: ignore[no-untyped-def]
    return MemorySplit(IMAGES, np.arange(50), side=24, **options)


def test_crops_and_flips_are_those_of_a_plain_loop() -> None:
    indices = np.array([7, 3, 49, 0, 7])
    found, used = split(augment="crop-flip").augmented(indices, seed=5, epoch=2, side=24)
    assert (used == indices).all()
    padded = F.pad(torch.from_numpy(IMAGES), (2, 2, 2, 2))
    numbers = draws.uniform(5, 2, indices, 3)
    for image, index, (row, column, flip) in zip(found, indices, numbers, strict=True):
        top, left = int(row * 5), int(column * 5)
        expected = padded[index, top : top + 24, left : left + 24]
        assert torch.equal(image[0], expected.flip(1) if flip < 0.5 else expected)


def test_a_fingerprint_is_of_pixels_and_labels() -> None:
    pixels, labels = IMAGES.copy(), np.arange(50)
    pixels[7, 3, 3] += 1
    labels[[4, 5]] = labels[[5, 4]]
    found = [MemorySplit(*data, side=24) for data in ((pixels, np.arange(50)), (IMAGES, labels))]
    part = split()
    part.subset(np.arange(49))
    assert split().fingerprint() == split().fingerprint()
    assert len({one.fingerprint() for one in (split(), part, *found)}) == 4


@pytest.mark.parametrize(
    "options",
    [{"augment": "crop-flip", "erasing": 0.5}, pytest.param({"augment": "trivial"}, marks=needs_torchvision)],
)
def test_a_sample_is_the_same_in_every_batch(options: dict[str, object]) -> None:
    data, state = split(**options), torch.get_rng_state()
    together, _ = data.augmented(np.arange(20), 1, 3, 24)
    for index in (0, 11, 19):
        alone, _ = data.augmented(np.array([index]), 1, 3, 24)
        assert torch.equal(alone[0], together[index])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(data.augmented(np.arange(20), 1, 4, 24)[0], together)
    assert not torch.equal(data.augmented(np.arange(20), 2, 3, 24)[0], together)


def test_all_places_are_taken_and_half_is_mirrored() -> None:
    image = np.zeros((1, 24, 24), np.uint8)
    image[0, 12, 10] = 255  # mirrored: column 13
    data = MemorySplit(image, np.zeros(1, int), side=24, augment="crop-flip")
    places = [
        tuple(int(k) for k in data.augmented(np.array([0]), 0, epoch, 24)[0][0, 0].nonzero()[0]) for epoch in range(600)
    ]
    rows, columns = ({place[k] for place in places} for k in (0, 1))
    assert rows == set(range(10, 15))
    assert columns == set(range(8, 13)) | set(range(11, 16))
    unmirrored = MemorySplit(image, np.zeros(1, int), side=24, augment="crop-flip", flips=False)
    columns = {int(unmirrored.augmented(np.array([0]), 0, e, 24)[0][0, 0].nonzero()[0][1]) for e in range(100)}
    assert columns == set(range(8, 13))


def test_evaluated_images_are_the_images() -> None:
    (pixels, readable), (rest, _) = split(augment="crop-flip").plain([np.arange(30), np.arange(30, 50)], 0)
    assert torch.equal(torch.cat([pixels, rest])[:, 0], torch.from_numpy(IMAGES))
    assert bool(readable.all())


def test_scaled_and_erased() -> None:
    data = split(augment="none", erasing=0.4)
    found, _ = data.augmented(np.arange(50), 0, 0, 24)
    changed = (found[:, 0] != torch.from_numpy(IMAGES)).flatten(1).float().mean(1)
    assert 0.2 < (changed > 0).float().mean() < 0.6
    assert changed.max() < 0.4
    assert data.augmented(np.arange(3), 0, 0, 12)[0].shape == (3, 1, 12, 12)
    assert data.augmented(np.zeros(0, np.int64), 0, 0, 24)[0].shape == (0, 1, 24, 24)


def test_subset() -> None:
    data = split()
    data.subset(np.array([4, 40]))
    assert len(data) == 2
    assert torch.equal(next(data.plain([np.array([1])], 0))[0][0, 0], torch.from_numpy(IMAGES[40]))
