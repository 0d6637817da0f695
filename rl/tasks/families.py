"""The families of tasks, and the record of each task."""

from __future__ import annotations

import math
import typing
import warnings
from dataclasses import dataclass
from typing import Any

from rl.tasks.protocols import PROTOCOLS
from rl.tasks.task import EnvConfig, Family, ObservationSpec, Protocol, Task

if typing.TYPE_CHECKING:  # help pages and error messages do without NumPy: environments are imported when they are made
    from rl.tasks.atari import AtariEnvs
    from rl.tasks.control import ControlEnvs, Ended

ATARI = Family(name="atari", title="an Atari game", preset="quick", protocols=tuple(PROTOCOLS.values()))
CONTROL = Family(
    name="control",
    title="a control task",
    preset="control",
    protocols=(Protocol(name="control", eval_epsilon=0.0),),  # whole episodes as Gymnasium defines them
    # The networks' products are too small to be shared, and on a machine with other jobs a second thread that waits
    # for its turn makes an update ten times slower.
    torch_threads=1,
)
FAMILIES = (ATARI, CONTROL)
ATARI_TARGETS = {"Pong": 0.0}  # the score of a win


@dataclass(frozen=True, kw_only=True)
class AtariTask(Task):
    """An Atari game of EnvPool's registry."""

    family: Family = ATARI

    def observation(self, env: EnvConfig) -> ObservationSpec:
        return ObservationSpec((env.stack, env.height, env.width), "uint8")

    def make(self, env: EnvConfig, *, num_envs: int, seed: int, training: bool) -> AtariEnvs:
        from rl.tasks import atari

        protocol = PROTOCOLS[env.protocol]
        return atari.make_envs(self.name, protocol, env, num_envs=num_envs, seed=seed, training=training)

    def source(self, env: EnvConfig) -> dict[str, Any]:
        if env.source == "envpool":
            return super().source(env)
        from rl.tasks import ale

        return ale.version()

    def check(self, env: EnvConfig) -> None:
        if env.source == "ale":
            self.make(env, num_envs=1, seed=0, training=True).close()
        super().check(env)


@dataclass(frozen=True, kw_only=True)
class ControlTask(Task):
    """A control task. Its `target` is the score at which it counts as solved: Gymnasium's `reward_threshold`.

    Attributes:
        env_id: EnvPool's name of it.
        ended: (observations (N, d), rewards (N,)) after a step -> whether the episode has ended in it (N,).
        center, scale: see `ObservationSpec`.
        max_episode_steps: steps after which an episode is cut; None: Gymnasium's.
    """

    family: Family = CONTROL
    env_id: str
    ended: Ended
    center: tuple[float, ...]
    scale: tuple[float, ...]
    max_episode_steps: int | None = None

    def observation(self, env: EnvConfig) -> ObservationSpec:
        return ObservationSpec((1, len(self.center)), "float32", self.center, self.scale)

    def make(self, env: EnvConfig, *, num_envs: int, seed: int, training: bool) -> ControlEnvs:
        import envpool  # importing it takes a second: not before it is needed

        from rl.step import environment_seeds
        from rl.tasks.control import ControlEnvs

        # Gymnasium's word on the types of EnvPool's bounds, which nobody here looks at.
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        seeds = environment_seeds(seed, num_envs)
        pool = envpool.make_gymnasium(self.env_id, num_envs=num_envs, num_threads=env.threads, seed=seeds, **limit)
        return ControlEnvs(pool, num_envs, self.ended, reward_clip=env.reward_clip, reward_scale=env.reward_scale)


# The rules of Gymnasium's sources: cartpole.py (12 degrees, 2.4), mountain_car.py (goal velocity 0), acrobot.py (reward
# -1 before the end and 0 at it), lunar_lander.py (the last reward is set to -100 or +100).
CONTROL_TASKS = (
    ControlTask(
        name="Acrobot",
        env_id="Acrobot-v1",
        ended=lambda observation, reward: reward == 0,
        target=-100.0,
        center=(0.0,) * 6,
        scale=(1.0, 1.0, 1.0, 1.0, 4.0, 6.0),
    ),
    ControlTask(
        name="CartPole",
        env_id="CartPole-v1",
        ended=lambda observation, reward: (
            (abs(observation[:, 0]) > 2.4) | (abs(observation[:, 2]) > 12 * math.pi / 180)
        ),
        target=475.0,
        center=(0.0,) * 4,
        scale=(1.2, 1.0, 0.1, 1.0),
    ),
    ControlTask(
        name="LunarLander",
        env_id="LunarLander-v3",  # the newest; without wind, as here, v2 has the same dynamics
        ended=lambda observation, reward: abs(reward) == 100,
        target=200.0,
        center=(0.0, 0.7, 0.0, -0.5, 0.0, 0.0, 0.5, 0.5),
        scale=(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    ),
    ControlTask(
        name="MountainCar",
        env_id="MountainCar-v0",
        ended=lambda observation, reward: (observation[:, 0] >= 0.5) & (observation[:, 1] >= 0),
        target=-110.0,
        center=(-0.4, 0.0),
        scale=(0.4, 0.03),
    ),
)


def atari_tasks() -> tuple[AtariTask, ...]:
    """The records of all games in EnvPool's registry, sorted by name."""
    from rl.tasks import atari

    return tuple(AtariTask(name=name, target=ATARI_TARGETS.get(name)) for name in atari.names())
