"""Who takes part in `asgc-rl bench`: this toolkit, other libraries, a script of CleanRL's.

All learn with Nature's settings (Mnih et al., 2015): frames of 84 x 84, batches of 32, one update per 4 environment
steps, or with those of the preset that is named.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.started import started
from evaluation.cli.errors import UserError
from rl import backends
from rl.config import TrainConfig
from rl.evaluate import Policy

BURN_IN = 2_000  # environment steps before the clock starts, half of them without updates
REPLAY = 20_000


@dataclass(frozen=True)
class Setting:
    """What all contestants have in common.

    Attributes:
        learns: to be scored: with the preset's own replay, exploration and start of learning. Else for the speed alone:
            a small replay, and acting greedily from the start, as an action costs late in a run.
        overlap: this toolkit's environments step while it learns.
    """

    game: str
    device: str
    threads: int
    preset: str = "dqn"
    learns: bool = False
    overlap: bool = False

    def config(self, **options: Any) -> TrainConfig:
        """The configuration of a run, without Double DQN, which Stable-Baselines3 does not have."""
        if not self.learns:
            options |= {"replay_size": REPLAY, "learning_starts": BURN_IN // 2, "exploration": {"steps": 1}}
        return TrainConfig.preset(
            self.preset,
            game=self.game,
            device=self.device,
            threads=self.threads,
            tensorboard=False,
            double=False,
            gradients={"enabled": False},
            **options,
        )


class Contestant(Protocol):
    """One that trains when it is told to."""

    def advance(self, steps: int) -> int:
        """Train for at least `steps` environment steps; returns how many it were."""
        ...

    def policy(self) -> Policy:
        """What it has learned so far."""
        ...

    def close(self) -> None: ...


class Ours:
    """This toolkit's trainer, through the same `advance` that `asgc-rl train` calls, perhaps with another backend."""

    def __init__(self, setting: Setting, optimizer: str, precision: str, backend: str = backends.NATIVE) -> None:
        options = {"overlap": setting.overlap} if backend == backends.NATIVE else {}
        config = setting.config(precision=precision, backend=backend, optimizer={"name": optimizer}, **options)
        self._stack = ExitStack()
        self._trainer = self._stack.enter_context(started(config))
        self.config = self._trainer.config

    def advance(self, steps: int) -> int:
        trainer, start = self._trainer, self._trainer.step
        while trainer.step - start < steps:
            trainer.advance()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return int(trainer.step - start)

    def policy(self) -> Policy:
        act: Policy = self._trainer.algorithm.learner.act
        return act

    def close(self) -> None:
        """Close the environments and remove the temporary run folder."""
        self._stack.close()


class StableBaselines3:
    """DQN of Stable-Baselines3 (fp32, Adam) on its own Atari wrappers, one environment as in its zoo."""

    def __init__(self, setting: Setting) -> None:
        try:
            import ale_py
            import gymnasium
            from stable_baselines3 import DQN
            from stable_baselines3.common.env_util import make_atari_env
            from stable_baselines3.common.vec_env import VecFrameStack
        except ImportError as error:
            raise UserError(f"{error.name} is not installed: pip install 'asgc[sb3]'") from error
        config = setting.config()
        plain = TrainConfig()
        frames = (config.env.height, config.env.width, config.env.stack) == (84, 84, 4)
        if not frames or config.network != plain.network:
            raise UserError(
                f"the preset {setting.preset} has other frames or another network than its CnnPolicy on its Atari "
                "wrappers: --against sb3-envpool has the preset's"
            )
        gymnasium.register_envs(ale_py)
        wrapped = make_atari_env(f"ALE/{setting.game}-v5", n_envs=1, seed=1, env_kwargs=ATARI)
        self._envs = VecFrameStack(wrapped, n_stack=4)
        self._model = DQN(
            "CnnPolicy",
            self._envs,
            learning_rate=1e-4,
            buffer_size=config.replay_size if setting.learns else REPLAY // 2,  # it stores every stack twice
            learning_starts=config.learning_starts,
            batch_size=config.batch_size,
            train_freq=config.train_every,
            gradient_steps=config.gradient_steps,
            gamma=config.gamma,
            n_steps=config.n_step,
            target_update_interval=config.target_interval,
            exploration_fraction=config.exploration.steps / config.total_steps,
            exploration_final_eps=config.exploration.end,
            device=setting.device,
            seed=1,
        )
        self._total = config.total_steps

    def advance(self, steps: int) -> int:
        """As its `learn`, whose schedule of exploration is the whole run's."""
        model, start = self._model, self._model.num_timesteps
        _, callback = model._setup_learn(self._total - start, reset_num_timesteps=False)
        while model.num_timesteps - start < steps:
            model.collect_rollouts(
                model.env, callback, model.train_freq, model.replay_buffer, learning_starts=model.learning_starts
            )
            if model.num_timesteps > model.learning_starts:
                model.train(batch_size=model.batch_size, gradient_steps=model.gradient_steps)
        return int(model.num_timesteps - start)

    def policy(self) -> Policy:
        """Greedy but for a share of random actions, on observations (N, 4, 84, 84)."""

        def act(observation: NDArray[Any], epsilon: float, rng: np.random.Generator) -> NDArray[np.int64]:
            greedy = self._model.predict(observation, deterministic=True)[0]
            explore = rng.random(len(observation)) < epsilon
            return np.where(explore, rng.integers(self._model.action_space.n, size=len(observation)), greedy)

        return act

    def close(self) -> None:
        """Close its environments."""
        self._envs.close()


# AtariWrapper skips the frames and makes no action sticky, as the protocol `classic` does; ALE's v5 would do both.
ATARI = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}

PEERS: dict[str, tuple[str, Callable[[Setting], Contestant]]] = {
    "sb3": ("stable-baselines3, adam, fp32", StableBaselines3),
    "sb3-envpool": ("stable-baselines3 on EnvPool, adam, fp32", lambda setting: Ours(setting, "adam", "fp32", "sb3")),
    "tianshou": ("tianshou on EnvPool, adam, fp32", lambda setting: Ours(setting, "adam", "fp32", "tianshou")),
}


def make(who: str, setting: Setting, *options: str) -> Contestant:
    """A contestant by its name: "ours" (with optimizer and precision) or one of `PEERS`."""
    return Ours(setting, *options) if who == "ours" else PEERS[who][1](setting)
