"""Gymnasium environments that follow a script and write down what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv


@dataclass(frozen=True)
class Happened:
    """A transition as it was. Observations are (environment, episode, step)."""

    observation: tuple[float, ...]
    action: int
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool
    truncated: bool


class Scripted(gymnasium.Env[Any, Any]):
    """Plays episodes of given lengths, over and over; those of negative length are cut. Rewards are all different."""

    def __init__(self, index: int, lengths: Sequence[int]) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(1_000_000)
        self.index, self.lengths = index, lengths
        self.episode, self.step_number = -1, 0
        self.happened: list[Happened] = []
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.step_number = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before = tuple(self._observation())
        self.step_number += 1
        length = self.lengths[self.episode % len(self.lengths)]
        over = self.step_number == abs(length)
        assert self.step_number <= abs(length), "stepped after its end"
        reward = 0.5 + len(self.happened) + 1000 * self.index
        terminated, truncated = over and length > 0, over and length < 0
        self.happened.append(Happened(before, int(action), reward, tuple(self._observation()), terminated, truncated))
        return self._observation(), reward, terminated, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.index, self.episode, self.step_number], np.float64)


def vector(mode: AutoresetMode, scripts: Sequence[Sequence[int]]) -> SyncVectorEnv:
    """Scripted environments together."""
    return SyncVectorEnv([lambda i=i, s=s: Scripted(i, s) for i, s in enumerate(scripts)], autoreset_mode=mode)


class Countdown(gymnasium.Env[Any, Any]):
    """A walk of a few cells: action 1 goes right, to the reward at the end, action 0 ends it. Pictures on request."""

    def __init__(self, length: int = 3, picture: bool = False) -> None:
        self.picture, self.length = picture, length
        shape, kind = ((8, 8, 3), np.uint8) if picture else ((length,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255 if picture else 1, shape, kind)
        self.action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (5, 6), action
        self.cell += action - 5
        over = action == 5 or self.cell == self.length
        return self._observation(), float(self.cell == self.length), bool(over), False, {}

    def _observation(self) -> np.ndarray:
        cell = min(self.cell, self.length - 1)
        if not self.picture:
            return np.eye(self.length, dtype=np.float32)[cell]
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, 2 * cell : 2 * cell + 2, 1] = 255
        return pixels


def make_vector(num_envs: int, seed: int) -> VectorEnv[Any, Any, Any]:
    """As `--env.make` has it, in same-step mode."""
    return SyncVectorEnv([Countdown] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def make_silent(num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Does not say how it resets."""
    made = make_vector(num_envs, 0)
    del made.metadata["autoreset_mode"]
    return made


def make_picture() -> gymnasium.Env[Any, Any]:
    return Countdown(picture=True)


def make_dict() -> gymnasium.Env[Any, Any]:
    made = Countdown()
    made.observation_space = gymnasium.spaces.Dict({"a": made.observation_space})  # type: ignore[assignment]
    return made


def make_continuous() -> gymnasium.Env[Any, Any]:
    made = Countdown()
    made.action_space = gymnasium.spaces.Box(-1, 1, (2,))  # type: ignore[assignment]
    return made


def make_number() -> int:
    return 3


class Failing(Countdown):
    """Raises in its 300th step."""

    steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Failing.steps += 1
        if Failing.steps == 300:
            raise ZeroDivisionError("the maze is broken")
        return super().step(action)
