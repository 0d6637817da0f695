"""What the trainer asks of a task: its data, model, loss and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from evaluation.runs.watchers import Column
from supervised.distributed import Group
from supervised.order import Indices, Order

if TYPE_CHECKING:
    from supervised.config import TrainConfig

Batch = tuple[Tensor, ...]  # of one forward pass
VALIDATION, TRAIN_SUBSET = "validation", "train_subset"  # splits that every task has


@dataclass(frozen=True)
class Loss:
    """Of a batch.

    Attributes:
        total: sum over its items (images, target tokens), differentiable.
        values: sums that are logged as means over the items, by name.
    """

    total: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What an evaluation on one split gave.

    Attributes:
        score: higher is better.
        values: more, by name, logged beside it.
        words: how the score was made, for people: "top-1 accuracy on 10,000 images".
        summary: for summary.json, of the last evaluation.
        compared: of validation data, where the training score cannot be measured as `score` is: the score measured as
            that one is, for the generalization gap.
    """

    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    words: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    compared: float | None = None


def united(parts: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """What several processes say in `Task.skipped`, each sample once."""
    splits = sorted({split for part in parts for split in part})
    return {split: sorted({index for part in parts for index in part.get(split, ())}) for split in splits}


class Task(ABC):
    """One task of a run, made from its configuration. Its data is opened (and prepared) when it is made.

    Attributes:
        order: which samples each update learns from.
        item: what losses are means over, in the plural: "images", "target tokens".
        things: what evaluations go through, in the plural: "images", "sentences".
        columns: what displays show of it beside loss and learning rate.
        others: more splits, which only the last evaluation of a run looks at: "test".
        updates: that the model has learned from, at an evaluation: who evaluates sets it.
        in_memory: whether `fetch` is so cheap that processes beside the trainer do not pay.
    """

    order: Order
    item: ClassVar[str]
    things: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = ()
    others: tuple[str, ...] = ()
    updates: int = 0
    in_memory: bool = True

    def __init__(self, config: TrainConfig, group: Group, message: Callable[[str], None]) -> None:
        """Raises `UserError` where data is missing or broken: says what to get and where to put it."""
        self.config, self.group, self.message = config, group, message

    @staticmethod
    @abstractmethod
    def build(config: TrainConfig, facts: Mapping[str, Any]) -> nn.Module:
        """The model of a configuration, drawn from the global generator, without its data.

        Args:
            facts: of the data, as `facts` gives them and models' files keep them.
        """

    def make_model(self) -> nn.Module:
        """The model."""
        return self.build(self.config, self.facts())

    @abstractmethod
    def fetch(self, indices: Indices, epoch: int) -> Batch:
        """Training samples as a batch on the CPU, augmented as a pure function of (seed, epoch, index).

        May be called in another process.
        """

    @abstractmethod
    def passes(self, indices: Indices) -> int:
        """Forward passes that the samples of one update, shared among the processes, take on each device."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss of a batch on the model's device."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str, *, final: bool, tell: Callable[[int, int], None]) -> Scores:
        """Score of a model in evaluation mode, under the trainer's autocast, without gradients.

        Args:
            split: "validation"; "train_subset": a fixed, un-augmented part of what is trained on; or one of `others`.
            final: whether it is the run's last evaluation, which may take longer.
            tell: to be called with how many samples are done, and of how many.
        """

    @abstractmethod
    def size(self, split: str) -> int:
        """Samples of a split as the last evaluation takes them."""

    @abstractmethod
    def signature(self) -> dict[str, Any]:
        """How the scores are made: what must be equal before they are compared."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a model needs to know of the data (classes, vocabulary): plain values, kept in the models' files."""

    def contents(self) -> dict[str, str]:
        """What differs where the data is other data of the same kind and number, by names for people. A run is not
        resumed on such data, though its models may be used with it. May look at every file."""
        return {}

    def skipped(self) -> dict[str, list[int]]:
        """By split, samples that this process has found to be unreadable: checkpoints keep them."""
        return {}

    def skip(self, found: Mapping[str, list[int]]) -> None:  # noqa: B027 - optional
        """Take over what all processes of an earlier session found."""

    def summary(self) -> dict[str, Any]:
        """More for summary.json, of the whole run; says it as well. All processes call it after the last evaluation."""
        return {}

    def keep(self, run: Path) -> None:  # noqa: B027 - optional
        """Put into a run folder what its models need to be used without the data."""

    @property
    def target(self) -> float | None:
        """The usual score for time to threshold, where there is one."""
        return None
