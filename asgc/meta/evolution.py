"""Evolution strategies: gradients of what cannot be differentiated, from pairs of runs at mirrored parameters.

Of a mean vector, pairs of particles mean +- sigma eps are tried, eps ~ N(0, 1) (antithetic; Salimans et al. 2017, arXiv
1703.03864). Their returns are ranked within each task before tasks are averaged, so that a task with large returns
counts no more than one with small ones. The mean follows the estimated gradient by Adam.

Where runs are cut into truncations, between which particles keep their inner state and the mean moves, `persistent`
sums the perturbations that a particle has had since its run began (Vicol et al. 2021, arXiv 2112.13835): the estimate
is then of the whole run, and not of what pays within one truncation. Perturbations are drawn anew for each truncation.
Returns of different truncations are added up there, for which ranks will not do (each would count the same): the
differences of pairs are divided by a running size of the task's instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGEST", "EvolutionStrategy", "centered_ranks", "running_size"]

LARGEST = 3.0  # running sizes of a task that count at most: what explodes once moves nothing far
_SIZE_DECAY, _TINY = 0.9, 1e-150


def centered_ranks(returns: Tensor) -> Tensor:
    """Ranks along the last dimension, from -1/2 to 1/2; equal returns share theirs, NaN counts as the worst."""
    x = torch.where(torch.isnan(returns), -torch.inf, returns)
    below = (x[..., None, :] < x[..., :, None]).sum(-1).to(torch.float64)
    equal = (x[..., None, :] == x[..., :, None]).sum(-1)
    count = x.shape[-1]
    return (below + (equal - 1) / 2) / max(1, count - 1) - 0.5


def running_size(before: Tensor, now: Tensor) -> Tensor:
    """A running size with one more taken in, as a mean of logarithms: one explosion does not silence a task for long.

    Args:
        before: of any shape; 0: none is known yet.
        now: of before's shape, finite; 0: nothing is to be learned from it.
    """
    known = torch.where(before > 0, before, now).clamp(min=_TINY)
    return torch.where(now > 0, known**_SIZE_DECAY * now.clamp(min=_TINY) ** (1 - _SIZE_DECAY), before)


class EvolutionStrategy:
    """Ask for particles, tell their returns, and the mean moves.

    Args:
        mean: vector to begin with, (size,).
        sigma: standard deviation of the perturbations.
        pairs: of particles.
        lr: of Adam on the mean, whose steps are about that large.
        seed: of the perturbations.
        persistent: see the module.

    Attributes:
        mean: the present one, fp64.
        steps: done so far.
    """

    def __init__(
        self,
        mean: Tensor,
        *,
        sigma: float = 0.1,
        pairs: int = 8,
        lr: float = 0.05,
        seed: int = 0,
        persistent: bool = False,
    ) -> None:
        if sigma <= 0 or pairs < 1 or lr < 0:
            raise ValueError(f"sigma {sigma}, pairs {pairs}, lr {lr}: must be above 0, at least 1 and at least 0")
        self.mean = mean.detach().to(torch.float64).clone()
        self.sigma, self.pairs, self.persistent, self.steps = sigma, pairs, persistent, 0
        self._seed = seed
        self._eps = torch.zeros(pairs, self.mean.numel(), dtype=torch.float64, device="cpu")
        self._accumulated = torch.zeros_like(self._eps)
        self._scale = torch.zeros(0, dtype=torch.float64, device="cpu")  # by task
        self._adam = torch.optim.Adam([self.mean], lr=lr, maximize=True)

    def ask(self) -> Tensor:
        """The particles of this step, (2 pairs, size): first those at +eps, then those at -eps. The same until told."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.steps)
        self._eps = torch.randn(self._eps.shape, generator=generator, dtype=torch.float64, device="cpu")
        return torch.cat([self.mean + self.sigma * self._eps, self.mean - self.sigma * self._eps])

    def tell(self, returns: Tensor, restarted: Tensor | None = None) -> Tensor:
        """Move the mean; returns the estimated gradient.

        Args:
            returns: (tasks, 2 pairs), higher is better, in the order of ``ask``; persistent: of this truncation.
            restarted: persistent: bool, (pairs,), which pairs' runs end with this truncation.

        Raises:
            ValueError: not one return for each particle.
        """
        if returns.dim() != 2 or returns.shape[1] != 2 * self.pairs:
            raise ValueError(f"returns of shape {tuple(returns.shape)}: expected (tasks, {2 * self.pairs})")
        self.ask()  # the perturbations, where this object was loaded in between
        returns = returns.to(torch.float64)
        differences = self._scaled(returns) if self.persistent else self._differences(centered_ranks(returns))
        difference = differences.mean(0)
        perturbation = self._eps
        if self.persistent:
            self._accumulated = self._accumulated + self._eps
            perturbation = self._accumulated
        gradient = (difference[:, None] * perturbation).mean(0) / (2 * self.sigma)
        if self.persistent and restarted is not None:
            self._accumulated = torch.where(restarted[:, None], 0.0, self._accumulated)
        self.mean.grad = gradient.clone()
        self._adam.step()
        self.steps += 1
        return gradient

    def _differences(self, x: Tensor) -> Tensor:
        """Of the two particles of each pair, (tasks, pairs)."""
        return x[:, : self.pairs] - x[:, self.pairs :]

    def _scaled(self, returns: Tensor) -> Tensor:
        """Differences of the pairs over a running size of the task's root mean squares; `LARGEST` times it counts at
        most. A return that is not finite counts as the worst of the task."""
        finite = torch.isfinite(returns)
        worst = torch.where(finite, returns, torch.inf).amin(1, keepdim=True)
        x = self._differences(torch.where(finite, returns, torch.where(torch.isinf(worst), 0.0, worst)))
        now = x.square().mean(1).sqrt()
        before = self._scale if self._scale.shape == now.shape else torch.zeros_like(now)
        self._scale = running_size(before, now)
        return (x / self._scale.clamp(min=_TINY)[:, None]).clamp(-LARGEST, LARGEST)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming steps depend on."""
        settings = {"sigma": self.sigma, "pairs": self.pairs, "persistent": self.persistent, "seed": self._seed}
        state = {"mean": self.mean, "accumulated": self._accumulated, "scale": self._scale, "steps": self.steps}
        return copy.deepcopy({**state, "adam": self._adam.state_dict(), "settings": settings})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``.

        Raises:
            ValueError: the state of a strategy with other settings; nothing has changed then.
        """
        own = {"sigma": self.sigma, "pairs": self.pairs, "persistent": self.persistent, "seed": self._seed}
        if differing := [name for name, value in own.items() if state["settings"][name] != value]:
            name = differing[0]
            raise ValueError(f"this state is of a strategy with {name} {state['settings'][name]}, not {own[name]}")
        state = copy.deepcopy(dict(state))
        self.mean.copy_(state["mean"])
        self._accumulated, self._scale = state["accumulated"], state["scale"]
        self._adam.load_state_dict(state["adam"])
        self.steps = state["steps"]
