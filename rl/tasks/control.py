"""Control tasks: Gymnasium's classic control and Box2D environments in EnvPool, observed as vectors.

They cost a hundredth of an Atari game and are learned in seconds to minutes by a small MLP, so that ten seeds of many
settings fit on a laptop. EnvPool resets in the *next* step, as in Atari, and reports an end at the very step limit as
truncated only (seen in 1.2.5): each task's rule says whether it had ended as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl.step import Step, checked_actions
from rl.tasks.task import EnvOptions, Family, ObservationSpec, Protocol, Task, environment_seeds

Rows = NDArray[np.float32]

CONTROL = Protocol(name="control", eval_epsilon=0.0)  # whole episodes as Gymnasium defines them, greedy evaluation
FAMILY = Family(
    name="control",
    title="a control task",
    preset="control",
    protocols=(CONTROL,),
    # The networks' products are too small to be shared, and on a machine with other jobs a second thread that waits
    # for its turn makes an update ten times slower.
    torch_threads=1,
)


@dataclass(frozen=True, kw_only=True)
class ControlTask(Task):
    """A control task. Its `target` is the score at which it counts as solved: Gymnasium's `reward_threshold`.

    Attributes:
        env_id: EnvPool's name of it.
        ended: (observations (N, d), rewards (N,)) after a step -> whether the episode has ended in it (N,).
        center, scale: see `ObservationSpec`.
    """

    family: Family = FAMILY
    env_id: str
    ended: Callable[[Rows, Rows], NDArray[np.bool_]]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def observation(self, env: EnvOptions) -> ObservationSpec:
        return ObservationSpec((1, len(self.center)), np.float32, self.center, self.scale)

    def make(self, env: EnvOptions, *, num_envs: int, seed: int, training: bool) -> ControlEnvs:
        return make_control_envs(
            self,
            num_envs=num_envs,
            seed=seed,
            threads=env.threads,
            reward_clip=env.reward_clip,
            reward_scale=env.reward_scale,
        )


# The rules of Gymnasium's sources: cartpole.py (12 degrees, 2.4), mountain_car.py (goal velocity 0), acrobot.py (reward
# -1 before the end and 0 at it), lunar_lander.py (the last reward is set to -100 or +100).
_TASKS = (
    ControlTask(
        name="Acrobot",
        env_id="Acrobot-v1",
        num_actions=3,
        ended=lambda observation, reward: reward == 0,
        target=-100.0,
        center=(0.0,) * 6,
        scale=(1.0, 1.0, 1.0, 1.0, 4.0, 6.0),
    ),
    ControlTask(
        name="CartPole",
        env_id="CartPole-v1",
        num_actions=2,
        ended=lambda observation, reward: (
            (np.abs(observation[:, 0]) > 2.4) | (np.abs(observation[:, 2]) > 12 * np.pi / 180)
        ),
        target=475.0,
        center=(0.0,) * 4,
        scale=(1.2, 1.0, 0.1, 1.0),
    ),
    ControlTask(
        name="LunarLander",
        env_id="LunarLander-v3",  # the newest; without wind, as here, v2 has the same dynamics
        num_actions=4,
        ended=lambda observation, reward: np.abs(reward) == 100,
        target=200.0,
        center=(0.0, 0.7, 0.0, -0.5, 0.0, 0.0, 0.5, 0.5),
        scale=(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    ),
    ControlTask(
        name="MountainCar",
        env_id="MountainCar-v0",
        num_actions=3,
        ended=lambda observation, reward: (observation[:, 0] >= 0.5) & (observation[:, 1] >= 0),
        target=-110.0,
        center=(-0.4, 0.0),
        scale=(0.4, 0.03),
    ),
)
TASKS = {task.name: task for task in _TASKS}


class ControlEnvs:
    """N environments of a control task; the interface of `AtariEnvs` with observations (N, 1, d), float32.

    Args:
        pool: EnvPool or anything with its `reset() -> observation, info` and
            `step(actions) -> observation, reward, terminated, truncated, info` and `action_space.n`. It must return
            fresh arrays in every step.
        num_envs: N.
        task: its rule for the end at the step limit.
        reward_clip: learn from the reward's sign.
        reward_scale: factor on the reward to learn from, after the clip.
    """

    def __init__(
        self, pool: Any, num_envs: int, task: ControlTask, *, reward_clip: bool = False, reward_scale: float = 1.0
    ) -> None:
        self._pool = pool
        self._task = task
        self._reward_clip, self._reward_scale = reward_clip, np.float32(reward_scale)
        self.num_envs = num_envs
        self.num_actions = int(pool.action_space.n)
        self.stack = 1
        self.frame_shape: tuple[int, ...] = (len(task.center),)
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
        ended = over & (terminated | self._task.ended(observation, reward))
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
    task: ControlTask,
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
    pool = envpool.make_gymnasium(task.env_id, num_envs=num_envs, num_threads=threads, seed=seeds, **limit)
    return ControlEnvs(pool, num_envs, task, reward_clip=reward_clip, reward_scale=reward_scale)
