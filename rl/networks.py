"""Q-networks: convolutional ones for frames (Nature's and IMPALA's), with their sizes as options, an MLP for vectors.

A network is a body, whose layers make features (batch, d) of scaled observations, and behind it the output that makes
action values of them, or whatever else `rl.algorithms.heads` gives a meaning to. Both lie in one `layers`:
parameters are named by their place in it.

Every network may be dueling, have noisy layers, LayerNorm and spectral normalization.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rl.convolution import Convolution, Output
from rl.dueling import DuelingOutput, Linear, Streams
from rl.impala import impala_layers
from rl.noisy import NoisyLinear
from rl.option_groups import NetworkConfig
from rl.spectral_norm import normalize_layers
from rl.tasks import ObservationSpec


def build_network(
    observation: ObservationSpec, num_actions: int, config: NetworkConfig, per_action: tuple[int, ...] = ()
) -> Network:
    """The Q-network that a configuration describes, freshly initialized from torch's generator.

    Args:
        per_action: shape of the outputs of one action, the head's (`rl.algorithms.heads`).
    """
    if config.cls is not None:
        from rl.own_network import own_network

        return own_network(observation, num_actions, config, per_action)
    kind = VectorQNetwork if len(observation.shape) == 2 else QNetwork
    return kind(observation, num_actions, config, per_action)


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

    def rounded_layers(self) -> list[nn.Module]:
        """The body's layers whose weights autocast rounds to bfloat16 as they are. (The user's own network is all
        output.)"""
        return [
            module
            for layer in self.body
            for module in layer.modules()
            if isinstance(module, nn.Conv2d | nn.Linear | NoisyLinear) and not parametrize.is_parametrized(module)
        ]

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
    (2015), "Human-level control through deep reinforcement learning", Methods. Of the kind "impala" the convolutions
    are `rl.impala`'s.

    LayerNorm stands before every ReLU (over channels and positions after a convolution), as in PQN.

    Pixels are scaled by 1/255 until `standardize` has been given frames.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        num_actions: int,
        config: NetworkConfig,
        per_action: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        *frames, height, width = observation.shape
        channels = math.prod(frames)  # of all frames of the stack
        if config.kind == "impala":
            body, shape = impala_layers(channels, height, width, config.width, config.layer_norm)
        else:
            body, shape = nature_layers(channels, height, width, config)
        sizes = [math.prod(shape), config.hidden]
        self.layers = assemble([*body, nn.Flatten()], sizes, num_actions, config, per_action)
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
        self,
        observation: ObservationSpec,
        num_actions: int,
        config: NetworkConfig,
        per_action: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        stack, size = observation.shape
        self.layers = assemble([], [stack * size, *config.units], num_actions, config, per_action)
        factor = 1 / torch.tensor(observation.scale, dtype=torch.float64)
        offset = -torch.tensor(observation.center, dtype=torch.float64) * factor
        self.register_buffer("factor", factor.float().repeat(stack))
        self.register_buffer("offset", offset.float().repeat(stack))

    def scaled(self, observation: Tensor) -> Tensor:
        return torch.addcmul(self.offset, observation.flatten(1), self.factor)


def nature_layers(
    inputs: int, height: int, width: int, config: NetworkConfig
) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """Convolutions with ReLUs for pictures (batch, inputs, height, width), and the shape that comes out."""
    layers: list[nn.Module] = []
    for channels, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
        norm = [nn.GroupNorm(1, channels)] if config.layer_norm else []
        layers += [Convolution(inputs, channels, kernel, stride), *norm, nn.ReLU()]
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        if height < 1 or width < 1:
            raise ValueError(f"the frames are too small for convolutions with kernels {config.kernels}")
        inputs = channels
    return layers, (inputs, height, width)


def assemble(
    body: Sequence[nn.Module],
    sizes: Sequence[int],
    num_actions: int,
    config: NetworkConfig,
    per_action: tuple[int, ...],
) -> nn.Sequential:
    """All layers of a network: the `body` so far, then fully connected ones with ReLUs, from `sizes[0]` inputs to
    `sizes[-1]`, then the output. Of a dueling network the last hidden layer is there twice (`rl.dueling`)."""
    linear: Linear = functools.partial(NoisyLinear, sigma=config.noisy_sigma) if config.noisy else nn.Linear

    def hidden(inputs: int, outputs: int) -> list[nn.Module]:
        return [linear(inputs, outputs), *([nn.LayerNorm(outputs)] if config.layer_norm else [])]

    layers, features = list(body), sizes[-1]
    *others, last = itertools.pairwise(sizes)
    for pair in others:
        layers += [*hidden(*pair), nn.ReLU()]
    if config.dueling:
        streams = Streams(*(nn.Sequential(*hidden(*last)) for _ in range(2)))
        layers += [streams, nn.ReLU(), DuelingOutput(2 * features, num_actions, per_action, linear)]
    else:
        layers += [*hidden(*last), nn.ReLU()]
        shape = (num_actions, *per_action)
        plain: Linear = Output if not config.noisy and not per_action else linear  # few outputs, not noisy
        output = plain(features, math.prod(shape))
        layers.append(nn.Sequential(output, nn.Unflatten(1, shape)) if per_action else output)
    normalize_layers(layers, config.spectral_norm or ())
    return nn.Sequential(*layers)
