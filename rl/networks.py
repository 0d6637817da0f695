"""Q-networks: the convolutional one of Mnih et al. (2015), with its sizes as options, and an MLP for vectors.

A network is a body, whose layers make features (batch, d) of scaled observations, and behind it the output that makes
action values of them, or whatever else `rl.algorithms.heads` gives a meaning to. Both lie in one `layers`:
parameters are named by their place in it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rl.config import NetworkConfig
from rl.tasks import ObservationSpec

Output = Callable[[int, int], nn.Module]  # (features d, actions A) -> module: (batch, d) -> (batch, A, ...)


def build_network(observation: ObservationSpec, num_actions: int, config: NetworkConfig) -> Network:
    """The Q-network that a configuration describes, freshly initialized from torch's generator."""
    if config.cls is not None:
        from rl.own_network import own_network

        return own_network(observation, num_actions, config)
    kind = VectorQNetwork if len(observation.shape) == 2 else QNetwork
    return kind(observation, num_actions, config)


class Network(nn.Module):
    """Action values Q(s, a) of observations.

    Under autocast only the body computes in bfloat16. Near 8 its numbers lie 0.06 apart, more than most advantages:
    the output is made of float32 weights and sums, so that close actions are told apart.

    Attributes:
        layers: the body's layers and, last, the output's.
    """

    layers: nn.Sequential

    @property
    def body(self) -> list[nn.Module]:
        """The layers that make the features."""
        return list(self.layers)[:-1]

    def forward(self, observation: Tensor) -> Tensor:
        """Outputs (batch, A, ...), float32, of observations (batch, stack, *frame)."""
        features = self.scaled(observation)
        for layer in self.body:
            features = layer(features)
        with torch.autocast(features.device.type, enabled=False):
            output: Tensor = self.layers[-1](features.float())
        return output

    def scaled(self, observation: Tensor) -> Tensor:
        """What the layers see of observations."""
        raise NotImplementedError


class QNetwork(Network):
    """Of stacked frames, uint8: convolutions, one hidden layer, the output.

    With channels (32, 64, 64), kernels (8, 4, 3), strides (4, 2, 1) and hidden 512 this is the network of Mnih et al.
    (2015), "Human-level control through deep reinforcement learning", Methods.

    LayerNorm stands before every ReLU (over channels and positions after a convolution), as in PQN. `output` is what
    comes after the last hidden layer.

    Pixels are scaled by 1/255 until `standardize` has been given frames.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, observation: ObservationSpec, num_actions: int, config: NetworkConfig, output: Output = nn.Linear
    ) -> None:
        super().__init__()
        *channels_of_each, height, width = observation.shape
        inputs = math.prod(channels_of_each)
        body: list[nn.Module] = []
        for channels, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            norm = [nn.GroupNorm(1, channels)] if config.layer_norm else []
            body += [nn.Conv2d(inputs, channels, kernel, stride), *norm, nn.ReLU()]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if height < 1 or width < 1:
                raise ValueError(f"the frames are too small for convolutions with kernels {config.kernels}")
            inputs = channels
        body += [nn.Flatten(), *dense([inputs * height * width, config.hidden], config.layer_norm)]
        self.layers = nn.Sequential(*body, output(config.hidden, num_actions))
        self.register_buffer("offset", torch.zeros(*observation.frame))
        self.register_buffer("scale", torch.tensor(1 / 255))

    @torch.no_grad()
    def standardize(self, frames: Tensor) -> None:
        """Fix the input scaling to (x - mean pixel) / standard deviation around it.

        Args:
            frames: (n, height, width) or (n, C, height, width) uint8, single frames of the game, for instance those of
                the random phase.

        What never moves vanishes and what moves is large. On a 42 x 42 Pong screen the ball is about a quarter of
        a pixel's range on a bright, constant background; scaled by 1/255 alone, it hardly shows in the gradient.
        The mean is rounded to whole grey levels, so that the difference is exact in bfloat16 too.
        """
        pixels = frames.float()
        self.offset.copy_(pixels.mean(0).round())
        deviation = (pixels - self.offset).square().mean().sqrt()
        self.scale.copy_(1 / deviation.clamp(min=1.0))

    def scaled(self, observation: Tensor) -> Tensor:
        device_type = observation.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torch.float32
        # Whole grey levels up to 256 are exact in bfloat16: converting first costs half the memory traffic.
        pixels = observation.to(dtype).sub_(self.offset.to(dtype)).mul_(self.scale.to(dtype))
        return pixels.flatten(1, -3)  # the frames of a stack are channels, like those of a frame


class VectorQNetwork(Network):
    """Of vectors, float32: an MLP with ReLUs, and the output. The layers see (x - center) / scale."""

    offset: Tensor
    factor: Tensor

    def __init__(
        self, observation: ObservationSpec, num_actions: int, config: NetworkConfig, output: Output = nn.Linear
    ) -> None:
        super().__init__()
        stack, size = observation.shape
        sizes = [stack * size, *config.units]
        self.layers = nn.Sequential(*dense(sizes, config.layer_norm), output(sizes[-1], num_actions))
        factor = 1 / torch.tensor(observation.scale, dtype=torch.float64)
        offset = -torch.tensor(observation.center, dtype=torch.float64) * factor
        self.register_buffer("factor", factor.float().repeat(stack))
        self.register_buffer("offset", offset.float().repeat(stack))

    def scaled(self, observation: Tensor) -> Tensor:
        return torch.addcmul(self.offset, observation.flatten(1), self.factor)


def dense(sizes: Sequence[int], layer_norm: bool) -> list[nn.Module]:
    """Fully connected layers with ReLUs, from `sizes[0]` inputs to `sizes[-1]` outputs."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if layer_norm else []), nn.ReLU()]
    return layers
