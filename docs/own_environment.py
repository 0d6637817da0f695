"""An environment, a network and a callback of one's own. From the folder of this file:

    asgc-rl train --env.make own_environment:Corridor --network.cls own_environment:Net \\
        --callbacks own_environment:FirstVictory --total-steps 5000

`asgc-rl eval RUN --best` plays the best model. Environments with pictures (uint8) go into the convolutions, or into a
network of one's own, in the same way; many at a time are a function that takes `num_envs` and returns a
`gymnasium.vector.VectorEnv` (see `rl.tasks.own_tasks`).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from rl import Callback

LENGTH = 8


class Corridor(gymnasium.Env[np.ndarray, int]):
    """A corridor of some cells: right is the exit (+1), left of the first cell a pit (-1); cut after 40 steps."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (LENGTH,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)  # everything random comes from self.np_random: runs can be resumed exactly
        self.cell, self.steps = int(self.np_random.integers(LENGTH // 2)), 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.cell += 1 if action == 1 else -1
        self.steps += 1
        reward = 1.0 if self.cell == LENGTH else -1.0 if self.cell < 0 else 0.0
        return self._observation(), reward, reward != 0, self.steps == 40, {}

    def _observation(self) -> np.ndarray:
        return np.eye(LENGTH, dtype=np.float32)[min(max(self.cell, 0), LENGTH - 1)]


class Net(nn.Module):
    """Action values (batch, num_actions) of scaled observations: here (batch, LENGTH)."""

    def __init__(self, observation: Any, num_actions: int, config: Any) -> None:
        super().__init__()
        self.hidden = nn.Linear(observation.frame[0], 32)
        self.output = nn.Linear(32, num_actions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.hidden(x)))


class FirstVictory(Callback):
    """Tells when the exit was reached first; remembers it over a resume."""

    def __init__(self) -> None:
        self.first: int | None = None

    def stepped(self, step: int, result: Any) -> None:
        if self.first is None and (result.score > 0).any():
            self.first = step
            print(f"first victory within {step} steps", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # empty at the start of a run
        self.first = state.get("first")
