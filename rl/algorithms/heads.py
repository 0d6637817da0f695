"""What a network's outputs mean: action values, the targets made of them, and the loss of each sample.

An action's return is learned as its expectation (DQN), as probabilities of fixed values (C51) or as quantiles (QR-DQN).

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

from rl.option_groups import HeadConfig

TINY = torch.finfo(torch.float32).tiny
LOSSES: dict[str, Callable[..., Tensor]] = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}


def make_head(config: HeadConfig, loss: str, device: torch.device) -> Head:
    """The head of a configuration; `loss`: of an expected value."""
    if config.name == "c51":
        return Categorical(config.v_min, config.v_max, config.atoms, device)
    if config.name == "qr":
        return Quantiles(config.quantiles, device)
    return ExpectedValue(loss)


class Head(Protocol):
    """The meaning of outputs (B, A, *per_action), float32, of a network.

    Nothing here waits for the device, and no shape depends on numbers: it can be part of a CUDA graph. Sums are made
    without matrix products, which autocast and TF32 would round.
    """

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


class Categorical:
    """C51: the logits of `atoms` values z, equally far apart from `v_min` to `v_max` (Bellemare et al. 2017,
    arXiv 1707.06887).

    The target is the distribution of R_n + discount * z under the next action's probabilities, projected onto z
    (algorithm 1). The loss is its Kullback-Leibler divergence, as in Rainbow, where it is a transition's priority, too:
    cross-entropy has the same gradient, but does not fall to 0 where a distribution is learned.
    """

    def __init__(self, v_min: float, v_max: float, atoms: int, device: torch.device) -> None:
        self._atoms = torch.linspace(v_min, v_max, atoms, device=device)
        self._places = torch.arange(float(atoms), device=device)
        self._least, self._distance = v_min, (v_max - v_min) / (atoms - 1)

    def values(self, output: Tensor) -> Tensor:
        return (output.softmax(dim=2) * self._atoms).sum(dim=2)

    def target(self, output: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Probabilities (B, atoms)."""
        probabilities = of_action(output, action).softmax(dim=1)
        moved = reward.unsqueeze(1) + discount.unsqueeze(1) * self._atoms
        place = ((moved - self._least) / self._distance).clamp(0, len(self._atoms) - 1)
        # Each moved value gives its probability to the atoms below and above it, the more the nearer (lines 5 to 9).
        away = (place.unsqueeze(1) - self._places.unsqueeze(1)).abs()  # (B, atoms, moved values)
        return ((1 - away).clamp_(min=0) * probabilities.unsqueeze(1)).sum(dim=2)

    def losses(self, output: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        predicted = of_action(output, action.unsqueeze(1)).log_softmax(dim=1)
        divergence = (target * (target.clamp(min=TINY).log() - predicted)).sum(dim=1)  # 0 log 0 is 0
        return divergence.clamp(min=0), (predicted.exp() * self._atoms).sum(dim=1)  # below 0 by rounding only


class Quantiles:
    """QR-DQN: the quantiles of the return at (2 i + 1) / (2 `count`) (Dabney et al. 2018, arXiv 1710.10044).

    The target are the values R_n + discount * theta_j of the next action's quantiles. The loss is the quantile Huber
    loss with kappa 1 (eq. 10): summed over the predicted quantiles, mean over the target's.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._shares = (torch.arange(count, device=device) + 0.5) / count

    def values(self, output: Tensor) -> Tensor:
        return output.mean(dim=2)

    def target(self, output: Tensor, action: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Values (B, count)."""
        return reward.unsqueeze(1) + discount.unsqueeze(1) * of_action(output, action)

    def losses(self, output: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        theta = of_action(output, action.unsqueeze(1))
        error = target.unsqueeze(1) - theta.unsqueeze(2)  # (B, predicted, target's)
        weight = (self._shares.unsqueeze(1) - (error.detach() < 0).float()).abs()
        huber = F.huber_loss(error, torch.zeros_like(error), reduction="none")
        return (weight * huber).mean(dim=2).sum(dim=1), theta.mean(dim=1)


def of_action(output: Tensor, action: Tensor) -> Tensor:
    """Outputs (B, n) of the actions (B, 1) among outputs (B, A, n)."""
    return output.take_along_dim(action.unsqueeze(2), dim=1).squeeze(1)
