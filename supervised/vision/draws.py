"""Random numbers of single samples: pure functions of (seed, epoch, index), whichever batch, process or order asks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.runs import seeding
from supervised.order import Indices

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_seeds(seed: int, epoch: int, indices: Indices) -> NDArray[np.uint64]:
    """A 64-bit seed for each sample of an epoch."""
    key = np.uint64(seeding.derive(seed, "augment", epoch)) << np.uint64(32)
    return _mix(key + np.asarray(indices, np.uint64))


def uniform(seed: int, epoch: int, indices: Indices, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), shape (samples, count): those of a sample are its own, whatever else is in the batch."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(sample_seeds(seed, epoch, indices)[:, None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195), after a step."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
