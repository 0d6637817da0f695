"""Diagnostics of DQN's known pathologies: overestimation, dormant units, loss of rank, churn.

None of them touches the learning: states are drawn with generators of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.algorithms.algorithm import Learner
from rl.step import Step

DORMANT_TAU = 0.025  # shares of dormant units at different thresholds cannot be compared
RANK_DELTA = 0.01
STATES = 2_048  # for dormant units and the rank, which cannot exceed it
CHURN_STATES = 256
CUT_WEIGHT = 0.01  # a return whose unseen rest would be discounted by more than this is left out
_CHUNK = 256  # states valued at once


def network_health(
    learner: Learner, states: Callable[[int, np.random.Generator], Tensor | None], rng: np.random.Generator
) -> dict[str, float]:
    """`dormant` (`dormant_share`) and `feature_rank` of the network that learns, on `STATES` states, which `states`
    draws (`Algorithm.states`); nothing as long as there are none.

    Both are NaN in a network that has diverged to infinity or NaN. The features are the outputs of the last hidden
    layer, which the output layer takes; of a dueling network those of both streams.
    """
    totals: list[Tensor] = []
    features: list[Tensor] = []
    for _ in range(STATES // _CHUNK):
        chunk = states(_CHUNK, rng)
        if chunk is None:
            return {}
        hidden = hidden_outputs(learner, chunk)
        if not hidden:  # a network of the user's, without ReLU modules
            return {}
        means = [unit_means(output) for output in hidden]
        totals = [a + b for a, b in zip(totals, means, strict=True)] if totals else means
        features.append(hidden[-1])
    return {"dormant": dormant_share(totals), "feature_rank": feature_rank(torch.cat(features))}


@torch.no_grad()
def hidden_outputs(learner: Learner, observation: Tensor) -> list[Tensor]:
    """Outputs of every ReLU of the online network, in order, in the precision that it acts in."""
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
        for module in learner.network.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with learner.autocast():
            learner.network(observation.to(learner.device))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def unit_means(output: Tensor) -> Tensor:
    """Mean |output| of each unit, float64 (units,): over the batch, and over the positions of a convolution's channel.

    `output` is (batch, units) or (batch, units, H, W).
    """
    return output.double().abs().transpose(0, 1).flatten(1).mean(1)


def dormant_share(means: Iterable[Tensor], tau: float = DORMANT_TAU) -> float:
    """Share of tau-dormant units among all units of the hidden layers (Sokar et al. 2023, arXiv 2302.12902, eq. 1).

    A unit is dormant if its mean |output| is at most tau times the mean of that over its layer; in a layer that is
    silent altogether, all are. NaN where a mean is not finite.

    Args:
        means: mean |output| of each unit, one tensor (units,) a layer.
    """
    layers = list(means)
    if not all(torch.isfinite(layer).all() for layer in layers):
        return math.nan
    dormant = sum(int((layer <= tau * layer.mean()).sum()) for layer in layers)
    return dormant / sum(layer.numel() for layer in layers)


def feature_rank(features: Tensor, delta: float = RANK_DELTA) -> float:
    """Effective rank of features (n, d): the fewest singular values that make up 1 - delta of the sum of all (srank of
    Kumar et al. 2021, arXiv 2010.14498). 0 for features that are all zero, NaN where one is not finite."""
    x = features.double()
    if not torch.isfinite(x).all():
        return math.nan
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x  # its eigenvalues are the squares: far cheaper than an SVD
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()
    total = float(values.sum())
    if total == 0:
        return 0.0
    return 1.0 + int((values.cumsum(0) < (1 - delta) * total).sum())


def greedy_actions(learner: Learner, observation: Tensor) -> Tensor:
    """The greedy actions (n,) of the online network, as `Learner.act` takes them."""
    return learner.values(observation).argmax(dim=1)


def churn(before: Tensor, after: Tensor) -> float:
    """Policy churn of one update: the share of states whose greedy action it changed (Schaul et al. 2022,
    arXiv 2206.00730). Greedy actions (n,) before and after."""
    return float((before != after).double().mean())


class ValueAudit:
    """Compares predicted values with the returns obtained, over the games of an evaluation.

    For every state s_t of the counted games at which an action was played, predicted is max_a Q(s_t, a) and obtained is

        G_t = r_t + gamma r_{t+1} + gamma^2 r_{t+2} + ...

    with the rewards that the agent learns from (clipped and scaled), up to the end of the learning episode: the game's,
    or a lost life where the protocol ends episodes there. No bootstrapping, whatever n-step returns training uses. The
    actions are the evaluation's, epsilon-greedy. Where the step limit cuts a game, states are left out whose unseen
    rest would weigh more than `CUT_WEIGHT`.

    `act` is the policy, `watch` takes each step that followed. Where evaluations play an average of the weights
    (`--ema-decay`), the values are that network's.
    """

    def __init__(self, learner: Learner, gamma: float, *, episodic_life: bool) -> None:
        self._learner = learner
        self._gamma = gamma
        self._episodic_life = episodic_life
        self._lives: NDArray[np.int32] | None = None
        self._columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("value", "reward", "ended", "cut", "ignored", "counted")
        }

    def act(self, observation: NDArray[Any], epsilon: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """`Learner.act`, remembering the values."""
        values = self._learner.values(torch.from_numpy(observation))
        self._columns["value"].append(values.amax(dim=1).double().cpu().numpy())
        return self._learner.act(observation, epsilon, rng, values=values)

    def watch(self, step: Step, counting: NDArray[np.bool_]) -> None:
        """Take in a step of N environments; `counting` (N,): it belongs to a game that counts."""
        lost = np.zeros_like(counting) if self._lives is None else step.lives < self._lives
        self._lives = step.lives
        ended = step.terminated | (lost & self._episodic_life)
        row = {
            "reward": step.reward.astype(np.float64),
            "ended": ended,
            "cut": (step.truncated | step.game_over) & ~ended,
            "ignored": step.ignored,
            "counted": counting & ~step.ignored,
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def returns(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted values and returns obtained of the states that count, (n,) each, in order of time."""
        if not self._columns["value"]:
            return np.zeros(0), np.zeros(0)
        value, reward, ended, cut, ignored, counted = (np.stack(column) for column in self._columns.values())
        obtained = np.zeros_like(reward)
        unseen = np.zeros_like(reward)  # discount of the first reward that was not seen
        after, rest = np.zeros(reward.shape[1]), np.ones(reward.shape[1])
        for t in range(len(reward) - 1, -1, -1):
            over = ended[t] | cut[t]
            gamma = np.where(ignored[t], 1.0, self._gamma)  # no time passes
            after = reward[t] + np.where(over, 0.0, gamma * after)
            rest = np.where(ended[t], 0.0, gamma * np.where(cut[t], 1.0, rest))
            obtained[t], unseen[t] = after, rest
        kept = counted & (unseen <= CUT_WEIGHT)
        return value[kept], obtained[kept]

    def figures(self) -> dict[str, float]:
        """`q_overestimation`, the mean of predicted minus obtained, and `q_return`, the mean obtained; in the units of
        the learned reward. Empty where no state counts."""
        predicted, obtained = self.returns()
        if not len(obtained):
            return {}
        return {"q_overestimation": float((predicted - obtained).mean()), "q_return": float(obtained.mean())}
