"""Models that classify images, by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL_CNN = "small-cnn"


class SmallCNN(nn.Module):
    """Two strided convolutions and two linear layers, about 156,000 parameters: for studies, which train hundreds.

    Without batch normalization, so that several processes compute what one does. Larger images than 28 x 28 are pooled
    to 7 x 7 behind the convolutions.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.side = min(7, -(-side // 4))
        self.hidden = nn.Linear(32 * self.side**2, 96)
        self.head = nn.Linear(96, classes)
        for layer in (self.conv1, self.conv2, self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        if x.shape[-1] != self.side:
            x = nn.functional.adaptive_avg_pool2d(x, self.side)
        logits: Tensor = self.head(torch.relu(self.hidden(x.flatten(1))))
        return logits


def channels(name: str, of_data: int) -> int:
    """Channels that a model takes: torchvision's always three, so that grey images are given to them three times, and
    every model has the size that its paper says."""
    return of_data if name == SMALL_CNN else 3


def make(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """The model of this name, drawn from the global generator.

    Args:
        channels: that it takes, see `channels`.
        side: pixels of the training images' sides.

    Raises:
        UserError: there is none of this name; says the nearest ones.
    """
    if name == SMALL_CNN:
        return SmallCNN(channels, side, classes)
    from supervised.vision.torchvision_models import make as make_torchvision

    return make_torchvision(name, side, classes)


def check_sides(name: str, sides: Sequence[int]) -> None:
    """Refuse a model that there is not, or sizes of images that it cannot take, before anything is computed.

    Args:
        sides: pixels of the images' sides, those at the end of training first.

    Raises:
        UserError: says what is wrong and what to do.
    """
    if name != SMALL_CNN:
        from supervised.vision import torchvision_models

        torchvision_models.check_sides(name, sides)
