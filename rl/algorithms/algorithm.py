"""What the trainer asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from evaluation.runs.interval_means import IntervalMeans, clipping, clipping_on_device
from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.schedule import Schedule
from evaluation.runs.watchers import Column
from evaluation.runs.weight_average import WeightAverage
from rl import graphs
from rl.algorithms.heads import Head
from rl.algorithms.resident import Resident
from rl.config import TrainConfig
from rl.networks import Network
from rl.option_groups import ExplorationConfig
from rl.profile import NoProfile, Profile
from rl.step import Step
from rl.tasks import ObservationSpec

Part = tuple[Tensor, ...]  # the samples of one update
Weights = dict[str, Tensor]  # of a network, by their parameters' names
CLIPPING_EVERY = 16  # updates between two looks at the share of clipped gradients
STANDARDIZATION_FRAMES = 2048


def epsilon_at(step: int, config: ExplorationConfig) -> float:
    """Linear epsilon schedule: `start` at step 0, `end` from `steps` on."""
    fraction = min(step / config.steps, 1.0)
    return config.start + fraction * (config.end - config.start)


class Learner(ABC):
    """A network, its optimizer, and the loss between them: what recorders and diagnostics look at.

    Attributes:
        network: the online network; `optimizer` steps its parameters, `head` says what its outputs mean.
        device, precision: where, and "bf16" or "fp32".
        around_step: called with the samples of each update once its gradients are there, and its number after those
            that are counted; the optimizer steps in the context that it returns.
        td_losses: loss of each sample of an update and Q(s, a), (B,) each, from other `Weights` where any are given.
        watched: asked before the next so many updates whether somebody looks at one of them.
        profile: told how long the parts of an update take.
        lr_schedule: of the learning rate, stepped after each update.
        average: of the network's weights, if that is what evaluations play.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    lr_schedule: LRSchedule
    head: Head
    device: torch.device
    precision: str
    num_actions: int
    td_losses: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self) -> None:
        self.around_step: Callable[[Part, int], AbstractContextManager[None]] = lambda part, ahead: nullcontext()
        self.watched: Callable[[int], bool] = lambda count: False
        self.profile: Profile = NoProfile()
        self.average: WeightAverage[Network] | None = None

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass: bfloat16 matrix products, float32 parameters and values."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def forward(self, observation: Tensor, weights: Weights | None = None) -> Tensor:
        """What the network makes of observations; `weights` replace those of these names."""
        output: Tensor = (
            functional_call(self.network, weights, (observation,)) if weights else self.network(observation)
        )
        return output

    @torch.inference_mode()
    def values(self, observation: Tensor) -> Tensor:
        """Q-values (N, A), float32, of observations (N, stack, ...)."""
        with self.autocast():
            return self.head.values(self.network(observation.to(self.device)))

    def act(
        self, observation: NDArray[Any], epsilon: float, rng: np.random.Generator, values: Tensor | None = None
    ) -> NDArray[np.int64]:
        """Epsilon-greedy actions (N,) for observations (N, stack, ...); `values`: theirs, where they are known."""

        def greedy() -> NDArray[np.int64]:
            known = self.values(torch.from_numpy(observation)) if values is None else values
            return known.argmax(dim=1).cpu().numpy()

        return self.explore(len(observation), epsilon, rng, greedy)

    def explore(
        self, n: int, epsilon: float, rng: np.random.Generator, greedy: Callable[[], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Actions (n,): a random one with probability epsilon, else the greedy one (asked for only if needed)."""
        explore = rng.random(n) < epsilon
        actions = rng.integers(self.num_actions, size=n)
        return actions if explore.all() else np.where(explore, actions, greedy())

    @contextmanager
    def evaluated(self) -> Iterator[Network]:
        """In the block it plays as evaluations do: in evaluation mode, with the average of its weights, where there is
        one."""
        online, training = self.network, self.network.training
        if self.average is not None:
            self.average.copy_buffers()
            self.network = self.average.network
        self.network.eval()
        try:
            yield self.network
        finally:
            self.network = online.train(training)

    def updated(self, count: int) -> None:
        """So many updates have been done."""
        if self.average is not None:
            self.average.update(count)

    def _make_average(self, config: TrainConfig) -> None:
        if config.ema_decay is not None:
            self.average = WeightAverage(self.network, config.ema_decay)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning goes on from."""
        state = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "lr_schedule")}
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state.get("lr_schedule", {}))  # earlier versions had none
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def renew(self) -> None:  # noqa: B027 - optional
        """Draw what is random in the coming update, into tensors that stay where they are."""

    def shift(self) -> None:
        """Tell the optimizer that its loss has changed, if it wants to know."""
        shift = getattr(getattr(self, "optimizer", None), "shift", None)
        if shift is not None:
            shift()

    @abstractmethod
    def losses(self, part: Part) -> Tensor:
        """The loss of each sample of an update (B,), differentiable."""

    def gradients(self, part: Part, size: int) -> list[Tensor]:
        """Gradients of the mean loss over the first `size` samples of an update, a tensor for each parameter that has
        a `.grad`, which stays."""
        self.network.eval()  # a look: it takes no step of a spectral norm's power iteration
        loss = self.losses(tuple(tensor[:size] for tensor in part)).mean()
        self.network.train()
        learned = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        return list(torch.autograd.grad(loss, learned, materialize_grads=True))


@dataclass(frozen=True)
class Setup:
    """What an algorithm is made for: `shifted` is to be called with the number of updates whenever the loss has
    changed, `profile` to be told how long things take."""

    config: TrainConfig
    spec: ObservationSpec
    num_actions: int
    device: torch.device
    schedule: Schedule
    shifted: Callable[[int], None]
    profile: Profile = field(default_factory=NoProfile)


class Algorithm(ABC):
    """What acts, remembers and learns.

    The trainer calls, over and over: `act`, then the environments, then `advance`. `start` comes before the first
    `act`, and again after a `cut`.

    Attributes:
        columns: what displays show of it.
        remembers: its memory of transitions and what makes that smaller, for messages.
        learner: its network and optimizer.
        rng: what exploration draws from.
        updates: done so far; `samples`: what they learned from.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    remembers: ClassVar[tuple[str, str]]
    learner: Learner
    updates: int
    rng: np.random.Generator
    _means: IntervalMeans
    _resident: Resident[Any] | None = None

    @abstractmethod
    def __init__(self, setup: Setup) -> None: ...

    @property
    @abstractmethod
    def samples(self) -> int: ...

    @staticmethod
    @abstractmethod
    def timing(config: TrainConfig) -> dict[str, Any]:
        """When it learns: `learning_starts`, `train_every`, `gradient_steps` and `shift` of the run's `Schedule`."""

    @staticmethod
    @abstractmethod
    def memory(config: TrainConfig, spec: ObservationSpec) -> int:
        """Bytes that its memory of transitions takes, on the device and, at most, in a checkpoint."""

    @abstractmethod
    def start(self, observation: NDArray[Any]) -> None:
        """New games have begun in all environments, with these observations (N, stack, ...)."""

    @abstractmethod
    def act(self, observation: NDArray[Any], step: int) -> NDArray[np.int64]:
        """Actions (N,) to train with, exploration included, after `step` environment steps."""

    def _look_at_clipping(self) -> None:
        """Add what clipping did in the last step to the interval's means, without waiting for a device."""
        look = clipping if self._resident is None else clipping_on_device
        self._means.add(look(self.learner.optimizer))

    def _interval_means(self) -> dict[str, float]:
        """The interval's means, which it begins anew."""
        if self._resident is not None:
            clipping(self.learner.optimizer)  # replays do not look for gradients that are never finite; this does
        return self._means.take()

    def _optimizer_loaded(self) -> None:
        """Its state may come from another kind of device."""
        if self._resident is None:
            graphs.prepare(self.learner.optimizer, self.learner.device, captured=False)
        else:
            self._resident.loaded()

    def meanwhile(self) -> None:  # noqa: B027 - optional
        """What can be done while the environments step: comes between `act` and `advance`."""

    @abstractmethod
    def advance(self, actions: NDArray[np.int64], result: Step, step: int) -> None:
        """Take in what the actions led to, and learn as much as is due at `step` environment steps."""

    @abstractmethod
    def cut(self) -> None:
        """End all running episodes as truncated: their environments are made anew. Then comes `start`."""

    @abstractmethod
    def values(self, observation: NDArray[Any]) -> Tensor:
        """Values of the actions (N, A), float32, for observations (N, stack, ...)."""

    @abstractmethod
    def states(self, count: int, rng: np.random.Generator) -> Tensor | None:
        """`count` observations that it remembers, drawn with `rng` alone; None as long as there is none."""

    def part(self, count: int, rng: np.random.Generator) -> Part | None:
        """`count` samples that it remembers as `Learner.losses` takes them, drawn with `rng` alone; None as long as
        there is none, and of another library's algorithm."""
        return None

    @abstractmethod
    def training_values(self, step: int) -> dict[str, float]:
        """What is to be logged: means since the last call."""

    def progress(self) -> dict[str, Any]:
        """What displays show beside these."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that acting and learning go on from, but what `save` writes."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def save(self, folder: Path) -> None:  # noqa: B027 - optional
        """Write what is too large for `state_dict` into a folder of a checkpoint."""

    def load(self, folder: Path) -> None:  # noqa: B027
        """Read what `save` wrote."""
