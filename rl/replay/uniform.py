"""What is drawn from a replay: every valid transition with the same probability."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Drawing(Protocol):
    """Chooses rows of a replay: row r is slot r // N of environment r % N."""

    def draw(self, valid: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` rows, with replacement, of those that are `valid` (rows,); there is one at least."""
        ...


class Uniform:
    """All valid rows alike: draw from all, draw again what is not valid."""

    def draw(self, valid: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        rows = rng.integers(len(valid), size=count)
        while len(again := np.flatnonzero(~valid[rows])):
            rows[again] = rng.integers(len(valid), size=len(again))
        return rows
