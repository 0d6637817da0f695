"""What is known of a run while it goes on: the display's interface and the statistics of a logging interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Display(Protocol):
    """What `train` shows a person; `rl.display` has the terminal's."""

    def start(self, info: dict[str, Any]) -> None: ...
    def update(self, stats: dict[str, Any]) -> None: ...
    def message(self, text: str) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """A display that shows nothing: the default from Python."""

    def start(self, info: dict[str, Any]) -> None: ...
    def update(self, stats: dict[str, Any]) -> None: ...
    def message(self, text: str) -> None: ...
    def stop(self) -> None: ...


class IntervalStatistics:
    """Means over a logging interval, kept as tensors until asked for, so that a GPU is not waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._scores: list[float] = []

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one observation of each of these quantities."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else torch.zeros(()) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_scores(self, scores: list[float]) -> None:
        """Add the scores of games that ended."""
        self._scores += scores

    def take(self) -> dict[str, float]:
        """The means since the last call; what has no value yet is left out."""
        means = {name: value.item() / self._counts[name] for name, value in self._sums.items()}
        if self._scores:
            means |= {"return": float(np.mean(self._scores)), "episodes": len(self._scores)}
        self._sums, self._counts, self._scores = {}, {}, []
        return means

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints between two logging steps."""
        return {"sums": self._sums, "counts": self._counts, "scores": self._scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._sums, self._counts, self._scores = state["sums"], state["counts"], state["scores"]


def clipping(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The last step's clipped fraction and attenuation, averaged over layers; empty for optimizers without them."""
    diagnostics = getattr(optimizer, "diagnostics", None)
    if diagnostics is None:
        return {}
    layers = diagnostics()
    if not layers:  # before the first step
        return {}
    return {name: float(np.mean([layer[name] for layer in layers])) for name in ("clipped", "attenuation")}
