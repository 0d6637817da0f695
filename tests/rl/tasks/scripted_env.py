"""A programmable pool of environments with EnvPool's interface and boundaries, for exact tests.

Every frame is one of a kind: its pixels are (environment, run, game, frame number within the game). The semantics are
those seen in EnvPool 1.2.5; `test_envs.py` checks them against real Breakout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAME_SHAPE = (2, 2)
LIVES = 5


@dataclass(frozen=True)
class Event:
    """What happens in one step of a game."""

    reward: float = 0.0
    life_lost: bool = False
    game_over: bool = False
    limit: bool = False  # the step limit is reached
    dies_in_reset: bool = False  # with life_lost: the no-ops of the reset lose the last life and start another game


Game = Sequence[Event]


def game(rewards: Sequence[float], *, lives_lost: Sequence[int] = (), limit: bool = False) -> list[Event]:
    """A game of len(rewards) steps that loses lives in the given ones and ends, or is cut, in the last."""
    last = len(rewards) - 1
    return [
        Event(reward, life_lost=t in lives_lost, game_over=t == last and not limit, limit=t == last and limit)
        for t, reward in enumerate(rewards)
    ]


class _ScriptedEnv:
    """One environment: the script's games in order, then over again."""

    def __init__(self, index: int, run: int, games: Sequence[Game], stack: int, shape: tuple[int, int]) -> None:
        self.index, self.run, self.stack_size, self.shape = index, run, stack, shape
        self.games = games
        self.game_number = -1
        self.stack: list[NDArray[np.uint8]] = []

    def new_game(self) -> None:
        self.game_number += 1
        self.frame_number = -1
        self.elapsed = 0
        self.lives = LIVES
        self.events: Iterator[Event] = iter(self.games[self.game_number % len(self.games)])
        self.stack = [self._next_frame()] * self.stack_size

    def push(self) -> None:
        self.stack = [*self.stack[1:], self._next_frame()]

    def _next_frame(self) -> NDArray[np.uint8]:
        self.frame_number += 1
        pixels = [self.index, self.run, self.game_number % 256, self.frame_number % 256]
        return np.resize(np.array(pixels, np.uint8), self.shape)


class ScriptedPool:
    """N scripted environments stepped together, like an EnvPool made with `make_gymnasium`.

    Args:
        games: for each environment, the games that it plays in order and then over again.
        run: number in the frames' second pixel, to tell pools apart.
        shape: of a frame, which repeats its four pixels.
    """

    def __init__(
        self,
        games: Sequence[Sequence[Game]],
        *,
        stack: int = 4,
        num_actions: int = 1_000_000,
        episodic_life: bool = False,
        reward_clip: bool = False,
        run: int = 0,
        shape: tuple[int, int] = FRAME_SHAPE,
    ) -> None:
        self.observation_space = SimpleNamespace(shape=(stack, *shape))
        self.action_space = SimpleNamespace(n=num_actions)
        self.episodic_life, self.reward_clip = episodic_life, reward_clip
        self.envs = [_ScriptedEnv(i, run, script, stack, shape) for i, script in enumerate(games)]
        self.done = np.zeros(len(games), np.bool_)
        self.next_game: list[bool] = [True] * len(games)
        self.received: list[NDArray[np.int32]] = []

    def reset(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        for env in self.envs:
            env.new_game()
        self.done[:] = False
        n = len(self.envs)
        return self._observation(), self._info(np.zeros(n), np.zeros(n, np.int32))

    def step(self, actions: NDArray[np.int32], env_id: NDArray[np.int32] | None = None) -> tuple[Any, ...]:
        """Step all environments, or those numbered `env_id` (the answer then has their rows only)."""
        self.received.append(actions)
        chosen = np.arange(len(self.envs)) if env_id is None else env_id
        n = len(self.envs)
        reward = np.zeros(n, np.float32)
        done, limit, game_over = np.zeros(n, np.bool_), np.zeros(n, np.bool_), np.zeros(n, np.int32)
        for i in chosen:
            env = self.envs[i]
            if self.done[i]:  # the automatic reset: the action is ignored
                env.new_game() if self.next_game[i] else env.push()
                continue
            event = next(env.events)
            env.push()
            env.elapsed += 1
            env.lives = 0 if event.game_over else env.lives - event.life_lost
            reward[i] = event.reward
            done[i] = event.game_over or event.limit or (self.episodic_life and event.life_lost)
            limit[i], game_over[i] = event.limit, event.game_over
            self.next_game[i] = event.game_over or event.limit or event.dies_in_reset
        self.done = self.done.copy()
        self.done[chosen] = done[chosen]
        clipped = np.sign(reward) if self.reward_clip else reward
        # A game that ends at the very limit is truncated, not terminated, and so is a life: as in EnvPool.
        info = {name: values[chosen] for name, values in self._info(reward, game_over).items()}
        return self._observation()[chosen], clipped[chosen], (done & ~limit)[chosen], limit[chosen], info

    def close(self) -> None:
        pass

    def _observation(self) -> NDArray[np.uint8]:
        return np.stack([np.stack(env.stack) for env in self.envs])

    def _info(self, reward: NDArray[Any], game_over: NDArray[np.int32]) -> dict[str, Any]:
        return {
            "reward": reward.astype(np.float32),
            "terminated": game_over,
            "lives": np.array([env.lives for env in self.envs], np.int32),
            "elapsed_step": np.array([env.elapsed for env in self.envs], np.int32),
        }
