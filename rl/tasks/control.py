"""Control tasks: Gymnasium's classic control and Box2D environments in EnvPool, observed as vectors.

They cost a hundredth of an Atari game and are learned in seconds to minutes by a small MLP, so that ten seeds of many
settings fit on a laptop. EnvPool resets in the *next* step, as in Atari, and reports an end at the very step limit as
truncated only (seen in 1.2.5): each task's rule says whether it had ended as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl.step import Step, checked_actions, environment_seeds

Rows = NDArray[np.float32]
Ended = Callable[[Rows, Rows], NDArray[np.bool_]]


class ControlEnvs:
    """N environments of a control task; the interface of `AtariEnvs` with observations (N, 1, d), float32.

    Args:
        pool: EnvPool or anything with its `reset() -> observation, info` and
            `step(actions) -> observation, reward, terminated, truncated, info`, `observation_space.shape` (d,) and
            `action_space.n`. It must return fresh arrays in every step.
        num_envs: N.
        ended: the task's rule for the end of an episode: (observations (N, d), rewards (N,)) after a step -> (N,).
        reward_clip: learn from the reward's sign.
        reward_scale: factor on the reward to learn from, after the clip.
    """

    def __init__(
        self, pool: Any, num_envs: int, ended: Ended, *, reward_clip: bool = False, reward_scale: float = 1.0
    ) -> None:
        self._pool = pool
        self._ended = ended
        self._reward_clip, self._reward_scale = reward_clip, np.float32(reward_scale)
        self.num_envs = num_envs
        self.num_actions = int(pool.action_space.n)
        self.stack = 1
        self.frame_shape: tuple[int, ...] = pool.observation_space.shape
        self._over: NDArray[np.bool_] | None = None  # in the previous step, so this one is a reset; None before reset()
        self._lives = np.zeros(num_envs, np.int32)

    def reset(self) -> Rows:
        """Start a new episode in every environment; returns the observations (N, 1, d)."""
        observation, _ = self._pool.reset()
        self._over = np.zeros(self.num_envs, np.bool_)
        return np.asarray(observation[:, None], np.float32)

    def step(self, actions: ArrayLike) -> Step:
        """Step all environments with actions (N,), integers in [0, num_actions).

        Raises:
            ValueError: actions of another shape, type or range.
        """
        if self._over is None:
            raise RuntimeError("reset() comes before step()")
        played = checked_actions(actions, self.num_envs, self.num_actions)
        observation, reward, terminated, truncated, _ = self._pool.step(played)
        ignored = self._over
        self._over = over = (terminated | truncated) & ~ignored
        ended = over & (terminated | self._ended(observation, reward))
        score = np.where(ignored, np.float32(0), reward)
        learned = np.sign(score) if self._reward_clip else score
        return Step(
            observation=observation[:, None],
            reward=learned * self._reward_scale,
            score=score,
            terminated=ended,
            truncated=over & ~ended,
            game_over=over,
            ignored=ignored,
            new_game=ignored,
            lives=self._lives,
        )

    def close(self) -> None:
        """Free the environments and their threads. (EnvPool's own `close` does not; dropping the pool does.)"""
        self._pool = None


def make_control_envs(
    env_id: str,
    ended: Ended,
    *,
    num_envs: int,
    seed: int,
    threads: int = 0,
    reward_clip: bool = False,
    reward_scale: float = 1.0,
    max_episode_steps: int | None = None,
) -> ControlEnvs:
    """EnvPool environments of a control task.

    Args:
        env_id: EnvPool's name of it.
        ended: see `ControlEnvs`.
        seed: of the first states. The same seed and actions give the same observations, whatever `threads`.
        threads: EnvPool's worker threads; 0: EnvPool chooses.
        reward_clip, reward_scale: see `ControlEnvs`.
        max_episode_steps: steps after which an episode is cut; None: Gymnasium's.
    """
    import envpool  # importing it takes a second: not before it is needed

    # Gymnasium's word on the types of EnvPool's bounds, which nobody here looks at.
    warnings.filterwarnings("ignore", message=".*precision lowered by casting")
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    seeds = environment_seeds(seed, num_envs)
    pool = envpool.make_gymnasium(env_id, num_envs=num_envs, num_threads=threads, seed=seeds, **limit)
    return ControlEnvs(pool, num_envs, ended, reward_clip=reward_clip, reward_scale=reward_scale)
