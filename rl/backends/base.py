"""What the backends share: a trainer in which a library steps the environments, learns and is listened to."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.runs.interval_means import IntervalMeans
from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.make_optimizer import make_optimizer
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.schedule import Schedule
from evaluation.runs.watchers import Watchers
from rl import backends
from rl.algorithms.algorithm import (
    CLIPPING_EVERY,
    STANDARDIZATION_FRAMES,
    Algorithm,
    Learner,
    Part,
    Setup,
    epsilon_at,
)
from rl.algorithms.dqn import DQN
from rl.algorithms.heads import ExpectedValue
from rl.backends.same_step import SameStepSegment
from rl.config import TrainConfig
from rl.networks import Network, QNetwork
from rl.step import Step
from rl.tasks import ObservationSpec
from rl.trainer import Trainer

REPLAY = "replay"
NUMBERS = 32  # bytes of a transition beside its observations, at most


class LibraryTrainer(Trainer):
    """A `Trainer` whose algorithm steps the environments itself."""

    algorithm: LibraryDQN
    segment: SameStepSegment

    def __init__(self, config: TrainConfig, run: RunFolder, device: torch.device, watchers: Watchers) -> None:
        self._library = backends.load(config.backend)
        super().__init__(config, run, device, watchers)
        used = backends.BACKENDS[config.backend].version()
        run.note(backend=used)
        watchers.message(f"{used} learns, in fp32; recorded gradients come without the noise scale")

    def _make_schedule(self, config: TrainConfig) -> Schedule:
        schedule: Schedule = self._library.schedule(config)
        return schedule

    def _make_segment(self) -> SameStepSegment:
        return SameStepSegment(self._make_envs, self._stepped)

    def _stepped(self, step: Step) -> None:
        if not step.ignored.any():  # else it is only of resets
            self.result = step
        self.tracker.add(step)

    def _make_algorithm(self, setup: Setup) -> LibraryDQN:
        algorithm: LibraryDQN = self._library(setup, self.segment)
        return algorithm

    def _play(self) -> None:
        """One step of all environments, each a transition, and the learning that is due with it."""
        self.algorithm.collect(self.step)
        self.step += self.config.env.num_envs
        self.algorithm.learn(self.schedule.updates(self.step))

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.algorithm.start(self.segment.observation)


class LibraryLearner(Learner):
    """A library's network and optimizer, in the eyes of recorders and evaluations.

    `around_step` is called without samples: the library does not give them away.
    """

    def __init__(self, network: Network, optimizer: torch.optim.Optimizer, setup: Setup) -> None:
        super().__init__()
        self.network, self.optimizer = network, optimizer
        self.head = ExpectedValue(setup.config.loss)
        self.device, self.precision, self.num_actions = setup.device, "fp32", setup.num_actions
        self._around = contextlib.ExitStack()
        optimizer.register_step_pre_hook(lambda *_: self._around.enter_context(self.around_step((), 0)) and None)
        optimizer.register_step_post_hook(lambda *_: self._around.close())

    def losses(self, part: Part) -> Tensor:
        raise NotImplementedError("the loss is the library's")


class LibraryDQN(Algorithm):
    """The DQN of a library: `collect` steps the environments, `learn` makes the updates that are due.

    A subclass makes the library's objects and hands `use` what is looked at from here.
    """

    columns = tuple(column for column in DQN.columns if column.stat != "q")  # which a library does not give away
    schedule: ClassVar[Any]  # (config) -> Schedule
    remembers, timing = DQN.remembers, staticmethod(DQN.timing)
    learner: LibraryLearner

    def __init__(self, setup: Setup, segment: SameStepSegment) -> None:
        self.setup, self.config, self.segment = setup, setup.config, segment
        self.updates = 0
        self._means = IntervalMeans()

    def use(self, network: Network, target_network: Network, optimizer: torch.optim.Optimizer) -> None:
        """What the library made."""
        self.learner = LibraryLearner(network, optimizer, self.setup)
        self._networks = network, target_network
        self.lr_schedule = LRSchedule(optimizer, self.config.lr_schedule, self.setup.schedule.all_updates)

    def make_optimizer(self, params: Any, **_: Any) -> torch.optim.Optimizer:
        """The configuration's optimizer, whatever else a library would give it."""
        return make_optimizer(self.config.optimizer, self.config.seed, params)

    # What a library does --------------------------------------------------------------------------------------------

    @abstractmethod
    def collect(self, step: int) -> None:
        """Act in all environments once, after `step` environment steps, and store what came of it."""

    @abstractmethod
    def update(self) -> float:
        """One update; returns its loss."""

    @abstractmethod
    def stored(self) -> int:
        """Transitions in the replay."""

    @abstractmethod
    def draw(self, count: int) -> Tensor:
        """`count` observations of the replay, drawn as for an update."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The replay's arrays, oldest axis first: (size, environments, ...); views, not copies."""

    @abstractmethod
    def filled(self) -> int:
        """How far the first axis of `arrays` is filled."""

    # What the trainer asks ------------------------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        return self.updates * self.config.batch_size

    @staticmethod
    def memory(config: TrainConfig, spec: ObservationSpec) -> int:
        """Both stacks of every transition are stored, and some numbers."""
        stack = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        return config.replay_size * (2 * stack + NUMBERS)

    def act(self, observation: NDArray[Any], step: int) -> NDArray[np.int64]:
        raise NotImplementedError("the library acts")

    def advance(self, actions: NDArray[np.int64], result: Step, step: int) -> None:
        raise NotImplementedError("the library steps the environments")

    def learn(self, due: int) -> None:
        """Updates until `due` are done."""
        if self.updates == 0 < due and self.config.network.standardize:
            frames = self.draw(STANDARDIZATION_FRAMES)[:, -1].to(self.setup.device)
            for network in self._networks:
                assert isinstance(network, QNetwork)  # the configuration's check says so
                network.standardize(frames)
        while self.updates < due:
            self._means.add({"loss": self.update()})
            self.lr_schedule.step()
            if self.updates % CLIPPING_EVERY == 0:
                self._look_at_clipping()
            self.updates += 1

    def shift(self) -> None:
        """The target network has been renewed: tell the optimizer and the watchers."""
        self.learner.shift()
        self.setup.shifted(self.updates)

    def values(self, observation: NDArray[Any]) -> Tensor:
        return self.learner.values(torch.from_numpy(observation))

    def states(self, count: int, rng: np.random.Generator) -> Tensor | None:
        rows, observations = self.filled(), self.arrays()["observations"]
        if not rows:
            return None
        drawn = observations[rng.integers(rows, size=count), rng.integers(observations.shape[1], size=count)]
        return torch.from_numpy(drawn)

    def training_values(self, step: int) -> dict[str, float]:
        return self._means.take() | {"epsilon": self.epsilon(step)} | self.lr_schedule.values()

    def epsilon(self, step: int) -> float:
        """Share of random actions after `step` environment steps."""
        return epsilon_at(step, self.config.exploration)

    def progress(self) -> dict[str, Any]:
        count = self.stored()
        return {"replay": count, "replay_share": min(count / self.config.replay_size, 1.0)}

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        network, target_network = self._networks
        return {
            "updates": self.updates,
            "interval": self._means.state_dict(),
            "network": network.state_dict(),
            "target_network": target_network.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "lr_schedule": self.lr_schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self._means.load_state_dict(state["interval"])
        for network, name in zip(self._networks, ("network", "target_network"), strict=True):
            network.load_state_dict(state[name])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state["lr_schedule"])

    def save(self, folder: Path) -> None:
        (folder / REPLAY).mkdir()
        for name, array in self.arrays().items():
            np.save(folder / REPLAY / f"{name}.npy", array[: self.filled()])

    def load(self, folder: Path) -> None:
        """Comes after `load_state_dict`, which says how far the replay is filled."""
        for name, array in self.arrays().items():
            saved = np.load(folder / REPLAY / f"{name}.npy", mmap_mode="r")
            array[: len(saved)] = saved
