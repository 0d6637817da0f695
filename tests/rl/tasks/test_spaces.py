"""Gymnasium's spaces as frames."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from evaluation.cli.errors import UserError
from rl.tasks.spaces import number_of_actions, observed


@pytest.mark.parametrize(
    ("shape", "frame"),
    [((5, 7), (5, 7)), ((5, 7, 3), (3, 5, 7)), ((3, 5, 7), (3, 5, 7)), ((4, 84, 84), (4, 84, 84))],
)
def test_pictures_in_every_layout(shape: tuple[int, ...], frame: tuple[int, ...]) -> None:
    found = observed(spaces.Box(0, 255, shape, np.uint8), "x")
    assert (found.spec.shape, found.spec.dtype, found.spec.stack) == ((1, *frame), "uint8", 1)
    batch = np.random.default_rng(0).integers(256, size=(2, *shape), dtype=np.uint8)
    seen = found.convert(batch)
    assert seen.shape == (2, 1, *frame)
    assert seen.flags["C_CONTIGUOUS"]
    assert not np.shares_memory(seen, batch)
    if shape == (5, 7, 3):
        assert np.array_equal(seen[1, 0, 2], batch[1, :, :, 2])
    else:
        assert np.array_equal(seen[:, 0], batch)


def test_pictures_of_true_and_false_are_black_and_white() -> None:
    found = observed(spaces.Box(0, 1, (10, 10, 4), np.bool_), "x")
    batch = np.zeros((1, 10, 10, 4), np.bool_)
    batch[0, 1, 2, 3] = True
    seen = found.convert(batch)
    assert (seen.dtype, seen.sum(), seen[0, 0, 3, 1, 2]) == (np.uint8, 255, 255)


def test_vectors_are_scaled_by_their_bounds_where_they_have_some() -> None:
    low = np.array([-2.0, -np.inf, 0.0, -3e38, 1.0])
    high = np.array([4.0, np.inf, 1.0, 3e38, 1.0])
    found = observed(spaces.Box(low, high, dtype=np.float64), "x")
    assert found.spec.center == (1.0, 0.0, 0.5, 0.0, 0.0)
    assert found.spec.scale == (3.0, 1.0, 0.5, 1.0, 1.0)
    seen = found.convert(np.ones((2, 5)))
    assert (seen.shape, seen.dtype) == ((2, 1, 5), np.float32)
    assert observed(spaces.Box(0, 255, (128,), np.uint8), "RAM").spec.scale == (127.5,) * 128


def test_numbers_become_vectors_with_a_single_one() -> None:
    seen = observed(spaces.Discrete(3, start=5), "x").convert(np.array([5, 7]))
    assert seen.tolist() == [[[1, 0, 0]], [[0, 0, 1]]]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), r"x: its observations are Dict\('a': Discrete\(2\)\), neither"),
        (spaces.Tuple([spaces.Discrete(2)]), "FlattenObservation"),
        (spaces.Box(0, 1, (84, 84, 3)), "make it uint8, 0 to 255, for a picture"),
        (spaces.MultiDiscrete([2, 3]), "FlattenObservation"),
    ],
)
def test_other_observations_are_one_line_that_says_what_to_wrap(space: gymnasium.Space[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        observed(space, "x")


def test_only_discrete_actions() -> None:
    assert number_of_actions(spaces.Discrete(4, start=1), "x") == 4
    with pytest.raises(UserError, match=r"x: its actions are Box\(-1.0, 1.0, \(2,\), float32\).*TransformAction"):
        number_of_actions(spaces.Box(-1, 1, (2,)), "x")
