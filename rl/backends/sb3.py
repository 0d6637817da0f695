"""DQN of Stable-Baselines3 (Raffin et al., 2021, JMLR 22:268), driven step by step.

What is Stable-Baselines3's own: acting (random until `learning_starts`, then one draw for all environments decides
whether they explore), the replay and its n-step returns, the loss and its gradient, the target network (no Double DQN;
renewed after every `target_interval // num_envs` steps of all environments, before the updates of that step). Its clip
of the gradient's norm (10 by default) is switched off: the optimizer sees the gradient as it is, and clips if it is one
that clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from evaluation.runs import seeding
from evaluation.runs.schedule import Schedule
from rl.algorithms.algorithm import Setup
from rl.backends.base import LibraryDQN
from rl.backends.same_step import SameStepSegment
from rl.config import TrainConfig
from rl.networks import build_network
from rl.trainer import schedule_of

ONE_STEP = TrainFreq(1, TrainFrequencyUnit.STEP)
COUNTERS = (
    "num_timesteps",
    "exploration_rate",
    "_n_calls",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
)
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class SegmentVecEnv(VecEnv):
    """The environments of a segment, as Stable-Baselines3 wants them: reset within the step, the last observation and
    whether the limit cut the episode in `infos`. Rewards are those to learn from; scores are counted elsewhere."""

    def __init__(self, segment: SameStepSegment, observation_space: spaces.Box) -> None:
        self._segment = segment
        super().__init__(segment.envs.num_envs, observation_space, spaces.Discrete(segment.envs.num_actions))

    def reset(self) -> NDArray[Any]:
        """The observations of the games that the trainer has started."""
        return self._segment.observation

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        step = self._segment.step(self._actions)
        ended = step.terminated | step.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(ended):
            infos[i]["terminal_observation"] = step.observation[i]
            infos[i]["TimeLimit.truncated"] = bool(step.truncated[i])
        return self._segment.observation, step.reward, ended, infos

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        """The segment is closed by its trainer."""


class OwnQNetwork(QNetwork):  # type: ignore[misc]
    """Q-values of this package's network, which scales observations itself."""

    def forward(self, obs: Tensor) -> Tensor:
        values: Tensor = self.q_net(obs)
        return values


class OwnPolicy(DQNPolicy):  # type: ignore[misc]
    """A policy of networks that `make_network` makes."""

    def __init__(self, *args: Any, make_network: Any, **kwargs: Any) -> None:
        self._make_network = make_network
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> OwnQNetwork:
        arguments = self._update_features_extractor(self.net_args | {"net_arch": []}, features_extractor=None)
        made = OwnQNetwork(**arguments)
        made.q_net = self._make_network()
        return made.to(self.device)


@dataclass(frozen=True)
class SB3Schedule(Schedule):
    """Target updates come before the learning of their step."""

    def shift_follows(self, update: int) -> bool:
        if self.shift is None:
            return False
        before, after = (self.step_of(number) // self.shift for number in (update, update + 1))
        return after > before


class SB3DQN(LibraryDQN):
    """See the module."""

    @staticmethod
    def schedule(config: TrainConfig) -> Schedule:
        """When what is due."""
        plan, n = schedule_of(config), config.env.num_envs
        return SB3Schedule(**vars(plan) | {"shift": max(config.target_interval // n, 1) * n})

    def __init__(self, setup: Setup, segment: SameStepSegment) -> None:
        super().__init__(setup, segment)
        config, spec = self.config, setup.spec
        limits = (0, 255) if spec.dtype == "uint8" else (-np.inf, np.inf)
        self._env = SegmentVecEnv(segment, spaces.Box(*limits, spec.shape, np.dtype(spec.dtype)))  # type: ignore[call-overload]
        self._model = DQN(
            OwnPolicy,
            self._env,
            learning_rate=lambda _: self._lr,
            buffer_size=config.replay_size,
            learning_starts=config.learning_starts,
            batch_size=config.batch_size,
            gamma=config.gamma,
            n_steps=config.n_step,
            target_update_interval=config.target_interval,
            exploration_fraction=config.exploration.steps / config.total_steps,
            exploration_initial_eps=config.exploration.start,
            exploration_final_eps=config.exploration.end,
            max_grad_norm=float("inf"),
            policy_kwargs={
                "make_network": lambda: build_network(spec, setup.num_actions, config.network),
                "optimizer_class": self.make_optimizer,
            },
            device=setup.device,
        )
        self._model.set_logger(Logger(folder=None, output_formats=[]))
        self._model.action_space.seed(seeding.derive(config.seed, "exploration"))
        policy = self._model.policy
        self.use(policy.q_net.q_net, policy.q_net_target.q_net, policy.optimizer)
        self._callback: Any = None

    @property
    def _lr(self) -> float:
        """The learning rate: what our schedule has made of it; Stable-Baselines3 sets it before every update."""
        learner = getattr(self, "learner", None)
        return self.config.optimizer.lr if learner is None else learner.optimizer.param_groups[0]["lr"]

    def start(self, observation: NDArray[Any]) -> None:
        model = self._model
        if self._callback is None:
            left = self.config.total_steps - model.num_timesteps
            _, self._callback = model._setup_learn(left, reset_num_timesteps=False)
        model._last_obs = observation

    def collect(self, step: int) -> None:
        model = self._model
        model.collect_rollouts(
            self._env, self._callback, ONE_STEP, model.replay_buffer, learning_starts=self.config.learning_starts
        )
        interval = max(self.config.target_interval // self._env.num_envs, 1)
        if model._n_calls % interval == 0:
            self.shift()

    def update(self) -> float:
        self._model.train(gradient_steps=1, batch_size=self.config.batch_size)
        return float(self._model.logger.name_to_value["train/loss"])

    def epsilon(self, step: int) -> float:
        return float(self._model.exploration_rate)

    def cut(self) -> None:
        replay = self._model.replay_buffer
        running = replay.dones[replay.pos - 1] == 0
        replay.dones[replay.pos - 1] = 1
        replay.timeouts[replay.pos - 1][running] = 1  # bootstrapped, and the end of n-step returns

    def stored(self) -> int:
        return self.filled() * self._env.num_envs

    def draw(self, count: int) -> Tensor:
        drawn: Tensor = self._model.replay_buffer.sample(count).observations
        return drawn

    def filled(self) -> int:
        replay = self._model.replay_buffer
        return int(replay.buffer_size if replay.full else replay.pos)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self._model.replay_buffer, name) for name in ARRAYS}

    def state_dict(self) -> dict[str, Any]:
        model = self._model
        return super().state_dict() | {
            "counters": {name: getattr(model, name) for name in COUNTERS},
            "replay": (model.replay_buffer.pos, model.replay_buffer.full),
            "exploration_rng": model.action_space.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        model = self._model
        for name, value in state["counters"].items():
            setattr(model, name, value)
        model.replay_buffer.pos, model.replay_buffer.full = state["replay"]
        model.action_space.np_random.bit_generator.state = state["exploration_rng"]
