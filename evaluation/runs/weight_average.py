"""A moving average of a network's weights, to be played or evaluated in their place."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


def decay_over(decay: float, updates: int, count: int) -> float:
    """The product of d_t over `count` updates after so many, see `WeightAverage`."""
    return math.prod(min(decay, (1 + t) / (10 + t)) for t in range(updates, updates + count))


class WeightAverage(Generic[N]):
    """The exponential moving average of the parameters w_t after each update t = 0, 1, ..., in a copy of the network:

        average <- d_t * average + (1 - d_t) * w_t,   d_t = min(decay, (1 + t) / (10 + t))

    (the exponential kind of Polyak averaging; d_t as in TensorFlow's ExponentialMovingAverage: it reaches over about
    the last 1 / (1 - decay) updates, and early over the last tenth of those there are, so that the start is soon
    forgotten.) `torch.optim.swa_utils.AveragedModel` waits for a GPU in each update.

    Args:
        network: averaged; the copy starts as it is.
        decay: in (0, 1).

    Attributes:
        network: the copy, not trained and in evaluation mode.
    """

    def __init__(self, network: N, decay: float) -> None:
        self._source, self._decay, self._updates = network, decay, 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._weights: list[Tensor] = list(self.network.parameters())

    @torch.no_grad()
    def update(self, count: int = 1) -> None:
        """Take in the parameters as they are after `count` updates, as if each had led to them. Does not wait."""
        keep = decay_over(self._decay, self._updates, count)
        self._updates += count
        torch._foreach_lerp_(self._weights, list(self._source.parameters()), 1 - keep)

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """What is no parameter (a batch norm's statistics, too) is as in the network itself."""
        known = dict(self._source.named_buffers())
        for name, mine in self.network.named_buffers():
            mine.copy_(known[name])

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the weights as they are."""
        self._updates = 0
        torch._foreach_copy_(self._weights, list(self._source.parameters()))

    def state_dict(self) -> dict[str, Any]:
        """The average's parameters and the number of updates."""
        return {"network": self.network.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self._updates = state["updates"]
