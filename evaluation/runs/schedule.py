"""When things are due in a run: pure functions of its step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """What is due after which step of a run that moves `stride` steps at a time. All numbers count steps.

    Attributes:
        total: length of the run.
        stride: steps of one advance: environments stepped together, samples of a batch.
        log, evaluation, checkpoint: intervals; what is due at the end of the run is not asked here.
        learning_starts, train_every, gradient_steps: `gradient_steps` updates every `train_every` steps after
            `learning_starts`.
        shift: steps from one change of the loss (a target-network update) to the next; None: it never changes.
        segment: steps after which the source of the data is made anew (environments); None: never.
        switches: steps from which on another task is learned: the loss changes there, too.
    """

    total: int
    stride: int
    log: int
    evaluation: int
    checkpoint: int
    learning_starts: int = 0
    train_every: int = 1
    gradient_steps: int = 1
    shift: int | None = None
    segment: int | None = None
    switches: tuple[int, ...] = ()

    def due(self, step: int, interval: int | None) -> bool:
        """Whether the advance that ended at `step` reached a multiple of `interval`."""
        return interval is not None and step // interval > (step - self.stride) // interval

    def switched(self, step: int) -> bool:
        """Whether the advance that ended at `step` reached a switch."""
        return any(step - self.stride < switch <= step for switch in self.switches)

    def finished(self, step: int) -> bool:
        """Whether `step` ends the run."""
        return step >= self.total

    def logs(self, step: int) -> bool:
        """Whether metrics are logged at `step`: the first and the last one, too."""
        return step == self.stride or self.finished(step) or self.due(step, self.log)

    def updates(self, step: int) -> int:
        """Updates that are due by `step`, from the start."""
        return max(0, step - self.learning_starts) // self.train_every * self.gradient_steps

    @property
    def all_updates(self) -> int:
        """Updates of the whole run, which ends with a whole advance."""
        return self.updates(-(-self.total // self.stride) * self.stride)

    def step_of(self, update: int) -> int:
        """The step after which update number `update` (from 0) is made."""
        due = self.learning_starts + (update // self.gradient_steps + 1) * self.train_every
        return -(-due // self.stride) * self.stride

    def shift_follows(self, update: int) -> bool:
        """Whether the loss changes between update number `update` and the next one. (A shift that is due at a step
        comes after the updates of that step.)"""
        first, next_one = self.step_of(update), self.step_of(update + 1)
        if any(first <= -(-switch // self.stride) * self.stride < next_one for switch in self.switches):
            return True
        return self.shift is not None and (next_one - self.stride) // self.shift > (first - self.stride) // self.shift
