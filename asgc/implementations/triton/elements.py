"""Device functions on the elements of one tile: reading, noise, clip, and the base rules.

Formulas and their order of operations: asgc/noise.py, asgc/functional.py and asgc/rules.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import fields

INF = tl.constexpr(float("inf"))
TINY = tl.constexpr(1.1754943508222875e-38)  # smallest normal fp32 number
NOISE_UNIT = tl.constexpr(fields.NOISE_UNIT)
NO_CLIP, POWER_4, POWER_2, POWER_1, HARD, _ = map(tl.constexpr, range(fields.ANY_POWER + 1))
SIZE = tl.constexpr(fields.SIZE)
STRIDE = tl.constexpr(fields.STRIDE)


@triton.jit
def pointer(address, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """A pointer from an address (int64). bfloat16 is read and written by its bits, see ``read``."""
    if tl.bfloat16 == DTYPE:
        base = address.to(tl.pointer_type(tl.uint16))
    else:
        base = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:  # said of the pointer: the compiler forgets what it knows of the number
        base = tl.multiple_of(base, 16)
    return base


@triton.jit
def read(base, offsets, mask, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    """A tile in fp32. (bfloat16 by its bits: Triton's interpreter truncates where a GPU rounds.)"""
    if MASKED:
        x = tl.load(base + offsets, mask=mask, other=0)
    else:
        x = tl.load(base + offsets)
    if tl.bfloat16 == DTYPE:
        return (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def write(base, offsets, x, mask, DTYPE: tl.constexpr, MASKED: tl.constexpr):
    """Store a tile of fp32 numbers, rounded to nearest, ties to even."""
    if tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        x = tl.where(x == x, rounded, 0x7FC0).to(tl.uint16)
    else:
        x = x.to(DTYPE)
    if MASKED:
        tl.store(base + offsets, x, mask=mask)
    else:
        tl.store(base + offsets, x)


@triton.jit
def mix(x):
    """asgc.noise.mix on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def gaussian(index, k0, k1):
    """eps of the elements with these low words (uint32) of their indices, the same bits as asgc/noise.py."""
    a = mix(index ^ k0)
    b = mix(a + k1)
    pairs = (a & 0x00FF00FF) + ((a >> 8) & 0x00FF00FF) + (b & 0x00FF00FF) + ((b >> 8) & 0x00FF00FF)
    total = ((pairs & 0xFFFF) + (pairs >> 16)).to(tl.int32)
    return (total - 1020).to(tl.float32) * NOISE_UNIT


@triton.jit
def row_major(place, layer, DIMS: tl.constexpr):
    """Row-major index of the element at a place in memory order (uint32), for tensors that are not row-major."""
    index = place * 0
    for d in tl.static_range(DIMS - 1, -1, -1):
        size = tl.load(layer + SIZE + d).to(tl.uint32)
        stride = tl.load(layer + STRIDE + d).to(tl.uint32)
        rest = place // size
        index += (place - rest * size) * stride
        place = rest
    return index


@triton.jit
def clip(h, tau, sharpness, KIND: tl.constexpr):
    """phi(h; tau) and where |h| > tau. Infinite elements give +-tau, tau = inf gives h, tau = 0 gives 0."""
    size = tl.abs(h)
    low = tl.minimum(tl.maximum(h, -tau), tau)
    ratio = low / tl.maximum(tl.maximum(size, tau), TINY)
    if KIND == POWER_4:
        square = ratio * ratio
        y = low * tl.rsqrt(tl.sqrt(1.0 + square * square))
    elif KIND == POWER_2:
        y = low * tl.rsqrt(1.0 + ratio * ratio)
    elif KIND == POWER_1:
        y = low / (1.0 + tl.abs(ratio))
    elif KIND == HARD:
        y = low
    else:
        ratio = tl.abs(ratio)
        power = tl.where(ratio > 0, tl.exp2(sharpness * tl.log2(tl.maximum(ratio, TINY))), 0.0)
        y = tl.where(sharpness < INF, low * tl.exp2(-tl.log2(1.0 + power) / sharpness), low)
    return y, size > tau


@triton.jit
def lerp(a, b, weight):
    """torch.lerp, with its two branches."""
    return tl.where(weight < 0.5, a + weight * (b - a), b - (b - a) * (1.0 - weight))


@triton.jit
def update(
    p, g, noise, a, b, c, offsets, mask, one, two, three, four, lr, eps, keep, langevin,
    RULE: tl.constexpr, FLAG: tl.constexpr, MOMENTUM: tl.constexpr, LANGEVIN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One step of the base rule on a tile: the new parameter; the state (at a, b, c) is updated in memory.

    FLAG: sgd: nesterov; adam: amsgrad; rmsprop: centered. ``g`` has sign and coupled weight decay in it.
    """
    if RULE == 0:
        u = g
        if MOMENTUM:
            buffer = one * read(a, offsets, mask, tl.float32, MASKED) + two * g
            write(a, offsets, buffer, mask, tl.float32, MASKED)
            u = g + three * buffer if FLAG else buffer
        p -= lr * u
    else:
        if RULE == 1:
            mean = lerp(read(a, offsets, mask, tl.float32, MASKED), g, one)
            second = two * read(b, offsets, mask, tl.float32, MASKED) + three * g * g
            write(a, offsets, mean, mask, tl.float32, MASKED)
            write(b, offsets, second, mask, tl.float32, MASKED)
            if FLAG:
                second = tl.maximum(read(c, offsets, mask, tl.float32, MASKED), second)
                write(c, offsets, second, mask, tl.float32, MASKED)
            denominator = tl.sqrt_rn(second) * four + eps
            p = p * keep - lr * tl.div_rn(mean, denominator)
        elif RULE == 2:
            second = one * read(a, offsets, mask, tl.float32, MASKED) + two * g * g
            write(a, offsets, second, mask, tl.float32, MASKED)
            if FLAG:
                mean = lerp(read(b, offsets, mask, tl.float32, MASKED), g, two)
                write(b, offsets, mean, mask, tl.float32, MASKED)
                second -= mean * mean
            denominator = tl.sqrt_rn(second) + eps
            u = tl.div_rn(g, denominator)
            if MOMENTUM:
                u += three * read(c, offsets, mask, tl.float32, MASKED)
                write(c, offsets, u, mask, tl.float32, MASKED)
            p -= lr * u
        else:
            second = read(a, offsets, mask, tl.float32, MASKED) + g * g
            write(a, offsets, second, mask, tl.float32, MASKED)
            denominator = tl.sqrt_rn(second) + eps
            p -= lr * tl.div_rn(g, denominator)
    if LANGEVIN:
        p -= langevin * noise
    return p
