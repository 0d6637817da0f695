"""The dueling architecture (Wang et al. 2016, arXiv 1511.06581): a state's value and its actions' advantages apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Linear = Callable[[int, int], nn.Module]  # (inputs, outputs) -> a fully connected layer


class Streams(nn.Module):
    """Two hidden layers side by side: (batch, d) -> (batch, 2 h), first those of the value, then of the advantages."""

    def __init__(self, value: nn.Module, advantage: nn.Module) -> None:
        super().__init__()
        self.value, self.advantage = value, advantage

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.value(x), self.advantage(x)], dim=1)


class DuelingOutput(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean over b of A(s, b) (eq. 9), of both streams' features (batch, 2 h).

    Where an action has several outputs, as the logits of a distribution, this is done with each of them, as in Rainbow
    (Hessel et al. 2018, arXiv 1710.02298). The paper's rescaling of the gradient that enters the last common layer by
    1/sqrt(2) is left out, as there.

    Args:
        per_action: shape of the outputs of one action; () of a single number.
    """

    def __init__(self, features: int, num_actions: int, per_action: tuple[int, ...], linear: Linear) -> None:
        super().__init__()
        size = math.prod(per_action)
        self.value = nn.Sequential(linear(features // 2, size), nn.Unflatten(1, (1, *per_action)))
        self.advantage = nn.Sequential(
            linear(features // 2, num_actions * size), nn.Unflatten(1, (num_actions, *per_action))
        )

    def forward(self, features: Tensor) -> Tensor:
        of_value, of_advantage = features.chunk(2, dim=1)
        advantage = self.advantage(of_advantage)
        output: Tensor = self.value(of_value) + advantage - advantage.mean(dim=1, keepdim=True)
        return output
