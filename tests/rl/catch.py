"""Catch with EnvPool's interface: a ball falls, a paddle catches it (bsuite's game, in 16 x 16 pixels)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 16
CELLS = 8  # the board; a cell is 2 x 2 pixels


class CatchPool:
    """N boards stepped together; one ball a game, reward +1 caught or -1 missed, next-step autoreset."""

    def __init__(self, num_envs: int, seed: int, stack: int = 2) -> None:
        self.observation_space = SimpleNamespace(shape=(stack, SIZE, SIZE))
        self.action_space = SimpleNamespace(n=3)
        self.rng = np.random.default_rng(seed)
        self.n, self.stack = num_envs, stack
        self.done = np.zeros(num_envs, bool)

    def reset(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        self.row = np.zeros(self.n, int)
        self.ball = self.rng.integers(CELLS, size=self.n)
        self.paddle = np.full(self.n, CELLS // 2)
        self.done[:] = False
        self.frames = np.repeat(self._draw()[:, None], self.stack, 1)
        return self.frames.copy(), self._info(np.zeros(self.n), self.done)

    def step(self, actions: NDArray[np.int32], env_id: NDArray[np.int32] | None = None) -> tuple[Any, ...]:
        assert env_id is None or len(env_id) == self.n  # all games are equally long, so all boards are reset together
        fresh = self.done
        self.row = np.where(fresh, 0, self.row + 1)
        self.ball = np.where(fresh, self.rng.integers(CELLS, size=self.n), self.ball)
        moved = np.clip(self.paddle + actions - 1, 0, CELLS - 1)
        self.paddle = np.where(fresh, CELLS // 2, moved)
        done = (self.row == CELLS - 1) & ~fresh
        reward = np.where(done, np.where(self.ball == self.paddle, 1.0, -1.0), 0.0).astype(np.float32)
        frame = self._draw()
        self.frames = np.concatenate([self.frames[:, 1:], frame[:, None]], 1)
        self.frames[fresh] = frame[fresh][:, None]
        self.done = done
        return self.frames.copy(), reward, done, np.zeros(self.n, bool), self._info(reward, done)

    def close(self) -> None:
        pass

    def _draw(self) -> NDArray[np.uint8]:
        board = np.full((self.n, CELLS, CELLS), 87, np.uint8)
        index = np.arange(self.n)
        board[index, self.row, self.ball] = 120
        board[index, CELLS - 1, self.paddle] = 200
        return board.repeat(2, 1).repeat(2, 2)

    def _info(self, reward: NDArray[Any], over: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "reward": np.asarray(reward, np.float32),
            "terminated": over.astype(np.int32),
            "lives": np.zeros(self.n, np.int32),
            "elapsed_step": self.row.astype(np.int32),
        }
