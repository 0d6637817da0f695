"""ASGC inside Stable-Baselines3: what it clips by itself, and how to switch that off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asgc import ASGC

sb3 = pytest.importorskip("stable_baselines3")


def largest_norm(agent: Any, steps: int) -> float:
    """Of the gradients that the agent's optimizer was given while it learned; its weights are scaled up for that."""
    norms: list[float] = []
    optimizer = agent.policy.optimizer
    assert isinstance(optimizer, ASGC)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.data.mul_(8)

    def seen(*_: Any) -> None:
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.cat(gradients))))

    optimizer.register_step_pre_hook(seen)
    agent.learn(steps)
    return max(norms)


@pytest.mark.parametrize(("kind", "limit", "options"), [("DQN", 10.0, {"learning_starts": 50}), ("PPO", 0.5, {})])
def test_its_own_clip_comes_first_and_infinity_switches_it_off(
    kind: str, limit: float, options: dict[str, Any]
) -> None:
    how: dict[str, Any] = {
        "policy_kwargs": {"optimizer_class": ASGC, "optimizer_kwargs": {"rule": "sgd"}},
        "learning_rate": 1e-6,
        "seed": 1,
        **({"n_steps": 64, "n_epochs": 1} if kind == "PPO" else options),
    }
    clipped = largest_norm(getattr(sb3, kind)("MlpPolicy", "CartPole-v1", **how), 128)
    assert clipped == pytest.approx(limit, rel=1e-4)
    whole = largest_norm(getattr(sb3, kind)("MlpPolicy", "CartPole-v1", max_grad_norm=float("inf"), **how), 128)
    assert whole > 2 * limit
