"""What the loop (`evaluation.runs.loop`) asks of a trainer and of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from evaluation.runs.schedule import Schedule


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation gave.

    Attributes:
        score: what the task counts, higher is better.
        words: what it is of, for people: "mean of 10 evaluation games".
        values: more about it, logged beside the score.
        others: {split: {name: value}} logged with it.
        summary: for summary.json, of the last evaluation.
    """

    score: float
    words: str
    values: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


class RunConfig(Protocol):
    """What the loop reads of a configuration."""

    seed: int
    tensorboard: bool
    track: Any
    checkpoint_minutes: float

    def to_dict(self) -> dict[str, Any]: ...


class Trainer(Protocol):
    """What trains. Everything random in it comes from seeds derived from the run's, or from the global generators.

    Attributes:
        schedule: when what is due.
        device: where it computes.
        step: steps so far; `samples`: what it learned from so far.
        midway: optional; whether `advance` was left by code of the user's in a state that no uninterrupted run is in.
        loads_on: optional; the device that checkpoints are read onto, if it is not `device`.
        gather: optional; a method that brings what several processes hold (`evaluation.runs.agreement`) to the main
            one, called in all of them before that one is asked for `state_dict`, `save` or `save_model`.
    """

    schedule: Schedule
    device: torch.device
    step: int

    @property
    def samples(self) -> int: ...

    def info(self) -> dict[str, Any]:
        """What a display shows at the start."""
        ...

    def start(self) -> None:
        """Begin the run."""
        ...

    def advance(self) -> Mapping[str, Mapping[str, float]]:
        """`schedule.stride` steps and the learning that is due with them; returns what is to be logged at once, by
        split."""
        ...

    def training_values(self) -> dict[str, float]:
        """What is logged of training: means since the last call."""
        ...

    def progress(self) -> dict[str, Any]:
        """What displays show beside these."""
        ...

    def evaluate(self, number: int, *, final: bool) -> EvaluationResult:
        """Evaluation number `number` of the run; the training must not notice.

        It tells the watchers how far it is (`Watchers.evaluating`), often: that is where a signal ends it.
        """
        ...

    def measures(self) -> dict[str, Any]:
        """`target`, `last_k` and `signature` of the scores, for `run_metrics.summarize`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def save(self, folder: Path) -> None:
        """Write what is too large for `state_dict` into a folder of a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; comes after `load_state_dict`."""
        ...

    def save_model(self, path: Path) -> None: ...

    def close(self) -> None: ...
