"""Q-networks: the convolutional one of Mnih et al. (2015), with its sizes as options, and an MLP for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl.config import NetworkConfig
from rl.tasks import ObservationSpec


def build_network(observation: ObservationSpec, num_actions: int, config: NetworkConfig) -> QNetwork | VectorQNetwork:
    """The Q-network that a configuration describes, freshly initialized from torch's generator."""
    if len(observation.shape) == 2:
        stack, size = observation.shape
        return VectorQNetwork(
            num_actions,
            (stack, size),
            config.units,
            config.layer_norm,
            center=observation.center,
            scale=observation.scale,
        )
    stack, height, width = observation.shape
    return QNetwork(
        num_actions,
        (stack, height, width),
        channels=config.channels,
        kernels=config.kernels,
        strides=config.strides,
        hidden=config.hidden,
        layer_norm=config.layer_norm,
    )


class QNetwork(nn.Module):
    """Action values Q(s, a) of stacked frames: convolutions, one hidden layer, one linear output per action.

    With channels (32, 64, 64), kernels (8, 4, 3), strides (4, 2, 1) and hidden 512 this is the network of Mnih et al.
    (2015), "Human-level control through deep reinforcement learning", Methods.

    Args:
        num_actions: number of actions A.
        observation_shape: (stack, height, width) of an observation.
        channels, kernels, strides: one entry per convolution.
        hidden: units of the hidden layer.
        layer_norm: normalize before every ReLU (over channels and positions after a convolution), as PQN does.

    Pixels are scaled by 1/255 until `standardize` has been given frames.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        num_actions: int,
        observation_shape: tuple[int, int, int],
        channels: Sequence[int] = (32, 64, 64),
        kernels: Sequence[int] = (8, 4, 3),
        strides: Sequence[int] = (4, 2, 1),
        hidden: int = 512,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        in_channels, height, width = observation_shape
        layers: list[nn.Module] = []
        for out_channels, kernel, stride in zip(channels, kernels, strides, strict=True):
            layers.append(nn.Conv2d(in_channels, out_channels, kernel, stride))
            if layer_norm:
                layers.append(nn.GroupNorm(1, out_channels))
            layers.append(nn.ReLU())
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if height < 1 or width < 1:
                raise ValueError(f"the frames are too small for convolutions with kernels {list(kernels)}")
            in_channels = out_channels
        layers += [nn.Flatten(), nn.Linear(in_channels * height * width, hidden)]
        if layer_norm:
            layers.append(nn.LayerNorm(hidden))
        layers += [nn.ReLU(), nn.Linear(hidden, num_actions)]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("offset", torch.zeros(observation_shape[1:]))
        self.register_buffer("scale", torch.tensor(1 / 255))

    @torch.no_grad()
    def standardize(self, frames: Tensor) -> None:
        """Fix the input scaling to (x - mean pixel) / standard deviation around it.

        Args:
            frames: (n, height, width) uint8, single frames of the game, for instance those of the random phase.

        What never moves vanishes and what moves is large. On a 42 x 42 Pong screen the ball is about a quarter of
        a pixel's range on a bright, constant background; scaled by 1/255 alone, it hardly shows in the gradient.
        The mean is rounded to whole grey levels, so that the difference is exact in bfloat16 too.
        """
        pixels = frames.float()
        self.offset.copy_(pixels.mean(0).round())
        deviation = (pixels - self.offset).square().mean().sqrt()
        self.scale.copy_(1 / deviation.clamp(min=1.0))

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values (batch, A), float32, of uint8 observations (batch, stack, height, width)."""
        device_type = observation.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torch.float32
        # Whole grey levels up to 256 are exact in bfloat16: converting first costs half the memory traffic.
        pixels = observation.to(dtype).sub_(self.offset.to(dtype)).mul_(self.scale.to(dtype))
        values: Tensor = self.layers(pixels)
        return values.float()


class VectorQNetwork(nn.Module):
    """Action values Q(s, a) of vectors: an MLP with ReLUs and one linear output per action.

    Args:
        num_actions: number of actions A.
        observation_shape: (stack, d) of an observation.
        units: units of each hidden layer.
        layer_norm: normalize before every ReLU.
        center, scale: d numbers each, or one for all: the layers see (x - center) / scale.
    """

    offset: Tensor
    factor: Tensor

    def __init__(
        self,
        num_actions: int,
        observation_shape: tuple[int, int],
        units: Sequence[int] = (64, 64),
        layer_norm: bool = False,
        center: Sequence[float] = (0.0,),
        scale: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        stack, size = observation_shape
        layers: list[nn.Module] = []
        inputs = stack * size
        for outputs in units:
            layers.append(nn.Linear(inputs, outputs))
            if layer_norm:
                layers.append(nn.LayerNorm(outputs))
            layers.append(nn.ReLU())
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, num_actions))
        factor = 1 / torch.tensor(scale, dtype=torch.float64).expand(size)
        offset = -torch.tensor(center, dtype=torch.float64).expand(size) * factor
        self.register_buffer("factor", factor.float().repeat(stack))
        self.register_buffer("offset", offset.float().repeat(stack))

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values (batch, A), float32, of float32 observations (batch, stack, d)."""
        values: Tensor = self.layers(torch.addcmul(self.offset, observation.flatten(1), self.factor))
        return values.float()
