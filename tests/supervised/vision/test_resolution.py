"""Progressive resolution."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from supervised.vision.resolution import resolution_at


@given(start=st.integers(8, 300), end=st.integers(8, 300), epochs=st.floats(0.1, 60))
def test_it_goes_from_start_to_end(start: int, end: int, epochs: float) -> None:
    sides = [resolution_at(epoch, epochs, start, end) for epoch in range(70)]
    rises = [b - a for a, b in itertools.pairwise(sides)]
    assert all(rise * (end - start) >= 0 for rise in rises)
    assert all(min(start, end) <= side <= max(start, end) for side in sides)
    step = 32 if end >= 128 else 4
    assert all(side % step == 0 for side in sides if side not in (start, end))
    assert set(sides[max(0, int(epochs) - 1 + (epochs % 1 > 0)) :]) == {end}
    if epochs > 2:
        assert abs(sides[0] - start) <= step / 2


def test_without_a_start_it_stays() -> None:
    assert [resolution_at(epoch, 10, None, 224) for epoch in (0, 5, 20)] == [224] * 3


def test_a_recipe() -> None:
    assert [resolution_at(epoch, 4, 128, 224) for epoch in range(4)] == [128, 160, 192, 224]
    assert [resolution_at(epoch, 3, 16, 32) for epoch in range(4)] == [16, 24, 32, 32]
