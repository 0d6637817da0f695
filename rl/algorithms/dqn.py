"""DQN (Mnih et al., 2015) with Double DQN (van Hasselt et al., 2016) and n-step returns, on a replay of frames.

With a head of C51 and a dueling, noisy network (`--preset rainbow`) it is Rainbow (Hessel et al. 2018, arXiv
1710.02298).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from rl.algorithms.heads import make_head
from rl.algorithms.resident_dqn import ResidentDQN
from rl.config import TrainConfig
from rl.networks import QNetwork, build_network
from rl.noisy import Noise
from rl.profile import BACKWARD, FORWARD, SAMPLE, STEP, UPLOAD
from rl.replay.device_ring import DeviceReplay
from rl.replay.prioritized import Prioritized
from rl.replay.ring import Batch, FrameReplay, Layout, WeightedBatch
from rl.replay.uniform import Uniform
from rl.step import Step
from rl.tasks import ObservationSpec

REPLAY = "replay"
TRANSITIONS_AT_ONCE = 512  # sampled and valued by the target network together
UPDATES_AT_ONCE = 64  # of them; an ASGC may be captured that often in one CUDA graph
JOINED = 256  # samples of a batch that passes through the network together with its next observations
PRIORITY_BYTES = 9  # of a transition in a prioritized replay


def replay_layout(config: TrainConfig, spec: ObservationSpec) -> Layout:
    """The replay of a configuration."""
    sizes = (config.replay_size, config.env.num_envs, spec.frame, spec.stack, config.n_step, config.gamma)
    return Layout(*sizes, dtype=np.dtype(spec.dtype).name)


class QLearner(Learner):
    """Online and target network, temporal-difference loss, optimizer.

    An update minimizes the loss between Q(s, a) and

        y = R_n + discount * Q_target(s', a*),   a* = argmax Q(s', .) (double) or argmax Q_target(s', .)

    where the replay gives the n-step reward sum R_n and discount = gamma^m, or 0 after a terminal step. The learning
    rate follows its schedule over `updates` of them.

    Noisy layers have noise of their own in each forward pass (Fortunato et al. 2018, section 3.1), the same for all
    samples: in the online network's, which is learned from, in its choice of a*, and in the target network's, which is
    one for all parts of a batch. To act, each environment has its own, drawn anew at each step. `values` is without.
    """

    def __init__(
        self, config: TrainConfig, num_actions: int, spec: ObservationSpec, device: torch.device, updates: int = 1
    ) -> None:
        super().__init__()
        self.device = device
        self.num_actions = num_actions
        self.double = config.double
        self.precision = select_precision(config.precision, device)
        self.head = make_head(config.head, config.loss, device)
        channels_last = select_channels_last(config.channels_last, device, self.precision)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network, self.target_network = (
            build_network(spec, num_actions, config.network, config.head.per_action).to(
                device,
                memory_format=memory_format,  # type: ignore[call-overload]
            )
            for _ in range(2)
        )
        self.target_network.requires_grad_(False)
        if self.precision == "bf16":
            # Autocast would round the same weights in every update; done here, it is done once a synchronization.
            for layer in self.target_network.rounded_layers():
                layer.to(torch.bfloat16)
        self.sync_target()
        self.noise = {
            use: Noise(network, seeding.derive(config.seed, "noise", use), samples)
            for use, network, samples in (
                ("online", self.network, 1),
                ("choice", self.network, 1),
                ("target", self.target_network, 1),
                ("act", self.network, config.env.num_envs),
            )
        }
        self.optimizer = make_optimizer(config.optimizer, config.seed, trained(config.optimizer, self.network))
        self.lr_schedule = LRSchedule(self.optimizer, config.lr_schedule, updates)
        self._make_average(config)
        # On a GPU a pass of a small batch takes as long as its kernels are many: two batches are one. On a CPU, or with
        # large batches, it takes as long as they are large, and what chooses actions would have gradients for nothing.
        small = config.batch_size <= JOINED and resident.wanted(config, device)
        alike = not config.network.noisy and config.network.cls is None  # no noise of their own, no batch statistics
        self._joined = self.double and small and alike
        self.td_losses = torch.compile(self._eager_td_losses) if config.compile else self._eager_td_losses

    def updates(
        self,
        batch: Batch,
        count: int,
        weights: Tensor | None = None,
        after: Callable[[int, Tensor], None] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """One gradient step on each of `count` equal parts of a batch.

        The target network does not change between them, so it values the next observations of all parts at once: the
        same numbers for less time than part by part.

        Args:
            weights: (B,), factors on the samples' losses.
            after: called with the number of each part and the errors of its samples.

        Yields:
            After each step, the mean loss and the mean Q(s, a) of its part as tensors (no synchronization).
        """
        self.noise["target"].draw()
        with self.profile(FORWARD):
            tensors = self.part(batch, *(() if weights is None else (weights,)))
        for number, part in enumerate(zip(*(tensor.chunk(count) for tensor in tensors), strict=True)):
            self.optimizer.zero_grad(set_to_none=True)
            self.noise["online"].draw()
            self.noise["choice"].draw()
            with self.profile(FORWARD):
                losses, q = self.td_losses(part)
                loss = self.weighted(losses, part).mean()
            with self.profile(BACKWARD):
                loss.backward()  # type: ignore[no-untyped-call]
            with self.profile(STEP), self.around_step(part, 0):
                self.optimizer.step()
            self.lr_schedule.step()
            if after is not None:
                after(number, self.errors(losses))
            yield {"loss": loss.detach(), "q": q.detach().mean()}

    def renew(self) -> None:
        for use in ("target", "online", "choice"):
            self.noise[use].draw()

    def part(self, batch: Batch, *weights: Tensor) -> Part:
        """What `losses` takes: a batch, what the target network says of its next observations, and weights (B,) where
        there are any."""
        with torch.no_grad(), self.autocast(), self.noise["target"].applied():
            next_output = self.target_network(batch.next_observation)
        observations = batch.observation, batch.action, batch.reward, batch.next_observation
        return (*observations, next_output, batch.discount, *weights)

    def losses(self, part: Part) -> Tensor:
        return self.weighted(self._eager_td_losses(part)[0], part)

    def weighted(self, losses: Tensor, part: Part) -> Tensor:
        """The losses (B,) that are averaged: times the importance weights, where a part has them."""
        return losses * part[6] if len(part) > 6 else losses

    @torch.no_grad()
    def errors(self, losses: Tensor) -> Tensor:
        """What prioritized replay goes by (B,): |TD error|, or of a head that has none its loss."""
        errors = getattr(self.head, "errors", None)
        return losses.detach() if errors is None else errors(losses.detach())

    def _eager_td_losses(self, part: Part, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Loss of each sample and Q(s, a), (B,) each; noise as it was drawn last. `weights` replace the network's."""
        observation, action, reward, next_observation, next_output, discount = part[:6]
        with self.autocast():
            if self._joined:
                output, chooser = self.forward(torch.cat((observation, next_observation)), weights).chunk(2)
            else:
                with torch.no_grad(), self.noise["choice"].applied():
                    chooser = self.forward(next_observation, weights) if self.double else next_output
                with self.noise["online"].applied():
                    output = self.forward(observation, weights)
        with torch.no_grad():
            best = self.head.values(chooser).argmax(dim=1, keepdim=True)
            target = self.head.target(next_output, best, reward, discount)
        return self.head.losses(output, action, target)

    def sync_target(self) -> None:
        """Copy the online network into the target network and tell the optimizer that its loss has changed."""
        self.target_network.load_state_dict(self.network.state_dict())
        self.shift()

    def standardize(self, frames: Tensor) -> None:
        """Fix the input scaling of both networks from single frames (n, height, width); see QNetwork.standardize."""
        for network in (self.network, self.target_network):
            assert isinstance(network, QNetwork)  # the configuration's check says so
            network.standardize(frames.to(self.device))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "target_network": self.target_network.state_dict(),
            "noise": {use: noise.state_dict() for use, noise in self.noise.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target_network.load_state_dict(state["target_network"])
        for use, generator in state.get("noise", {}).items():
            self.noise[use].load_state_dict(generator)


class DQN(Algorithm):
    """Epsilon-greedy acting, a replay, and `gradient_steps` updates every `train_every` environment steps.

    With `overlap` what is due after a step (updates, a target update) is done while the environments take the next one,
    for which the actions have been chosen already: they lack it. What is drawn stays the same, and what happens when
    does not depend on how fast anything is. The run's last step is not learned from.
    """

    columns = (
        Column("epsilon", "epsilon", "epsilon", ".3f"),
        Column("loss", "loss", "loss", ".4g"),
        Column("clipped", "clipped", "clipped", ".2%"),
        Column("replay", "replay", None, "d"),
        Column("q", None, "Q", ".3f"),
        Column("replay_share", None, "replay", ".0%"),
    )
    remembers = "the replay", "lower --replay-size"
    learner: QLearner

    def __init__(self, setup: Setup) -> None:
        self.config = config = setup.config
        self._schedule, self._shifted = setup.schedule, setup.shifted
        self.updates = 0
        self.rng = np.random.default_rng(seeding.derive(config.seed, "exploration"))
        self.replay_rng = np.random.default_rng(seeding.derive(config.seed, "replay"))
        updates = setup.schedule.all_updates
        self.learner = QLearner(config, setup.num_actions, setup.spec, setup.device, updates)
        self._resident: ResidentDQN | None = None
        self.replay = self._make_replay(setup)
        self._means = IntervalMeans()
        self._owed: int | None = None  # the environment step whose updates are to come
        self.learner.profile = self._profile = setup.profile
        if isinstance(self.replay, DeviceReplay):
            self._resident = ResidentDQN(config, self.learner, self.replay, updates, setup.profile)

    def _make_replay(self, setup: Setup) -> FrameReplay:
        config, device = setup.config, setup.device
        layout, prioritized, drawing = replay_layout(config, setup.spec), config.prioritized, None
        if prioritized.enabled:
            rows = layout.slots * layout.num_envs
            drawing = Prioritized(rows, prioritized.alpha, config.batch_size, device)
        return (DeviceReplay if resident.wanted(config, device) else FrameReplay)(layout, device, drawing)

    @staticmethod
    def timing(config: TrainConfig) -> dict[str, Any]:
        return {
            "learning_starts": config.learns_after,
            "train_every": config.train_every,
            "gradient_steps": config.gradient_steps,
            "shift": config.target_interval,
        }

    @staticmethod
    def memory(config: TrainConfig, spec: ObservationSpec) -> int:
        layout = replay_layout(config, spec)
        priorities = PRIORITY_BYTES * layout.slots * layout.num_envs if config.prioritized.enabled else 0
        return layout.nbytes + priorities

    @property
    def samples(self) -> int:
        return self.updates * self.config.batch_size

    def start(self, observation: NDArray[Any]) -> None:
        self.replay.start(observation)

    def act(self, observation: NDArray[Any], step: int) -> NDArray[np.int64]:
        epsilon = epsilon_at(step, self.config.exploration)
        with self.learner.noise["act"].draw().applied():
            if self._resident is not None:
                return self.learner.explore(len(observation), epsilon, self.rng, self._resident.greedy)
            return self.learner.act(observation, epsilon, self.rng)

    def values(self, observation: NDArray[Any]) -> Tensor:
        return self.learner.values(torch.from_numpy(observation))

    def advance(self, actions: NDArray[np.int64], result: Step, step: int) -> None:
        with self._profile(UPLOAD):
            self.replay.add(actions, result)
        self._owed = step
        if not self.config.overlap:
            self.meanwhile()

    def meanwhile(self) -> None:
        """Do what is due after the step that was taken in last, if it is not done."""
        if self._owed is None:
            return
        step, self._owed = self._owed, None
        self.learn(self._schedule.updates(step))
        if self._schedule.due(step, self._schedule.shift):
            self.learner.sync_target()
            self._shifted(self.updates)

    def learn(self, due: int) -> None:
        """Updates until `due` are done, or none yet: a small ring may hold no transition after a cut."""
        config = self.config
        if not len(self.replay):
            return
        if self.updates == 0 < due and config.network.standardize:
            frames = self.replay.sample(STANDARDIZATION_FRAMES, self.replay_rng, Uniform()).observation[:, -1]
            self.learner.standardize(frames)
        at_once = min(max(1, TRANSITIONS_AT_ONCE // config.batch_size), UPDATES_AT_ONCE)
        if config.prioritized.enabled:
            at_once = min(at_once, config.prioritized.updates_per_draw)
        while self.updates < due:
            for values in self._updates(min(due - self.updates, at_once)):
                self._means.add(values)
                count = values["loss"].numel()
                if -self.updates % CLIPPING_EVERY < count:
                    self._look_at_clipping()
                self.updates += count
                self.learner.updated(count)

    def _updates(self, count: int) -> Iterator[dict[str, Tensor]]:
        """Updates on transitions that are drawn together."""
        if self._resident is not None:
            return self._resident.updates(count, self._beta())
        with self._profile(SAMPLE):
            batch = self.replay.sample(count * self.config.batch_size, self.replay_rng)
        priorities = self.replay.priorities
        if priorities is None or not isinstance(batch, WeightedBatch):
            return self.learner.updates(batch, count)
        rows = batch.rows.view(count, -1)
        weights = priorities.weights(rows, self._beta()).view(-1)
        return self.learner.updates(
            batch, count, weights, lambda number, errors: priorities.update(rows[number], errors)
        )

    def _beta(self) -> float:
        """Exponent of the importance weights: linearly to 1 over the updates of the run."""
        start = self.config.prioritized.beta
        return start + (1 - start) * min(1.0, self.updates / max(1, self._schedule.all_updates))

    def cut(self) -> None:
        self.meanwhile()
        self.replay.cut()

    def states(self, count: int, rng: np.random.Generator) -> Tensor | None:
        return self.replay.sample(count, rng, Uniform()).observation if len(self.replay) else None

    def part(self, count: int, rng: np.random.Generator) -> Part | None:
        return self.learner.part(self.replay.sample(count, rng, Uniform())) if len(self.replay) else None

    def training_values(self, step: int) -> dict[str, float]:
        scheduled = {"epsilon": epsilon_at(step, self.config.exploration)} | self.learner.lr_schedule.values()
        return self._interval_means() | scheduled

    def progress(self) -> dict[str, Any]:
        count = len(self.replay)
        return {"replay": count, "replay_share": min(count / self.config.replay_size, 1.0)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "owed": self._owed,
            "interval": self._means.state_dict(),
            "rng": self.rng.bit_generator.state,
            "replay_rng": self.replay_rng.bit_generator.state,
            "learner": self.learner.state_dict(),
            "resident": {} if self._resident is None else self._resident.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self._owed = state.get("owed")
        self._means.load_state_dict(state["interval"])
        self.rng.bit_generator.state = state["rng"]
        self.replay_rng.bit_generator.state = state["replay_rng"]
        self.learner.load_state_dict(state["learner"])
        if self._resident is not None:
            self._resident.load_state_dict(state.get("resident", {}))
        self._optimizer_loaded()

    def save(self, folder: Path) -> None:
        self.replay.save(folder / REPLAY)

    def load(self, folder: Path) -> None:
        self.replay.load(folder / REPLAY)
