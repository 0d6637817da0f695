"""The two kernels that walk the elements: one program a block.

Memory traffic in bytes a parameter (fp32; ``main`` alone in value mode without noise, ``sums`` + ``main`` else):

==================================  =====  =====
rule                                once   twice
==================================  =====  =====
adam, adamw                            28    32
the same with amsgrad                  36    40
sgd                                    12    16
sgd with momentum, rmsprop, adagrad    20    24
rmsprop: centered, momentum        +8 each
==================================  =====  =====

That is: gradient read once or twice, parameter and state read and written once. Noise after the rule reads its second
moment once more, +4. bfloat16 or float16 parameters and gradients take 6 (twice: 8) bytes less. The tables add 160
bytes a block of 1024 to 8192 elements (its record, its sums written and read), at most 0.16 bytes a parameter and in
large models 0.02.

Sums are made in fp32 over a block, where its squares leave the range of fp32 again in fp64, and across blocks in fp64
(``rows.py``), in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import fields
from .elements import INF, clip, gaussian, mix, pointer, read, row_major, update, write

NO_CLIP = tl.constexpr(fields.NO_CLIP)
PARAM, STATE, STATS, UNITS, LAYER_FIELDS = map(
    tl.constexpr, (fields.PARAM, fields.STATE, fields.STATS, fields.UNITS, fields.LAYER_FIELDS)
)
ROW_UNIT, ROW_FIELDS = tl.constexpr(fields.ROW_UNIT), tl.constexpr(fields.ROW_FIELDS)
BLOCK_LAYER, BLOCK_ROW, BLOCK_BEGIN, BLOCK_COUNT, BLOCK_FIELDS = map(tl.constexpr, range(fields.BLOCK_FIELDS + 1))
(CENTRED, SQUARE, DEVIATION, NONFINITE, AFTER, BEFORE, CLIPPED, SECOND, SUM_FIELDS) = (
    tl.constexpr(i) for i in range(fields.SUM_FIELDS + 1)
)
COEFFICIENTS = tl.constexpr(len(fields.COEFFICIENTS))
(
    TAU, NOISE_STD, NOISE_ZEROS, SHARPNESS, KEEP_INFINITE, MEAN, CEILING, FACTOR, SIGN, DECAY, KEEP, LR,
    ONE, TWO, THREE, FOUR, EPS, LANGEVIN, _,
) = (tl.constexpr(i) for i in range(len(fields.COEFFICIENTS)))  # fmt: skip

SAFE_LOW = tl.constexpr(1e-30)  # squares lost to underflow are below 1e-5 of such a sum
SAFE_HIGH = tl.constexpr(1e37)


@triton.jit
def safe(total):
    """Whether an fp32 sum of squares is as good as one in fp64; False for NaN."""
    return (total >= SAFE_LOW) & (total <= SAFE_HIGH)


@triton.jit
def moments_fp64(g, count, mean, DTYPE: tl.constexpr, TILE: tl.constexpr):
    """Sums over the finite elements of a block in fp64, and the number of the others."""
    inside = tl.arange(0, TILE)
    centred = tl.full((TILE,), 0, tl.float64)
    square = tl.full((TILE,), 0, tl.float64)
    deviation = tl.full((TILE,), 0, tl.float64)
    nonfinite = tl.full((TILE,), 0, tl.int32)
    for start in range(0, count, TILE):
        mask = inside < count - start
        x = read(g + start, inside, mask, DTYPE, True)
        finite = tl.abs(x) < INF
        wide = tl.where(finite, x, 0.0).to(tl.float64)
        off = tl.where(finite & mask, wide - mean, 0.0)
        centred += off
        square += wide * wide
        deviation += off * off
        nonfinite += tl.where(finite, 0, 1)
    return tl.sum(centred), tl.sum(square), tl.sum(deviation), tl.sum(nonfinite).to(tl.float64)


@triton.jit
def add_moments(x, mean, centred, square, deviation, mask, MASKED: tl.constexpr):
    off = x - mean
    if MASKED:
        off = tl.where(mask, off, 0.0)
    return centred + off, square + x * x, deviation + off * off


@triton.jit
def store_moments(out, centred, square, deviation, g, count, mean, GRAD: tl.constexpr, TILE: tl.constexpr):
    """Store a block's sums; where its squares leave the range of fp32, they are made again in fp64."""
    s1 = tl.sum(centred).to(tl.float64)
    s2 = tl.sum(square)
    d2 = tl.sum(deviation)
    good = safe(s2) & safe(d2)
    s2 = s2.to(tl.float64)
    d2 = d2.to(tl.float64)
    bad = s2 * 0
    if not good:
        s1, s2, d2, bad = moments_fp64(g, count, mean, GRAD, TILE)
    tl.store(out + CENTRED, s1)
    tl.store(out + SQUARE, s2)
    tl.store(out + DEVIATION, d2)
    tl.store(out + NONFINITE, bad)


@triton.jit
def sums(
    blocks, layers, rows, grads, partial,
    ALL: tl.constexpr, GRAD: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr,
    RULE: tl.constexpr, FLAG: tl.constexpr, LANGEVIN: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient before the main pass: of all rows in norm mode and with noise, else of those without
    statistics yet. With LANGEVIN also of what the rule's denominators are the roots of."""
    program = tl.program_id(0).to(tl.int64)
    block = blocks + program * BLOCK_FIELDS
    index = tl.load(block + BLOCK_LAYER)
    grad = tl.load(grads + index)
    if grad != 0:
        layer = layers + index * LAYER_FIELDS
        unit = tl.load(rows + tl.load(block + BLOCK_ROW) * ROW_FIELDS + ROW_UNIT)
        stats = tl.load(layer + STATS).to(tl.pointer_type(tl.float32)) + unit
        needed = tl.load(stats) == 0
        if ALL:
            needed = grad != 0
        if needed:
            mean = tl.load(stats + tl.load(layer + UNITS))
            begin, count = tl.load(block + BLOCK_BEGIN), tl.load(block + BLOCK_COUNT)
            if ALIGNED:
                begin = tl.multiple_of(begin, 16)
            g = pointer(grad, GRAD, ALIGNED) + begin
            inside = tl.arange(0, TILE)
            centred = tl.full((TILE,), 0, tl.float32)
            square = tl.full((TILE,), 0, tl.float32)
            deviation = tl.full((TILE,), 0, tl.float32)
            full = count // TILE * TILE
            for start in range(0, full, TILE):
                x = read(g + start, inside, inside < TILE, GRAD, False)
                centred, square, deviation = add_moments(x, mean, centred, square, deviation, inside < TILE, False)
            if full < count:
                mask = inside < count - full
                x = read(g + full, inside, mask, GRAD, True)
                centred, square, deviation = add_moments(x, mean, centred, square, deviation, mask, True)
            out = partial + program * SUM_FIELDS
            store_moments(out, centred, square, deviation, g, count, mean, GRAD, TILE)
            if LANGEVIN and RULE != 0:
                a = pointer(tl.load(layer + STATE), tl.float32, ALIGNED) + begin
                b = pointer(tl.load(layer + STATE + 1), tl.float32, ALIGNED) + begin
                c = pointer(tl.load(layer + STATE + 2), tl.float32, ALIGNED) + begin
                tl.store(out + SECOND, seconds(a, b, c, count, RULE, FLAG, TILE))


@triton.jit
def seconds(a, b, c, count, RULE: tl.constexpr, FLAG: tl.constexpr, TILE: tl.constexpr):
    """Sum of what the rule's denominators are the roots of (rules.squares) over a block, fp64."""
    inside = tl.arange(0, TILE)
    result = tl.full((TILE,), 0, tl.float64)
    for start in range(0, count, TILE):
        mask = inside < count - start
        if RULE == 1:
            if FLAG:
                second = read(c + start, inside, mask, tl.float32, True).to(tl.float64)
            else:
                second = read(b + start, inside, mask, tl.float32, True).to(tl.float64)
        else:
            second = read(a + start, inside, mask, tl.float32, True).to(tl.float64)
            if RULE == 2 and FLAG:
                mean = read(b + start, inside, mask, tl.float32, True).to(tl.float64)
                second -= mean * mean
        result += second
    return tl.sum(result)


@triton.jit
def transform(
    x, place, layer, k0, k1, tau, std, zeros, sharpness, keep_infinite, ceiling,
    KIND: tl.constexpr, NOISE: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """(gradient with noise, the same clipped by elements, noise for after the rule, where it was clipped)."""
    size = tl.abs(x)
    clean = tl.where(size < ceiling, x, 0.0)
    noise = clean
    if NOISE != 0:
        if DIMS > 0:
            place = row_major(place, layer, DIMS)
        noise = tl.where(tl.abs(clean) + zeros > 0, std * gaussian(place, k0, k1), 0.0)
    noisy = clean
    if NOISE == 1:
        noisy = clean + noise
    h = noisy
    beyond = size < 0  # nowhere
    if KIND != NO_CLIP:
        h = tl.where(size * keep_infinite == INF, x, h)
        h, beyond = clip(h, tau, sharpness, KIND)
    return noisy, h, noise, beyond


@triton.jit
def add_squares(x, noisy, h, after, before, mask, MASKED: tl.constexpr):
    """Sums of squares after and before the clip, of the elements with a finite gradient."""
    counted = tl.abs(x) < INF
    if MASKED:
        counted = counted & mask
    h = tl.where(counted, h, 0.0).to(after.dtype)
    noisy = tl.where(counted, noisy, 0.0).to(after.dtype)
    return after + h * h, before + noisy * noisy


@triton.jit
def step_tile(
    p, g, a, b, c, offsets, mask, place, layer, k0, k1, tau, std, zeros, sharpness, keep_infinite, mean, ceiling,
    factor, sign, decay, keep, lr, one, two, three, four, eps, langevin,
    centred, square, deviation, after, before, clipped,
    PARAM_DTYPE: tl.constexpr, GRAD: tl.constexpr, RULE: tl.constexpr, FLAG: tl.constexpr, MOMENTUM: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, NOISE: tl.constexpr, DIMS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile: transform, base rule, sums."""
    x = read(g, offsets, mask, GRAD, MASKED)
    old = read(p, offsets, mask, PARAM_DTYPE, MASKED)
    noisy, h, noise, beyond = transform(
        x, place, layer, k0, k1, tau, std, zeros, sharpness, keep_infinite, ceiling, KIND, NOISE, DIMS
    )
    u = h
    if NORM:
        u = h * factor
    u = u * sign + decay * old
    new = update(
        old, u, noise, a, b, c, offsets, mask, one, two, three, four, lr, eps, keep, langevin,
        RULE, FLAG, MOMENTUM, NOISE == 2, MASKED,
    )  # fmt: skip
    write(p, offsets, new, mask, PARAM_DTYPE, MASKED)
    if not NORM:
        if NOISE == 0:  # else they have been made before
            centred, square, deviation = add_moments(x, mean, centred, square, deviation, mask, MASKED)
        after, before = add_squares(x, noisy, h, after, before, mask, MASKED)
        if MASKED:
            beyond = beyond & mask
        clipped += tl.where(beyond, 1, 0)
    return centred, square, deviation, after, before, clipped


@triton.jit
def main(
    blocks, layers, grads, coefficients, keys, partial,
    PARAM_DTYPE: tl.constexpr, GRAD: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr,
    RULE: tl.constexpr, FLAG: tl.constexpr, MOMENTUM: tl.constexpr,
    NORM: tl.constexpr, KIND: tl.constexpr, NOISE: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """The step of one block: noise, clip, base rule; and its sums for the statistics."""
    program = tl.program_id(0).to(tl.int64)
    block = blocks + program * BLOCK_FIELDS
    index = tl.load(block + BLOCK_LAYER)
    grad = tl.load(grads + index)
    if grad != 0:
        layer = layers + index * LAYER_FIELDS
        row = tl.load(block + BLOCK_ROW)
        begin, count = tl.load(block + BLOCK_BEGIN), tl.load(block + BLOCK_COUNT)
        if ALIGNED:
            begin = tl.multiple_of(begin, 16)
        p = pointer(tl.load(layer + PARAM), PARAM_DTYPE, ALIGNED) + begin
        a = pointer(tl.load(layer + STATE), tl.float32, ALIGNED) + begin
        b = pointer(tl.load(layer + STATE + 1), tl.float32, ALIGNED) + begin
        c = pointer(tl.load(layer + STATE + 2), tl.float32, ALIGNED) + begin
        g = pointer(grad, GRAD, ALIGNED) + begin

        k = coefficients + row * COEFFICIENTS
        tau, sharpness = tl.load(k + TAU), tl.load(k + SHARPNESS)
        std, zeros = tl.load(k + NOISE_STD), tl.load(k + NOISE_ZEROS)
        keep_infinite, mean, ceiling = tl.load(k + KEEP_INFINITE), tl.load(k + MEAN), tl.load(k + CEILING)
        factor, sign, decay = tl.load(k + FACTOR), tl.load(k + SIGN), tl.load(k + DECAY)
        keep, lr, eps, langevin = tl.load(k + KEEP), tl.load(k + LR), tl.load(k + EPS), tl.load(k + LANGEVIN)
        one, two, three, four = tl.load(k + ONE), tl.load(k + TWO), tl.load(k + THREE), tl.load(k + FOUR)

        # A block never crosses a multiple of 2^32, so the high word of its indices is one number.
        k0 = tl.load(keys + row).to(tl.uint32, bitcast=True)
        high = (begin >> 32).to(tl.uint32)
        k0 = tl.where(high != 0, mix(k0 + high), k0)
        k1 = mix(k0 ^ 0x85A308D3)
        inside = tl.arange(0, TILE)
        words = inside.to(tl.uint32)

        centred = tl.full((TILE,), 0, tl.float32)
        square = tl.full((TILE,), 0, tl.float32)
        deviation = tl.full((TILE,), 0, tl.float32)
        after = tl.full((TILE,), 0, tl.float32)
        before = tl.full((TILE,), 0, tl.float32)
        clipped = tl.full((TILE,), 0, tl.int32)
        full = count // TILE * TILE
        for start in range(0, full, TILE):
            centred, square, deviation, after, before, clipped = step_tile(
                p + start, g + start, a + start, b + start, c + start, inside, inside < TILE,
                (begin + start).to(tl.uint32) + words, layer,
                k0, k1, tau, std, zeros, sharpness, keep_infinite, mean, ceiling, factor, sign, decay, keep,
                lr, one, two, three, four, eps, langevin, centred, square, deviation, after, before, clipped,
                PARAM_DTYPE, GRAD, RULE, FLAG, MOMENTUM, NORM, KIND, NOISE, DIMS, False,
            )  # fmt: skip
        if full < count:
            centred, square, deviation, after, before, clipped = step_tile(
                p + full, g + full, a + full, b + full, c + full, inside, inside < count - full,
                (begin + full).to(tl.uint32) + words, layer,
                k0, k1, tau, std, zeros, sharpness, keep_infinite, mean, ceiling, factor, sign, decay, keep,
                lr, one, two, three, four, eps, langevin, centred, square, deviation, after, before, clipped,
                PARAM_DTYPE, GRAD, RULE, FLAG, MOMENTUM, NORM, KIND, NOISE, DIMS, True,
            )  # fmt: skip

        out = partial + program * SUM_FIELDS
        if not NORM:
            end, begun = tl.sum(after), tl.sum(before)
            good = safe(end) & safe(begun)
            end = end.to(tl.float64)
            begun = begun.to(tl.float64)
            if not good:  # the gradient is still at hand; make the sums again in fp64
                wide_after = tl.full((TILE,), 0, tl.float64)
                wide_before = tl.full((TILE,), 0, tl.float64)
                for start in range(0, count, TILE):
                    mask = inside < count - start
                    x = read(g + start, inside, mask, GRAD, True)
                    noisy, h, _noise, _beyond = transform(
                        x, (begin + start).to(tl.uint32) + words, layer, k0, k1, tau, std, zeros, sharpness,
                        keep_infinite, ceiling, KIND, NOISE, DIMS,
                    )  # fmt: skip
                    wide_after, wide_before = add_squares(x, noisy, h, wide_after, wide_before, mask, True)
                end, begun = tl.sum(wide_after), tl.sum(wide_before)
            tl.store(out + AFTER, end)
            tl.store(out + BEFORE, begun)
            tl.store(out + CLIPPED, tl.sum(clipped).to(tl.float64))
            if NOISE == 0:
                store_moments(out, centred, square, deviation, g, count, mean, GRAD, TILE)


COMPILED = isinstance(main, triton.JITFunction)  # False: Triton's interpreter


def dtype_of(dtype: torch.dtype) -> tl.dtype:
    """Triton's name of a torch type."""
    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]
