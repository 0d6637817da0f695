"""Models by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.cli.errors import UserError
from supervised.vision import models
from tests.torchvision_ops import needs_torchvision


def fitted(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, updates: int, lr: float) -> float:
    """Share of right answers, in evaluation mode, after so many updates on the same images."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for k in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / updates)  # so that batch statistics settle
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 8)])
def test_small_cnn_learns_noise_by_heart(channels: int, side: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(32, channels, side, side), torch.randint(10, (32,))
    assert fitted(models.make("small-cnn", channels, side, 10), images, labels, 60, 3e-3) == 1.0


def test_small_cnn_takes_other_sizes_and_has_no_buffers() -> None:
    model = models.make("small-cnn", 3, 64, 7)
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 7)
    assert not list(model.buffers())  # so that several processes compute what one does
    assert 50_000 < sum(p.numel() for p in models.make("small-cnn", 1, 28, 10).parameters()) < 200_000


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_resnets_learn_noise_by_heart(name: str) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(5, (8,))
    assert fitted(models.make(name, 3, 32, 5), images, labels, 50, 1e-3) == 1.0


@needs_torchvision
@pytest.mark.parametrize(("name", "side"), [("resnet50", 32), ("vit_b_16", 48), ("inception_v3", 96), ("swin_t", 64)])
def test_torchvision_models_have_the_classes_of_the_data(name: str, side: int) -> None:
    with torch.device("meta"):
        model = models.make(name, 3, side, 7)
        assert model(torch.empty(2, 3, side, side)).shape == (2, 7)
    models.check_sides(name, [side])


@needs_torchvision
@pytest.mark.parametrize(
    ("name", "sides", "message"),
    [
        ("resnt50", [224], "--model resnt50: must be small-cnn or a classifier of torchvision; did you mean resnet50"),
        ("ResNet-50", [224], "did you mean resnet50"),
        ("fasterrcnn_resnet50_fpn", [224], "must be small-cnn or a classifier"),
        ("alexnet", [224, 28, 224], "28 pixels are too few"),
        ("vit_b_16", [220], "220"),
        ("vit_b_16", [224, 128, 224], "takes images of one size"),
    ],
)
def test_wrong_names_and_sizes(name: str, sides: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.check_sides(name, sides)


def test_grey_images_are_given_to_torchvision_three_times() -> None:
    assert (models.channels("resnet50", 1), models.channels("small-cnn", 1), models.channels("small-cnn", 3)) == (
        3,
        1,
        3,
    )
