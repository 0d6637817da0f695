"""Which elements a rank holds, for every placement, and that its noise is that of the whole tensor."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from asgc.noise import noise, noise_at
from asgc.placement import Piece, piece_of

SHAPES = st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple)


def elements(piece: Piece) -> torch.Tensor:
    """Row-major indices in the whole tensor."""
    index = torch.arange(math.prod(piece.shape)).view(piece.shape)
    for d, along in enumerate(piece.along):
        index = index.index_select(d, along)
    return index


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.tuples(st.integers(1, 4), st.integers(1, 3)), st.data())
def test_pieces_cover_a_tensor_once_and_carry_its_noise(shape: Any, mesh: tuple[int, int], data: Any) -> None:
    dims = st.integers(0, len(shape) - 1)
    first, second = (
        data.draw(
            st.one_of(
                st.just(Replicate()),
                dims.map(Shard),
                st.builds(_StridedShard, dims, split_factor=st.integers(2, 3)),
            )
        )
        for _ in mesh
    )
    placements = (first, second)
    eps = noise(3, 1, 2, 0, math.prod(shape)).view(-1)
    times = torch.zeros(math.prod(shape), dtype=torch.int64)
    for coordinate in itertools.product(*map(range, mesh)):
        piece = piece_of(shape, placements, mesh, coordinate)
        expected, offset = _compute_local_shape_and_global_offset(shape, mesh, list(coordinate), placements)
        assert piece.local_shape == tuple(expected)
        if 0 not in expected:
            assert tuple(int(along[0]) for along in piece.along) == tuple(offset)
        index = elements(piece)
        times[index.view(-1)] += 1
        assert torch.equal(piece.noise(3, 1, 2, torch.device("cpu")), eps[index])
        if piece.run() is not None:
            start, count = piece.run()
            assert torch.equal(index.view(-1), torch.arange(start, start + count))
        assert torch.equal(torch.arange(shape[0])[piece.rows()], piece.along[0])
    copies = math.prod(ranks for ranks, p in zip(mesh, placements, strict=True) if p.is_replicate())
    assert bool((times == copies).all())


def test_a_scalar_and_a_whole_tensor() -> None:
    assert piece_of((), (Replicate(),), (3,), (1,)).run() == (0, 1)
    assert piece_of((2, 3), (), (), ()).run() == (0, 6)
    assert piece_of((4, 3), (Shard(-2),), (2,), (1,)).run() == (6, 6)


@pytest.mark.parametrize("start", [0, (1 << 32) - 3, (5 << 32) - 2])
def test_noise_at_scattered_indices(start: int) -> None:
    index = torch.arange(start, start + 6).view(2, 3)
    assert torch.equal(noise_at(index, 7, 8, 9).view(-1), noise(7, 8, 9, start, 6))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise_at(index.view(-1)[order], 7, 8, 9), noise(7, 8, 9, start, 6)[order])
