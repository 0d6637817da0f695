"""What a run records while it learns: the recorder's rows, the gradient-noise scale, DQN's diagnostics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.runs import recorder, seeding
from evaluation.runs.gradient_columns import noise_scale
from evaluation.runs.recorder import GradientRecorder
from evaluation.runs.schedule import Schedule
from evaluation.runs.watchers import Watcher
from rl import tasks
from rl.algorithms import pathologies
from rl.algorithms.algorithm import Algorithm, Part
from rl.algorithms.pathologies import ValueAudit
from rl.config import TrainConfig

GRADIENTS, DIAGNOSTICS = "gradients", "diagnostics"  # splits in metrics.jsonl
AVERAGING = 0.9  # decay, per regular record, of the averages whose ratio is the noise scale


class Recording(Watcher):
    """Watches the learner's optimizer steps; `take` gives what is to be logged.

    The gradient-noise scale B_simple = S / |G|^2 (McCandlish et al. 2018, arXiv 1812.06162) comes from the first half
    of the batch beside the whole, at the cost of half an update. As there, it is the ratio of exponential averages of
    its two estimates over the regular records; the single ones are logged as `noise_trace` and `squared_norm`. A sample
    is one transition.

    Diagnostics (`algorithms.pathologies`): the churn of each regularly recorded update, the rest at every evaluation.
    Their states are drawn from the algorithm's memory anew each time, by a generator made from the seed and the number
    of updates.
    """

    name = "recording"

    def __init__(self, config: TrainConfig, run: Path, algorithm: Algorithm, schedule: Schedule) -> None:
        self._config = config
        self._schedule = schedule
        self._algorithm = algorithm
        self._learner = learner = algorithm.learner
        self._averages: list[float] = []  # of S and |G|^2
        self._values: dict[str, dict[str, float]] = {}
        self._recorder: GradientRecorder | None = None
        if config.gradients.enabled:
            self._recorder = GradientRecorder(
                run / recorder.FOLDER,
                learner.network.named_parameters(),
                learner.optimizer,
                interval=config.gradients.interval,
                offsets=config.gradients.offsets or (),
            )

    def around_step(self, step: int, update: int, part: Part) -> contextlib.AbstractContextManager[None]:
        """A context for the optimizer step of update number `update` on the samples `part`, in environment step
        `step`."""
        if self._recorder is None:
            return contextlib.nullcontext()
        event = self._due(update)
        return contextlib.nullcontext() if event is None else self._record(step, update, event, part)

    def watches(self, update: int, count: int = 1) -> bool:
        """Whether one of the `count` updates from number `update` on will be recorded; to be asked before them, of all
        updates in order."""
        if self._recorder is None:
            return False
        due = [self._due(update + k) for k in range(count)]
        return due != [None] * count

    def _due(self, update: int) -> str | None:
        assert self._recorder is not None
        return self._recorder.due(update, self._schedule.shift_follows(update))

    @contextlib.contextmanager
    def _record(self, step: int, update: int, event: str, part: Part) -> Iterator[None]:
        assert self._recorder is not None
        if event != recorder.INTERVAL:
            with self._recorder.record(step, update, event):
                yield
            return
        if part and len(part[0]) > 1:  # another library's update does not say what it learned from
            self._values[GRADIENTS] = self._noise_scale(part)
        states = self._algorithm.states(pathologies.CHURN_STATES, self._rng("churn", update))
        before = None if states is None else pathologies.greedy_actions(self._learner, states)
        with self._recorder.record(step, update, event):
            yield
        if states is not None and before is not None:
            after = pathologies.greedy_actions(self._learner, states)
            self._values[DIAGNOSTICS] = {"churn": pathologies.churn(before, after)}

    def audit(self) -> ValueAudit | None:
        """For an evaluation that is about to start: its policy, and what it shows its steps to; None where off."""
        if self._recorder is None:
            return None
        protocol = tasks.find(self._config.game).family.protocol(self._config.env.protocol)
        return ValueAudit(self._learner, self._config.gamma, episodic_life=protocol.episodic_life)

    def audited(self, audit: ValueAudit | None, updates: int) -> dict[str, float]:
        """Diagnostics to log after that evaluation, made after so many updates; empty where off."""
        if audit is None:
            return {}
        return audit.figures() | pathologies.network_health(
            self._learner, self._algorithm.states, self._rng("health", updates)
        )

    def _rng(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(seeding.derive(self._config.seed, "diagnostics", purpose, number))

    def _noise_scale(self, part: Part) -> dict[str, float]:
        batch, size = len(part[0]), len(part[0]) // 2
        whole = [param.grad for param in self._learner.network.parameters() if param.grad is not None]
        estimates = noise_scale(whole, self._learner.gradients(part, size), batch, size)
        before = self._averages or estimates
        self._averages = [AVERAGING * a + (1 - AVERAGING) * b for a, b in zip(before, estimates, strict=True)]
        trace, square = self._averages
        return {
            "noise_scale": trace / square if square > 0 else float("inf"),
            "noise_trace": estimates[0],
            "squared_norm": estimates[1],
        }

    def shifted(self, updates: int) -> None:
        if self._recorder is not None:
            self._recorder.shift(updates)

    def take(self) -> dict[str, dict[str, float]]:
        """Metrics since the last call, by split: those of the last regular record."""
        values, self._values = self._values, {}
        return values

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; the rows so far are written."""
        if self._recorder is None:
            return {}
        self._recorder.flush()
        return {"recorder": self._recorder.state_dict(), "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or from the start: what was written after it goes."""
        self._averages = state.get("averages", [])
        if self._recorder is not None:
            self._recorder.load_state_dict(state.get("recorder") or GradientRecorder.START)
