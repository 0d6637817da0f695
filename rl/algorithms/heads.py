"""What a network's outputs mean: action values, the targets made of them, and the loss of each sample.

A head is asked in this order: `values` of the next observations choose an action, `target` makes what the present
output is to become, `losses` says how far it is from that, sample by sample (what prioritized replay and importance
weights need; the learner takes the mean).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}


class Head(Protocol):
    """The meaning of outputs (B, A, ...) of a network."""

    def values(self, output: Tensor) -> Tensor:
        """Action values (B, A)."""
        ...

    def target(self, output: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """What `losses` compares with, (B, ...), from the target network's outputs at the next observations, the
        actions (B, 1) chosen there, the rewards (B,) and the discounts (B,)."""
        ...

    def losses(self, output: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each sample and value of its action, (B,) each; `action` (B,)."""
        ...


class ExpectedValue:
    """One output an action: its expected return, as in DQN (Mnih et al., 2015).

    Args:
        loss: "huber" or "mse", of the TD error.
    """

    def __init__(self, loss: str) -> None:
        self._loss = LOSSES[loss]

    def values(self, output: Tensor) -> Tensor:
        return output

    def target(self, output: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        return reward + discount * output.gather(1, action).squeeze(1)

    def losses(self, output: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        q = output.gather(1, action.unsqueeze(1)).squeeze(1)
        return self._loss(q, target, reduction="none"), q

    def errors(self, losses: Tensor) -> Tensor:
        """|TD error| of each sample (B,), from its loss: what prioritized replay goes by."""
        if self._loss is F.mse_loss:
            return losses.sqrt()
        return torch.where(losses < 0.5, (2 * losses).sqrt(), losses + 0.5)
