"""Hash noise: standard normal numbers as a pure function of (seed, step, layer, index).

There is no generator state: every data-parallel rank, every shard of a tensor and every resumed run computes the same
numbers. The hash works on 32-bit integers, so all implementations agree to the bit. One normal number is the centred
sum of eight bytes (Irwin-Hall: kurtosis 2.85, |eps| < 4.9)::

    mix(x): x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16       (mod 2^32)
    k0 = mix(mix(mix(seed ^ 0x243f6a88) + step) + layer)
    k1 = mix(k0 ^ 0x85a308d3)
    a  = mix(index ^ k0),  b = mix(a + k1)
    eps = (sum of the 8 bytes of a and b - 1020) * float32(1 / 209.0217)

An index of 2^32 or more first folds its high word into the key, ``k0 = mix(k0 + high)``, and hashes its low word.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["mix", "noise", "noise_at", "noise_like"]

MASK = 0xFFFFFFFF
SCALE = float(torch.tensor(1 / 209.0217, dtype=torch.float32))
_CHUNK = 1 << 18  # elements hashed at a time: the int64 temporaries stay in the cache

Word = TypeVar("Word", int, Tensor)


def mix(x: Word) -> Word:
    """Hash of 32-bit words, given and returned as Python integers or int64 tensors in [0, 2^32).

    An int64 product wraps around, which leaves its low 32 bits right.
    """
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def _keys(seed: int, step: int, layer: int, high: int) -> tuple[int, int]:
    k0 = mix((seed & MASK) ^ 0x243F6A88)
    k0 = mix((k0 + step) & MASK)
    k0 = mix((k0 + layer) & MASK)
    if high:
        k0 = mix((k0 + high) & MASK)
    return k0, mix(k0 ^ 0x85A308D3)


def _eps(low: Tensor, k0: Word, k1: Word) -> Tensor:
    a = mix(low ^ k0)
    b = mix((a + k1) & MASK)
    pairs = (a & 0x00FF00FF) + ((a >> 8) & 0x00FF00FF) + (b & 0x00FF00FF) + ((b >> 8) & 0x00FF00FF)
    total = (pairs & 0xFFFF) + (pairs >> 16)
    return (total - 1020).to(torch.float32) * SCALE


def noise(seed: int, step: int, layer: int, start: int, count: int, device: torch.device | str | None = None) -> Tensor:
    """Standard normal numbers of the elements ``start .. start + count - 1`` of one layer at one step.

    Args:
        seed, step, layer: integers; their lowest 32 bits count.
        start: row-major index of the first element in the whole tensor.
        count: number of elements.

    Returns:
        float32 tensor of shape (count,). Any split of the range gives the same numbers.
    """
    out = torch.empty(count, dtype=torch.float32, device=device)
    done = 0
    while done < count:
        high, low = divmod(start + done, 1 << 32)
        size = min(_CHUNK, count - done, (1 << 32) - low)  # one chunk has one high word
        k0, k1 = _keys(seed, step, layer, high)
        out[done : done + size] = _eps(torch.arange(low, low + size, dtype=torch.int64, device=device), k0, k1)
        done += size
    return out


def noise_at(index: Tensor, seed: int, step: int, layer: int) -> Tensor:
    """Noise of the elements with the given row-major indices in the whole tensor (int64): float32, index's shape."""
    out = torch.empty(index.shape, dtype=torch.float32, device=index.device)
    base, _ = _keys(seed, step, layer, 0)
    for place, piece in zip(torch.split(out.view(-1), _CHUNK), torch.split(index.reshape(-1), _CHUNK), strict=True):
        high = piece >> 32
        k0 = torch.where(high > 0, mix((base + high) & MASK), base)
        place.copy_(_eps(piece & MASK, k0, mix(k0 ^ 0x85A308D3)))
    return out


def noise_like(tensor: Tensor, seed: int, step: int, layer: int) -> Tensor:
    """Noise for every element of ``tensor``: float32, same shape, numbered in row-major order whatever its strides."""
    return noise(seed, step, layer, 0, tensor.numel(), tensor.device).view(tensor.shape)
