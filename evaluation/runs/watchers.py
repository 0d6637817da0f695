"""What looks on while a run goes on: display, mirrors of the metrics, recorder, best model, the user's callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.cli.errors import reason
from evaluation.cli.user_code import UserCodeError
from evaluation.files import atomic_path, is_write_error
from evaluation.runs.metrics_file import MetricRow


@dataclass(frozen=True)
class Evaluated:
    """An evaluation has ended.

    Attributes:
        step: of the run.
        score: what the task counts; higher is better.
        save_model: writes the model that was evaluated to a path.
    """

    step: int
    score: float
    save_model: Callable[[Path], None]


@dataclass(frozen=True)
class Column:
    """A number that displays show.

    Attributes:
        stat: its name among what `Watcher.update` is given.
        plain: its name in plain lines; None: not there.
        live: its label in the live panel; None: not there.
        format: as of Python's `format`, in the live panel.
    """

    stat: str
    plain: str | None
    live: str | None
    format: str


class Watcher:
    """One that looks on. Nothing is asked of it: override what is wanted.

    None of its methods may change the run or draw from the global random generators. `name` is the key of its state
    in checkpoints; one without state needs none. `signal.raise_signal(signal.SIGINT)` stops the run as Ctrl-C does,
    after the present step: saved, and to be resumed.
    """

    name = ""

    def start(self, info: Mapping[str, Any]) -> None:
        """The run begins or goes on; `info` says what it is (see the trainer's `info`), and if it goes on, from which
        `step` and after how many seconds (`wall_s`)."""

    def update(self, stats: Mapping[str, Any]) -> None:
        """A logging interval has ended: its means, `step`, `training_s`, and what else the trainer tells."""

    def advanced(self, step: int, training_s: float, wall_s: float) -> None:
        """The run is at `step`, after so many seconds of training and in all: told a few times a second, if steps are
        not slower."""

    def stepped(self, step: int, result: Any) -> None:
        """All environments have been stepped, and the run is at `step`; `result` is what that gave (of `rl` a
        `rl.step.Step`)."""

    def learned(self, updates: int) -> None:
        """The optimizer has stepped, `updates` times by now: told after a step in which it did, once."""

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint of `step` has been saved in the folder `path`. (It stays for two more.)"""

    def evaluating(self, done: int, total: int) -> None:
        """An evaluation has finished `done` of its games or batches: told at its start and all the time."""

    def message(self, text: str) -> None:
        """A line for the user."""

    def logged(self, rows: Sequence[MetricRow]) -> None:
        """These rows have been written to metrics.jsonl."""

    def evaluated(self, event: Evaluated) -> None:
        """An evaluation has ended and is logged."""

    def shifted(self, updates: int) -> None:
        """The loss has changed after so many updates (a target-network update)."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint that is being written must keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; from the start of the run where `state` is empty."""

    def close(self, finished: bool) -> None:
        """The session ends; `finished`: the run is complete."""


def _each(method: str, at_once: bool = False) -> Any:
    """A method of `Watchers` that calls this one of each member; `at_once`: what the user's code raises is raised."""

    def tell(self: Watchers, *arguments: Any) -> None:
        for member in self.members:
            try:
                getattr(member, method)(*arguments)
            except UserCodeError as error:
                if at_once:
                    raise
                self._failed = self._failed or error

    return tell


class Watchers(Watcher):
    """Several watchers as one, in order; `members` may grow.

    Where the user's code fails while it is told something, the others are told all the same, and the error waits for
    `raise_failed`: in the middle of a step there is nothing that could be saved.
    """

    def __init__(self, members: Iterable[Watcher] = ()) -> None:
        self.members = list(members)
        self._failed: UserCodeError | None = None

    start, evaluating = _each("start", at_once=True), _each("evaluating", at_once=True)
    update, advanced, message, logged = _each("update"), _each("advanced"), _each("message"), _each("logged")
    stepped, learned, saved = _each("stepped"), _each("learned"), _each("saved")
    evaluated, shifted = _each("evaluated"), _each("shifted")

    def raise_failed(self) -> None:
        """Raise the first error of the user's code since the last call, if there was one."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self, finished: bool) -> None:
        """Close all of them, also where one fails."""
        with contextlib.ExitStack() as stack:
            for member in reversed(self.members):
                stack.callback(member.close, finished)

    def state_dict(self) -> dict[str, Any]:
        return {member.name: member.state_dict() for member in self.members if member.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for member in self.members:
            member.load_state_dict(state.get(member.name, {}))


class BestModel(Watcher):
    """Keeps the model of the best evaluation so far beside the run's others.

    A checkpoint holds it, too, so that a resume does not go on with one from after the checkpoint: the evaluation that
    it was best in is not among the run's metrics any more.

    Args:
        path: where; replaced atomically.
        message: shows a line to the user, where it cannot be written.
    """

    name = "best_model"

    def __init__(self, path: Path, message: Callable[[str], None] = lambda line: None) -> None:
        self.path, self._message = path, message
        self.score = -float("inf")
        self.step: int | None = None

    def evaluated(self, event: Evaluated) -> None:
        if not event.score > self.score:  # nor where it is NaN
            return
        try:
            with atomic_path(self.path) as temporary:
                event.save_model(temporary)
        except (OSError, RuntimeError) as error:
            if not is_write_error(error):
                raise
            kept = "there is none" if self.step is None else f"that of step {self.step:,} stays"
            self._message(f"warning: {self.path} cannot be written ({reason(error)}): {kept}")
        else:
            self.score, self.step = event.score, event.step

    def forget(self) -> None:
        """What is scored from here on is another task: its first evaluation is its best."""
        self.score = -float("inf")

    def state_dict(self) -> dict[str, Any]:
        model = self.path.read_bytes() if self.path.is_file() else None
        return {"score": self.score, "step": self.step, "model": model}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score, self.step = state.get("score", -float("inf")), state.get("step")
        if self.step is None:
            self.path.unlink(missing_ok=True)
        elif state.get("model") is not None:  # checkpoints of earlier versions have none
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(state["model"])
