"""The clock of a run: seconds over all its sessions, with evaluations counted apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """`wall_s` counts seconds since the run began, evaluations and checkpoints included, the time between a kill and
    the resume excluded. `evaluation_s` is the part of it spent inside ``with clock.evaluation():``."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._earlier = 0.0
        self.evaluation_s = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds of the run so far."""
        return self._earlier + time.perf_counter() - self._started

    @property
    def training_s(self) -> float:
        """Seconds of the run so far without its evaluations."""
        return self.wall_s - self.evaluation_s

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Count the time spent in the block as evaluation."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.evaluation_s += time.perf_counter() - start

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps of the clock."""
        return {"wall_s": self.wall_s, "evaluation_s": self.evaluation_s}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint: the clock shows what it showed there, and runs on from now."""
        self._started = time.perf_counter()
        self._earlier = state["wall_s"]
        self.evaluation_s = state["evaluation_s"]
