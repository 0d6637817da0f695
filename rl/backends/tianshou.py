"""DQN of Tianshou 2 (Weng et al., 2022, JMLR 23:267), through its collector and its algorithm's `update`.

What is Tianshou's own: acting, the replay and its n-step returns, the loss and its gradient, the target network
(renewed before every `target_interval / train_every * gradient_steps`-th update).

Its trainer is not used. Before every update it looks through the whole replay for NaNs (`hasnull` in
`OnlineTrainer._collect_training_data`, 2.0.0 and 2.0.1), and so copies all of it: an Atari run of its examples slows
down to a few steps a second as the replay fills, and does not get to where DQN begins to score (thu-ml/tianshou#1285).
Nor are two options of those examples: `save_only_last_obs` builds stacks anew from single frames, with other frames
after a lost life than EnvPool's, which the agent acted on; `ignore_obs_next` bootstraps a game that was cut from the
observation before its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tianshou.algorithm import DQN
from tianshou.algorithm.algorithm_base import policy_within_training_step
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import TorchOptimizerFactory
from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
from torch import Tensor, nn

from evaluation.runs import seeding
from evaluation.runs.schedule import Schedule
from rl.algorithms.algorithm import Setup
from rl.backends.base import LibraryDQN
from rl.backends.same_step import SameStepSegment
from rl.config import TrainConfig
from rl.networks import Network, build_network
from rl.trainer import schedule_of

ARRAYS = {"observations": "obs", "next_observations": "obs_next", "actions": "act", "rewards": "rew"}
ARRAYS |= {name: name for name in ("terminated", "truncated", "done")}
COUNTERS = ("_insertion_idx", "_size", "_ep_return", "_ep_len", "_ep_start_idx")  # of the replay of one environment


class SegmentVectorEnv:
    """The environments of a segment, as Tianshou's collector wants them: it asks for the reset of those that ended."""

    is_async = False

    def __init__(self, segment: SameStepSegment) -> None:
        self._segment = segment
        self.action_space = spaces.Discrete(segment.envs.num_actions)

    def __len__(self) -> int:
        return self._segment.envs.num_envs

    def reset(self, env_id: NDArray[Any] | None = None, **_: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """The observations to act from: resets have been made within the step."""
        observation = self._segment.observation
        observation = observation if env_id is None else observation[env_id]
        return observation, self._infos(len(observation))

    def step(self, action: NDArray[Any], id: NDArray[Any] | None = None) -> tuple[NDArray[Any], ...]:
        """Step all environments: the collector leaves none out, as it counts steps and not episodes."""
        step = self._segment.step(action)
        return step.observation, step.reward, step.terminated, step.truncated, self._infos(len(self))

    def close(self) -> None:
        """The segment is closed by its trainer."""

    @staticmethod
    def _infos(count: int) -> NDArray[Any]:
        return np.array([{} for _ in range(count)], object)


class Model(nn.Module):
    """This package's network as Tianshou calls one."""

    def __init__(self, network: Network, device: torch.device) -> None:
        super().__init__()
        self.network, self._device = network, device

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        return self.network(torch.as_tensor(obs, device=self._device)), state


@dataclass(frozen=True)
class TianshouSchedule(Schedule):
    """Target updates come before every `renewal`-th update."""

    renewal: int = 1

    def shift_follows(self, update: int) -> bool:
        return (update + 1) % self.renewal == 0


class TianshouDQN(LibraryDQN):
    """See the module."""

    @staticmethod
    def schedule(config: TrainConfig) -> Schedule:
        """When what is due."""
        plan = schedule_of(config)
        renewal = round(config.target_interval / config.train_every * config.gradient_steps)
        return TianshouSchedule(**vars(plan), renewal=max(1, renewal))

    def __init__(self, setup: Setup, segment: SameStepSegment) -> None:
        super().__init__(setup, segment)
        config, spec, device = self.config, setup.spec, setup.device
        assert isinstance(setup.schedule, TianshouSchedule)
        self._renewal = setup.schedule.renewal
        self._env = SegmentVectorEnv(segment)
        self._policy = DiscreteQLearningPolicy(
            model=Model(build_network(spec, setup.num_actions, config.network).to(device), device),
            action_space=self._env.action_space,
        )
        self._dqn = DQN(
            policy=self._policy,
            optim=TorchOptimizerFactory(self.make_optimizer),
            gamma=config.gamma,
            n_step_return_horizon=config.n_step,
            target_update_freq=self._renewal,
            is_double=config.double,
            huber_loss_delta=1.0 if config.loss == "huber" else None,
        )
        self._replay = self._make_replay()
        self._collector = Collector[CollectStats](
            self._dqn, self._env, self._replay, exploration_noise=True, raise_on_nan_in_buffer=False
        )
        self.use(self._policy.model.network, self._dqn.model_old.module.network, self._dqn.optim._optim)

    def _make_replay(self) -> VectorReplayBuffer:
        """An empty replay with all its arrays, each environment's part with random numbers of its own."""
        n, spec = len(self._env), self.setup.spec
        replay = VectorReplayBuffer(self.config.replay_size, n)
        size = replay.maxsize
        frames = {key: np.zeros((size, *spec.shape), spec.dtype) for key in ("obs", "obs_next")}
        flags = {key: np.zeros(size, np.bool_) for key in ("terminated", "truncated", "done")}
        numbers = {"act": np.zeros(size, np.int64), "rew": np.zeros(size)}
        replay.set_batch(Batch(**frames, **flags, **numbers, info=Batch(), policy=Batch()))
        for i, one in enumerate((replay, *replay.buffers)):
            one._random_state = np.random.RandomState(seeding.derive(self.config.seed, "replay", i))
        return replay

    def start(self, observation: NDArray[Any]) -> None:
        self._collector.reset_env()

    def collect(self, step: int) -> None:
        self._policy.set_eps_training(self.epsilon(step))
        with policy_within_training_step(self._policy):
            self._collector.collect(n_step=len(self._env))

    def update(self) -> float:
        if self.updates and self.updates % self._renewal == 0:
            self.shift()
        with policy_within_training_step(self._policy):
            return float(self._dqn.update(self._replay, self.config.batch_size).loss)

    def cut(self) -> None:
        replay = self._replay
        last = replay.last_index[[len(one) > 0 for one in replay.buffers]]
        replay.truncated[last] |= ~replay.done[last]
        replay.done[last] = True
        for one in replay.buffers:
            one._ep_return, one._ep_len, one._ep_start_idx = 0.0, 0, one._insertion_idx

    def stored(self) -> int:
        return len(self._replay)

    def draw(self, count: int) -> Tensor:
        return torch.from_numpy(self._replay.sample(count)[0].obs)

    def filled(self) -> int:
        return len(self._replay.buffers[0])  # all alike: they are filled together

    def arrays(self) -> dict[str, NDArray[Any]]:
        n = len(self._env)
        whole = {name: self._replay._meta[key] for name, key in ARRAYS.items()}
        return {name: array.reshape(n, -1, *array.shape[1:]).swapaxes(0, 1) for name, array in whole.items()}

    def state_dict(self) -> dict[str, Any]:
        replay = self._replay
        return super().state_dict() | {
            "iterations": self._dqn._iter,
            "replay": [{name: getattr(one, name) for name in COUNTERS} for one in replay.buffers],
            "replay_rng": [one._random_state.get_state() for one in (replay, *replay.buffers)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._dqn._iter = state["iterations"]
        replay = self._replay
        for i, (one, counters) in enumerate(zip(replay.buffers, state["replay"], strict=True)):
            for name, value in counters.items():
                setattr(one, name, value)
            one.last_index[0] = (one._insertion_idx - 1) % max(1, len(one))
            replay.last_index[i] = one.last_index[0] + replay._offset[i]
            replay._lengths[i] = len(one)
        for one, rng in zip((replay, *replay.buffers), state["replay_rng"], strict=True):
            one._random_state.set_state(rng)
