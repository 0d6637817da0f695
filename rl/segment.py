"""Environments that can be resumed: a segment is what they played since they were made.

Environments cannot be saved (EnvPool gives no state away), but they are deterministic: the same seed and actions give
the same observations. So the actions since they were made are kept, a byte each, and a resume makes them anew, plays
the actions again and compares the observation. Nothing is cut, wherever the run was stopped. So that playing again
stays short, a long run makes its environments anew now and then, at fixed steps: a new segment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.step import Environments, Step

ACTIONS = "actions.npy"
OBSERVATION = "observation.npy"
TELL_EVERY = 50_000  # environment steps between two messages while actions are played again


class Segment:
    """N environments and the actions that they have played since they were made.

    Args:
        make: number of the segment -> its environments, always the same ones for the same number.

    Attributes:
        number: of the segment, from 0.
        observation: the newest, (N, stack, ...).
        envs: the environments.
    """

    observation: NDArray[Any]

    def __init__(self, make: Callable[[int], Environments]) -> None:
        self._make = make
        self.number = 0
        self.envs = make(0)
        self._kind = np.dtype(np.uint8 if self.envs.num_actions <= 256 else np.int32)
        self._actions = bytearray()

    def start(self) -> None:
        """New games in all environments of the segment."""
        self.observation = self.envs.reset()
        self._actions.clear()

    def renew(self, number: int) -> None:
        """Make the environments of another segment in place of these; then comes `start`."""
        self.envs.close()
        self.envs = self._make(number)
        self.number = number

    def step(self, actions: NDArray[np.integer], meanwhile: Callable[[], None] = lambda: None) -> Step:
        """Step all environments with actions (N,), integers in [0, A); `meanwhile` is called while they step."""
        self.envs.send(actions)
        meanwhile()
        step = self.envs.receive()
        self._actions += actions.astype(self._kind).tobytes()
        self.observation = step.observation
        return step

    def save(self, folder: Path) -> None:
        """Write the actions and the newest observation into a folder."""
        actions = np.frombuffer(self._actions, self._kind).reshape(-1, self.envs.num_envs)
        np.save(folder / ACTIONS, actions)
        np.save(folder / OBSERVATION, self.observation)

    def load(self, folder: Path, number: int, message: Callable[[str], None]) -> bool:
        """Play segment `number` again as far as `save` found it; comes before anything is played.

        Returns:
            Whether that led to the same observation. If not (or if an earlier version of this package saved no
            actions), the environments are not where they were; then comes `renew`.
        """
        if not (folder / ACTIONS).is_file():
            return False
        if number != self.number:  # fresh ones of this number are what is needed
            self.renew(number)
        self.start()
        played = np.load(folder / ACTIONS)
        told, total = 0, played.size
        for row, actions in enumerate(played):
            self.step(actions)
            if (row + 1) * len(actions) - told >= TELL_EVERY:
                told = (row + 1) * len(actions)
                message(f"playing the environments' actions again: {told:,} of {total:,} steps")
        return np.array_equal(self.observation, np.load(folder / OBSERVATION))

    def close(self) -> None:
        """Free the environments."""
        self.envs.close()
