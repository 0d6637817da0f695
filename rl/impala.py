"""The residual network of IMPALA (Espeholt et al. 2018, arXiv 1802.01561, figure 3, right), without its LSTM."""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = (16, 32, 32)  # of its three sections
BLOCKS = 2  # residual blocks in a section


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3 x 3; with `layer_norm` it stands before either ReLU."""

    def __init__(self, channels: int, layer_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [*_activation(channels, layer_norm), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


def impala_layers(
    inputs: int, height: int, width: int, factor: int, layer_norm: bool
) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """The layers for pictures (batch, inputs, height, width), and the shape (channels, height, width) that comes out.

    Each section is a convolution, a maximum over 3 x 3 pixels that halves both sides, and two residual blocks.

    Args:
        factor: on the channels of all sections; 1 is the paper's network.
    """
    layers: list[nn.Module] = []
    for channels in (factor * one for one in CHANNELS):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(channels, layer_norm) for _ in range(BLOCKS)]
        inputs, height, width = channels, (height + 1) // 2, (width + 1) // 2
    return [*layers, *_activation(inputs, layer_norm)], (inputs, height, width)


def _activation(channels: int, layer_norm: bool) -> list[nn.Module]:
    return [*([nn.GroupNorm(1, channels)] if layer_norm else []), nn.ReLU()]
