"""Environments as other libraries expect them: an episode's end and the reset behind it are one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.segment import Segment
from rl.step import Environments, Step


class SameStepSegment(Segment):
    """A `Segment` that resets within the step.

    EnvPool resets in the step after an episode's end, which ignores its action: a pair of observations that is no
    transition. Here the environments that ended take that step at once, alone, so every row of every step is a
    transition of its own environment. It sees the same games as in `Segment`, and is resumed in the same way.

    Attributes:
        observation: to act from: of the new episodes where one has ended (whose last observation is the step's).
        tell: called with what each step returned, then with what its resets did, if there were any.
    """

    def __init__(self, make: Callable[[int], Environments], tell: Callable[[Step], object]) -> None:
        super().__init__(make)
        self.tell = tell
        self._playing = True  # not while actions are played again

    def step(self, actions: NDArray[np.integer], meanwhile: Callable[[], None] = lambda: None) -> Step:
        step = super().step(actions, meanwhile)
        resets = self.envs.reset_ended()
        if resets is not None:
            ended = resets.ignored.reshape(-1, *[1] * (step.observation.ndim - 1))
            self.observation = np.where(ended, resets.observation, step.observation)
        if self._playing:
            self.tell(step)
            if resets is not None:
                self.tell(resets)
        return step

    def load(self, folder: Any, number: int, message: Callable[[str], None]) -> bool:
        self._playing = False
        try:
            return super().load(folder, number, message)
        finally:
            self._playing = True
