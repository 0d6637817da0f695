"""Streams of regression samples whose best model is known at every update: what gradients do that are heavy-tailed,
come in bursts, or whose optimum moves, apart from everything else.

A sample is x ~ N(0, diag(spread^2)), y = W(k) x + noise, at update k: W(k) is the optimum of a linear model, with the
risk of the noise. Everything is a pure function of (seed, update, sample).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.runs import seeding
from supervised.order import Indices, Order, Update
from supervised.vision import draws

KINDS = ("gaussian", "heavy-tailed", "bursts", "jumps", "drifting")
INPUTS, OUTPUTS = 16, 4
SPREAD = np.logspace(0, -1, INPUTS)  # of the inputs: second moments 1 to 0.01
EVERY, LENGTH, FACTOR = 100, 5, 100.0  # bursts: so many updates in each hundred, in a row, with so much more noise
JUMP = 250  # updates from one optimum to the next, as from one target network to the next
PERIOD = 2_000  # updates in which a drifting optimum goes round

Array = NDArray[np.float64]


class StreamOrder(Order):
    """Each sample once, in order: a run is one epoch."""

    def __init__(self, batch: int, updates: int) -> None:
        self._batch, self.updates_per_epoch = batch, updates

    def update(self, number: int) -> Update:
        return Update(0, np.arange(number * self._batch, (number + 1) * self._batch), self._batch)

    def samples(self, updates: int) -> int:
        return updates * self._batch


@dataclass(frozen=True)
class RegressionStream:
    """One stream.

    Attributes:
        kind: gaussian: noise of standard deviation 1 and an optimum that stays; heavy-tailed: noise of Student's t
            distribution with 2 degrees of freedom, whose variance is infinite; bursts: noise a hundred times larger in
            5 updates of each 100; jumps: another optimum every 250 updates; drifting: an optimum that goes round in
            2,000.
        seed: of all of it.
        batch: samples of an update.
    """

    kind: str
    seed: int
    batch: int

    def samples(self, indices: Indices) -> tuple[Array, Array]:
        """Inputs (samples, INPUTS) and targets (samples, OUTPUTS) of samples of one update."""
        update = int(indices[0]) // self.batch
        x = SPREAD * _normal(draws.uniform(self.seed, 0, indices, 2 * INPUTS))
        uniform = draws.uniform(self.seed, 1, indices, 2 * OUTPUTS)
        noise = _student(uniform[:, :OUTPUTS]) if self.kind == "heavy-tailed" else _normal(uniform)
        return x, x @ self.optimum(update).T + self.noise_scale(update) * noise

    def optimum(self, update: int) -> Array:
        """W(update), shape (OUTPUTS, INPUTS)."""
        if self.kind == "jumps":
            return self._matrix(update // JUMP)
        if self.kind == "drifting":
            angle = 2 * math.pi * update / PERIOD
            return math.cos(angle) * self._matrix(0) + math.sin(angle) * self._matrix(1)
        return self._matrix(0)

    def noise_scale(self, update: int) -> float:
        """What the noise of an update is multiplied by."""
        if self.kind != "bursts":
            return 1.0
        block, place = divmod(update, EVERY)
        start = np.random.default_rng(seeding.derive(self.seed, "burst", block)).integers(EVERY - LENGTH + 1)
        return FACTOR if start <= place < start + LENGTH else 1.0

    def _matrix(self, number: int) -> Array:
        return np.random.default_rng(seeding.derive(self.seed, "optimum", number)).normal(size=(OUTPUTS, INPUTS))


def _normal(uniform: Array) -> Array:
    """Normal numbers, half as many (Box and Muller 1958)."""
    half = uniform.shape[1] // 2
    return np.sqrt(-2 * np.log1p(-uniform[:, :half])) * np.cos(2 * math.pi * uniform[:, half:])


def _student(uniform: Array) -> Array:
    """Student's t with 2 degrees of freedom, by its quantiles."""
    inner = np.clip(uniform, 2.0**-54, None)
    return (2 * inner - 1) / np.sqrt(2 * inner * (1 - inner))
