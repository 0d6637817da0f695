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

import torch
from torch import Tensor

__all__ = ["noise", "noise_at", "noise_like"]

MASK = 0xFFFFFFFF
SCALE = float(torch.tensor(1 / 209.0217, dtype=torch.float32, device="cpu"))
_CHUNK = 1 << 16  # elements hashed at a time: the temporaries stay in the cache


def _mix(x: int) -> int:
    x ^= x >> 16
    x = (x * 0x7FEB352D) & MASK
    x ^= x >> 15
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def _signed(word: int) -> int:
    """A 32-bit word as the signed integer of the same bits."""
    return (word ^ 0x80000000) - 0x80000000


def _mix_(x: Tensor) -> Tensor:
    """``_mix`` in place on int32 words: shifts are arithmetic there, so the copied sign bits are masked away."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
    x.mul_(0x7FEB352D)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x.mul_(_signed(0x846CA68B))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _eps(seed: int, step: int, layer: int, high: int, a: Tensor) -> Tensor:
    """Noise of the elements whose indices have this high word; ``a``: their low words, int32, overwritten."""
    k0 = _mix((_mix((_mix((seed & MASK) ^ 0x243F6A88) + step) & MASK) + layer) & MASK)
    if high:
        k0 = _mix((k0 + high) & MASK)
    _mix_(a.bitwise_xor_(_signed(k0)))
    b = _mix_(a + _signed(_mix(k0 ^ 0x85A308D3)))
    for word in (a, b):  # sums of its bytes in pairs
        high_bytes = (word >> 8).bitwise_and_(0x00FF00FF)
        word.bitwise_and_(0x00FF00FF).add_(high_bytes)
    a.add_(b)
    b = a >> 16
    return a.bitwise_and_(0xFFFF).add_(b).sub_(1020).to(torch.float32).mul_(SCALE)


def noise(seed: int, step: int, layer: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
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
        index = torch.arange(size, dtype=torch.int32, device=device).add_(_signed(low))
        out[done : done + size] = _eps(seed, step, layer, high, index)
        done += size
    return out


def noise_at(index: Tensor, seed: int, step: int, layer: int) -> Tensor:
    """Noise of the elements with the given row-major indices in the whole tensor (int64): float32, index's shape."""
    out = torch.empty(index.shape, dtype=torch.float32, device=index.device)
    last = int(index.max()) >> 32 if index.numel() else -1
    for place, piece in zip(torch.split(out.view(-1), _CHUNK), torch.split(index.reshape(-1), _CHUNK), strict=True):
        for high in range(last + 1):
            eps = _eps(seed, step, layer, high, piece.to(torch.int32))
            place.copy_(torch.where(piece >> 32 == high, eps, place))
    return out


def noise_like(tensor: Tensor, seed: int, step: int, layer: int) -> Tensor:
    """Noise for every element of ``tensor``: float32, same shape, numbered in row-major order whatever its strides."""
    return noise(seed, step, layer, 0, tensor.numel(), tensor.device).view(tensor.shape)
