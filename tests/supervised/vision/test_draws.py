"""Random numbers of samples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.vision import draws


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 1000),
    indices=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
)
def test_draws_of_a_sample_are_its_own(seed: int, epoch: int, indices: list[int]) -> None:
    together = draws.uniform(seed, epoch, np.array(indices), 4)
    for row, index in zip(together, indices, strict=True):
        assert (draws.uniform(seed, epoch, np.array([index]), 4)[0] == row).all()
        assert (draws.uniform(seed, epoch, np.array([index]), 2)[0] == row[:2]).all()
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_unrelated() -> None:
    numbers = draws.uniform(3, 5, np.arange(20_000), 3)
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in numbers.T])
    chi2 = ((counts - 2000) ** 2 / 2000).sum(1)
    assert (chi2 < 27.9).all()  # 9 degrees of freedom, one in a thousand
    others = [draws.uniform(4, 5, np.arange(20_000), 3), draws.uniform(3, 6, np.arange(20_000), 3)]
    columns = [*numbers.T, *(column for other in others for column in other.T), [*numbers[1:, 0], 0.5]]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(20_000)
