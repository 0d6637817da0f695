"""Noisy layers (Fortunato et al. 2018, "Noisy Networks for Exploration", arXiv 1706.10295): exploration is learned.

A noisy layer computes with weights mu + sigma * epsilon, mu and sigma learned. The noise is factorized (sections 3 and
3.2 there): epsilon_ij = f(e_i) f(e_j) with one Gaussian number per input and output, f(x) = sgn(x) sqrt(|x|).

A layer has noise only while a `Noise` is applied to its network; without one it computes with mu. So whoever evaluates,
records or plays has nothing to switch off, and draws nothing: agents are evaluated without noise, as in Dopamine.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGMA = 0.5  # sigma_0 of the paper for factorized noise, in DQN and in Rainbow


class NoisyLinear(nn.Module):
    """(..., inputs) -> (..., outputs): y = (mu + sigma * f(e_out) f(e_in)^T) x + mu_b + sigma_b * f(e_out).

    mu begins as `torch.nn.Linear` does, uniform within 1/sqrt(inputs), sigma at `sigma`/sqrt(inputs): the paper's
    section 3.2.

    Attributes:
        noise: f(e) of the inputs (n, inputs) and of the outputs (n, outputs), n either 1 or one of each sample; None:
            there is none.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float = SIGMA) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))
        self.noise: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.noise is None:
            return y
        # The product with the noise on its inputs and outputs: no matrix of noise is ever made, and samples may have
        # noise of their own.
        of_inputs, of_outputs = self.noise
        return y + of_outputs * F.linear(x * of_inputs, self.weight_sigma, self.bias_sigma)


class Noise:
    """Noise for all noisy layers of a network, if it has any, from a generator of its own.

    `draw` fills tensors that stay where they are, with one call of the generator and no synchronization: it may be
    part of a CUDA graph (then register `generator` with it) or come before one is replayed.

    Args:
        seed: of the generator.
        samples: 1: the same noise for all samples of a batch; else the size of the batch, each sample with its own.

    Attributes:
        silent: whether `applied` applies none.
    """

    silent = False

    def __init__(self, network: nn.Module, seed: int, samples: int = 1) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, NoisyLinear)]
        if not self._layers:
            return
        sizes = [size for layer in self._layers for size in (layer.inputs, layer.outputs)]
        device = self._layers[0].weight.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._values = torch.zeros(samples, sum(sizes), device=device)
        views = self._values.split(sizes, dim=1)
        self._pairs = list(zip(views[::2], views[1::2], strict=True))

    def draw(self) -> Noise:
        """New noise; returns itself."""
        if self._layers:
            x = self._values.normal_(generator=self.generator)
            x.copy_(x.sign() * x.abs().sqrt_())
        return self

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The layers have the noise last drawn within this context."""
        if self._layers and not self.silent:
            for layer, pair in zip(self._layers, self._pairs, strict=True):
                layer.noise = pair
        try:
            yield
        finally:
            for layer in self._layers:
                layer.noise = None

    def state_dict(self) -> dict[str, Any]:
        """The generator's state: what the next draws follow from."""
        if not self._layers:
            return {}
        return {"device": self.generator.device.type, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the generators of two kinds of device have nothing to tell each other."""
        if self._layers and state.get("device") == self.generator.device.type:
            self.generator.set_state(state["generator"].cpu())
