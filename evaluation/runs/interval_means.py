"""Means over a logging interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asgc import ASGC
from asgc import gradient_statistics as statistics
from asgc.wrapped import Wrapped


class IntervalMeans:
    """Means over a logging interval, kept as tensors until asked for, so that a GPU is not waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one observation of each of these quantities, or all that a tensor holds."""
        for name, value in values.items():
            count = 1
            if isinstance(value, Tensor) and value.numel() > 1:
                count, value = value.numel(), value.sum()
            self._sums[name] = self._sums[name] + value if name in self._sums else torch.zeros(()) + value
            self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, float]:
        """The means since the last call; what has no value yet is left out."""
        means = {name: value.item() / self._counts[name] for name, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints between two logging steps."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._sums, self._counts = state["sums"], state["counts"]


def clipping_on_device(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`clipping` as tensors, without waiting for the device."""
    if not isinstance(optimizer, ASGC | Wrapped):
        return {}
    states = optimizer.statistics if isinstance(optimizer, Wrapped) else optimizer.state
    layers = [statistics.averages(state["stats"]) for state in states.values() if "stats" in state]
    if not layers:
        return {}
    means = torch.stack(layers).mean(0)
    return {"clipped": means[statistics.CLIPPED], "attenuation": means[statistics.ATTENUATION]}


def clipping(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The last step's clipped fraction and attenuation, averaged over layers; empty for optimizers without them."""
    diagnostics = getattr(optimizer, "diagnostics", None)
    layers = diagnostics() if diagnostics is not None else []  # none before the first step
    if not layers:
        return {}
    return {name: float(np.mean([layer[name] for layer in layers])) for name in ("clipped", "attenuation")}
