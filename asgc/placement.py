"""Which elements of a whole tensor this rank holds: the geometry of ``torch.distributed.tensor.DTensor``.

Placements are applied in the order of the mesh dimensions. ``Shard(dim)`` cuts dimension ``dim`` into as many chunks as
there are ranks along the mesh dimension, as ``torch.chunk`` does: of equal size, the last ones smaller or empty.
``_StridedShard`` (FSDP2 on top of tensor parallelism) first cuts into ``split_factor`` pieces, and gives every rank its
chunk of each.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .noise import noise, noise_at

__all__ = ["Piece", "is_dtensor", "local", "piece_of", "problem"]


def is_dtensor(x: object) -> bool:
    """Whether x is a DTensor; their module is not imported for that."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: Any) -> Tensor:
    """This rank's part of a tensor, sharing its memory; under ``no_grad``."""
    return x.to_local() if is_dtensor(x) else x  # type: ignore[no-any-return]


def problem(x: Any) -> str | None:
    """Why a parameter cannot be optimized, or None."""
    if not is_dtensor(x):
        return None
    if x.device_mesh.get_coordinate() is None:
        return "is a DTensor on a mesh without this rank: give every rank's optimizer its own parameters only"
    for placement in x.placements:
        if not placement.is_replicate() and not hasattr(placement, "dim"):
            return f"has the placement {placement!r}: redistribute it to Replicate or Shard first"
    return None


class Piece(NamedTuple):
    """The elements of a tensor of ``shape`` whose index along each dimension d is in ``along[d]``."""

    shape: tuple[int, ...]
    along: tuple[Tensor, ...]  # int64, ascending, on the CPU

    @property
    def local_shape(self) -> tuple[int, ...]:
        return tuple(index.numel() for index in self.along)

    def run(self) -> tuple[int, int] | None:
        """(first, count), if these are ``count`` elements in a row, in row-major order; None if not."""
        if 0 in self.local_shape:
            return 0, 0
        if not self.shape:
            return 0, 1
        first = self.along[0]
        if self.local_shape[1:] != self.shape[1:] or int(first[-1] - first[0]) != first.numel() - 1:
            return None
        return int(first[0]) * math.prod(self.shape[1:]), math.prod(self.local_shape)

    def rows(self) -> slice | Tensor:
        """Indices along dimension 0, as a slice where they are in a row."""
        first = self.along[0]
        if first.numel() == 0:
            return slice(0, 0)
        start, stop = int(first[0]), int(first[-1]) + 1
        return slice(start, stop) if stop - start == first.numel() else first

    def noise(self, seed: int, step: int, layer: int, device: torch.device) -> Tensor:
        """The elements' noise: that of their index in the whole tensor, in the piece's shape."""
        run = self.run()
        if run is not None:
            return noise(seed, step, layer, *run, device).view(self.local_shape)
        flat = torch.zeros((), dtype=torch.int64, device=device)
        for d, index in enumerate(self.along):
            stride = math.prod(self.shape[d + 1 :])
            flat = flat + (index.to(device) * stride).view((-1,) + (1,) * (len(self.shape) - d - 1))
        return noise_at(flat, seed, step, layer)


def _chunk(index: Tensor, chunks: int, which: int) -> Tensor:
    size = -(-index.numel() // chunks)
    return index[which * size : (which + 1) * size]


@functools.lru_cache(maxsize=4096)
def piece_of(
    shape: tuple[int, ...], placements: tuple[Any, ...], mesh_shape: tuple[int, ...], coordinate: tuple[int, ...]
) -> Piece:
    """The piece at a coordinate of the mesh.

    Args:
        shape: of the whole tensor.
        placements: one a mesh dimension (``Replicate``, ``Shard``, ``_StridedShard``; see ``problem``).
        mesh_shape, coordinate: the mesh, and the rank's place in it.
    """
    index = [torch.arange(size, dtype=torch.int64, device="cpu") for size in shape]
    for placement, ranks, place in zip(placements, mesh_shape, coordinate, strict=True):
        if placement.is_replicate():
            continue
        whole = index[placement.dim]  # a negative one counts from the end
        factor = getattr(placement, "split_factor", 1)
        parts = [_chunk(_chunk(whole, factor, part), ranks, place) for part in range(factor)]
        index[placement.dim] = torch.cat(parts)
    return Piece(shape, tuple(index))
