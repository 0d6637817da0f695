"""PQN (Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning", arXiv 2407.04811): Q-learning from the
lambda returns of many environments' rollouts, without replay and without target network; LayerNorm keeps it stable.

It differs from the authors' code (mttga/purejaxql) and CleanRL's at the ends of episodes: an automatic reset is no
transition and is not learned from; a truncated step bootstraps; what comes after an end enters no return.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.runs import seeding
from evaluation.runs.hardware import select_channels_last, select_precision
from evaluation.runs.interval_means import IntervalMeans
from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.make_optimizer import make_optimizer, trained
from evaluation.runs.watchers import Column
from rl.algorithms import resident
from rl.algorithms.algorithm import (
    CLIPPING_EVERY,
    STANDARDIZATION_FRAMES,
    Algorithm,
    Learner,
    Part,
    Setup,
    Weights,
    epsilon_at,
)
from rl.algorithms.heads import ExpectedValue
from rl.algorithms.resident_pqn import ResidentPQN
from rl.algorithms.rollout import Rollout
from rl.config import TrainConfig
from rl.networks import QNetwork, build_network
from rl.profile import BACKWARD, FORWARD, STEP, UPLOAD
from rl.step import Step
from rl.tasks import ObservationSpec

ROLLOUT, LEARNING = "rollout.npz", "learning.npz"


class RolloutLearner(Learner):
    """One network, the loss between Q(s, a) and its lambda return, the optimizer.

    The learning rate follows its schedule over `updates` updates.
    """

    def __init__(
        self, config: TrainConfig, num_actions: int, spec: ObservationSpec, device: torch.device, updates: int = 1
    ) -> None:
        super().__init__()
        self.device, self.num_actions = device, num_actions
        self.precision = select_precision(config.precision, device)
        self.head = ExpectedValue(config.loss)
        channels_last = select_channels_last(config.channels_last, device, self.precision)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network = build_network(spec, num_actions, config.network)
        self.network = network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(config.optimizer, config.seed, trained(config.optimizer, self.network))
        self.lr_schedule = LRSchedule(self.optimizer, config.lr_schedule, updates)
        self._make_average(config)
        self.td_losses = torch.compile(self._eager_td_losses) if config.compile else self._eager_td_losses

    def update(self, part: Part) -> dict[str, Tensor]:
        """One gradient step on observations (B, stack, ...), actions (B,) and lambda returns (B,).

        Returns:
            The mean loss and the mean Q(s, a) before it as tensors (no synchronization).
        """
        self.optimizer.zero_grad(set_to_none=True)
        with self.profile(FORWARD):
            losses, q = self.td_losses(part)
            loss = losses.mean()
        with self.profile(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]
        with self.profile(STEP), self.around_step(part, 0):
            self.optimizer.step()
        self.lr_schedule.step()
        return {"loss": loss.detach(), "q": q.detach().mean()}

    def losses(self, part: Part) -> Tensor:
        return self._eager_td_losses(part)[0]

    def _eager_td_losses(self, part: Part, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Loss of each sample and Q(s, a), (B,) each. `weights` replace the network's."""
        observation, action, target = part
        with self.autocast():
            output = self.forward(observation, weights)
        return self.head.losses(output, action, target)


class PQN(Algorithm):
    """Epsilon-greedy rollouts of all environments; from each, `epochs` passes of `minibatches` updates.

    The values in the returns are those that the actions were chosen by. Minibatches are of equal size: where automatic
    resets are missing in a rollout, a few of its transitions come twice in a pass.

    With `overlap` the environments step while the last rollout is learned from, an equal share of its updates with each
    step (`meanwhile`). So an action comes from weights that have seen all rollouts but the one being played and, in
    part, the last one; the values in a return are of up to `epochs * minibatches` updates earlier than its first use;
    and the run's last rollout is not learned from. What happens when does not depend on how fast anything is.
    """

    columns = (
        Column("epsilon", "epsilon", "epsilon", ".3f"),
        Column("loss", "loss", "loss", ".4g"),
        Column("clipped", "clipped", "clipped", ".2%"),
        Column("q", "q", "Q", ".3f"),
    )
    remembers = "the rollouts", "lower --env.num-envs or --pqn.rollout-steps"
    learner: RolloutLearner

    def __init__(self, setup: Setup) -> None:
        self.config = config = setup.config
        self._shifted = setup.shifted
        self.updates = 0
        self.rng = np.random.default_rng(seeding.derive(config.seed, "exploration"))
        self.order_rng = np.random.default_rng(seeding.derive(config.seed, "minibatches"))
        updates = setup.schedule.all_updates
        self.learner = RolloutLearner(config, setup.num_actions, setup.spec, setup.device, updates)
        sizes = (config.pqn.rollout_steps, config.env.num_envs, setup.spec, config.gamma, config.pqn.td_lambda)
        stays = resident.wanted(config, setup.device)
        rollouts = [Rollout(*sizes, setup.device, stacks=stays) for _ in range(_rollouts(config))]
        self.rollout, self._learning = rollouts[0], rollouts[-1]  # being played, and being learned from
        self._batch_size = config.rollout // config.pqn.minibatches
        self._order = np.empty((0, self._batch_size), np.int64)  # transitions of the updates to come, (updates, B)
        self._means = IntervalMeans()
        self.learner.profile = self._profile = setup.profile
        self._resident: ResidentPQN | None = None
        if stays:
            self._resident = ResidentPQN(config, self.learner, rollouts, updates, setup.profile)

    @staticmethod
    def timing(config: TrainConfig) -> dict[str, Any]:
        pqn = config.pqn
        return {
            "learning_starts": 0,
            "train_every": config.rollout,
            "gradient_steps": pqn.epochs * pqn.minibatches,
            "shift": pqn.shift_every * config.rollout or None,
        }

    @staticmethod
    def memory(config: TrainConfig, spec: ObservationSpec) -> int:
        return _rollouts(config) * Rollout.nbytes(config.pqn.rollout_steps, config.env.num_envs, spec)

    @property
    def samples(self) -> int:
        return self.updates * self._batch_size

    def start(self, observation: NDArray[Any]) -> None:
        self.rollout.start(observation)

    def act(self, observation: NDArray[Any], step: int) -> NDArray[np.int64]:
        greedy = self._look()
        return self.learner.explore(
            len(observation), epsilon_at(step, self.config.exploration), self.rng, lambda: greedy
        )

    def _look(self) -> NDArray[np.int64]:
        """The greedy actions (N,) for the newest observations, whose values the last step's returns get."""
        if self._resident is not None:
            best, greedy = self._resident.look(self.rollout.newest)
        else:
            values = self.learner.values(self.rollout.newest)
            best, greedy = values.amax(1).cpu().numpy(), values.argmax(1).cpu().numpy()
        self.rollout.led_to(best)
        return greedy

    def meanwhile(self) -> None:
        if self.config.overlap and len(self._order):
            self._learn(-(-len(self._order) // (self.config.pqn.rollout_steps - self.rollout.position)))

    def advance(self, actions: NDArray[np.int64], result: Step, step: int) -> None:
        with self._profile(UPLOAD):
            self.rollout.add(actions, result)
        if self.rollout.full:
            self._look()
            self._begin()
            if not self.config.overlap:
                self._learn(len(self._order))
            self.rollout.follow(self._learning)

    def cut(self) -> None:
        self._look()
        self.rollout.cut()

    def values(self, observation: NDArray[Any]) -> Tensor:
        return self.learner.values(torch.from_numpy(observation))

    def states(self, count: int, rng: np.random.Generator) -> Tensor | None:
        return self._learning.states(count, rng)

    def part(self, count: int, rng: np.random.Generator) -> Part | None:
        rollout = self._learning
        valid, returns = rollout.remembered()
        if self.updates == 0 or not valid.any():
            return None
        device = self.learner.device
        drawn = torch.from_numpy(rng.choice(np.flatnonzero(valid), count)).to(device)
        samples = rollout.observation[:-1], torch.from_numpy(rollout.action), torch.from_numpy(returns)
        return tuple(tensor.to(device).flatten(0, 1)[drawn] for tensor in samples)

    def _begin(self) -> None:
        """What is full now is to be learned from; the next rollout goes into the other one, where there are two."""
        self._learning, self.rollout = self.rollout, self._learning
        config, network = self.config, self.learner.network
        if self.updates == 0 and config.network.standardize:  # its values so far are those of pixels scaled by 1/255
            assert isinstance(network, QNetwork)  # the configuration's check says so
            frames = self._learning.states(STANDARDIZATION_FRAMES, self.order_rng)
            assert frames is not None
            network.standardize(frames[:, -1])
        transitions = np.flatnonzero(self._learning.valid)
        passes = [
            np.resize(self.order_rng.permutation(transitions), config.rollout).reshape(-1, self._batch_size)
            for _ in range(config.pqn.epochs)
        ]
        self._order = np.concatenate(passes)
        self._prepare()

    def _prepare(self) -> None:
        """What the updates are made of."""
        rollout = self._learning
        if self._resident is not None:
            return self._resident.begin(rollout)
        samples = rollout.observation[:-1], torch.from_numpy(rollout.action), torch.from_numpy(rollout.returns())
        self._samples: Part = tuple(tensor.flatten(0, 1) for tensor in samples)

    def _learn(self, count: int) -> None:
        """The next `count` updates."""
        rows = torch.from_numpy(self._order[:count])
        for row in rows if self._resident is None else self._resident.rows(rows):
            self._means.add(self._update(row))
            if self.updates % CLIPPING_EVERY == 0:
                self._look_at_clipping()
            self.updates += 1
            self.learner.updated(1)
        self._order = self._order[count:]
        each = self.config.pqn.shift_every * self.config.pqn.epochs * self.config.pqn.minibatches
        if each and self.updates % each == 0:
            self.learner.shift()
            self._shifted(self.updates)

    def _update(self, row: Tensor) -> dict[str, Tensor]:
        if self._resident is not None:
            return self._resident.update(self._learning, row)
        return self.learner.update(tuple(tensor.index_select(0, row) for tensor in self._samples))

    def training_values(self, step: int) -> dict[str, float]:
        scheduled = {"epsilon": epsilon_at(step, self.config.exploration)} | self.learner.lr_schedule.values()
        return self._interval_means() | scheduled

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "interval": self._means.state_dict(),
            "rng": self.rng.bit_generator.state,
            "order_rng": self.order_rng.bit_generator.state,
            "order": torch.from_numpy(self._order.copy()),
            "learner": self.learner.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self._means.load_state_dict(state["interval"])
        self.rng.bit_generator.state = state["rng"]
        self.order_rng.bit_generator.state = state["order_rng"]
        self._order = state["order"].cpu().numpy()
        self.learner.load_state_dict(state["learner"])
        self._optimizer_loaded()

    def save(self, folder: Path) -> None:
        self.rollout.save(folder / ROLLOUT)
        if self._learning is not self.rollout:
            self._learning.save(folder / LEARNING)

    def load(self, folder: Path) -> None:
        self.rollout.load(folder / ROLLOUT)
        if self._learning is not self.rollout:
            self._learning.load(folder / LEARNING)
            self._prepare()


def _rollouts(config: TrainConfig) -> int:
    """Rollouts in memory."""
    return 2 if config.overlap else 1
