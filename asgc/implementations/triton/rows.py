"""The two kernels between the passes, one program a row, in fp64 scalars: statistics, threshold, coefficients.

Formulas: asgc/gradient_statistics.py and asgc/functional.py (``transform``); the rules' coefficients: asgc/rules.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ... import gradient_statistics as statistics
from . import fields
from .elements import INF, TINY, mix

LARGEST = tl.constexpr(3.4028234663852886e38)
COUNT_MAX = tl.constexpr(float(1 << 23))
N, MEAN, VAR, AGE, BURST, NONFINITE, THRESHOLD, CLIPPED, ATTENUATION, NOISE, STREAK = map(
    tl.constexpr, range(len(statistics.STATISTICS))
)
LAYER_STATS, LAYER_STEP, LAYER_TIME, LAYER_NUMBER, LAYER_GROUP, LAYER_UNITS, LAYER_FIELDS = map(
    tl.constexpr,
    (fields.STATS, fields.STEP, fields.TIME, fields.NUMBER, fields.GROUP, fields.UNITS, fields.LAYER_FIELDS),
)
ROW_LAYER, ROW_UNIT, ROW_SIZE, ROW_FIRST, ROW_LAST, ROW_FIELDS = map(tl.constexpr, range(fields.ROW_FIELDS + 1))
(
    SUM_CENTRED, SUM_SQUARE, SUM_DEVIATION, SUM_NONFINITE, SUM_AFTER, SUM_BEFORE, SUM_CLIPPED, SUM_SECOND, SUM_FIELDS,
) = (tl.constexpr(i) for i in range(fields.SUM_FIELDS + 1))  # fmt: skip
COEFFICIENTS = tl.constexpr(len(fields.COEFFICIENTS))
(
    TAU, NOISE_STD, NOISE_ZEROS, SHARPNESS, KEEP_INFINITE, CENTRE, CEILING, FACTOR, SIGN, DECAY, KEEP, LR,
    ONE, TWO, THREE, FOUR, EPS, LANGEVIN, FIRST,
) = (tl.constexpr(i) for i in range(len(fields.COEFFICIENTS)))  # fmt: skip
OPTIONS = tl.constexpr(len(fields.OPTIONS))
(
    O_RULE, O_NORM, O_LR, O_WEIGHT_DECAY, O_EPS, O_MAXIMIZE, O_DECOUPLED, O_BETA1, O_BETA2, O_MOMENTUM, O_DAMPENING,
    O_ALPHA, O_LR_DECAY, O_CLIP_FACTOR, O_THRESHOLD, O_SHARPNESS, O_NOISE_SCALE, O_NOISE_DECAY, O_NOISE_ZEROS,
    O_STATS_DECAY, O_OUTLIER_SHARE, O_SEED, O_LANGEVIN,
) = (tl.constexpr(i) for i in range(len(fields.OPTIONS)))  # fmt: skip


@triton.jit
def power(base, exponent):
    """base ** exponent in fp64 for base >= 0 and a finite exponent; 0 ** x is 0."""
    positive = base > 0
    return tl.where(positive, tl.exp(exponent * tl.log(tl.where(positive, base, 1.0))), 0.0)


@triton.jit
def total(partial, first, last, FIELD: tl.constexpr, CHUNK: tl.constexpr):
    """Sum of one field over the blocks first..last-1, always in the same order."""
    lane = tl.arange(0, CHUNK)
    result = tl.full((CHUNK,), 0, tl.float64)
    for start in range(first, last, CHUNK):
        block = start + lane
        result += tl.load(partial + block * SUM_FIELDS + FIELD, mask=block < last, other=0.0)
    return tl.sum(result)


@triton.jit
def stored_variance(x):
    """A positive normal fp32 number: with 0 the layer would be clipped to nothing for ever."""
    return tl.minimum(tl.maximum(x, TINY), LARGEST)


@triton.jit
def updated(n, mean, var, age, burst, m1, s2, d2, size, stats_decay, outlier_share):
    """statistics.update in fp64; ``m1`` is mean(g) minus the running mean."""
    level = mean * mean + var
    high = s2 > 100.0 * level
    warming = age < 1.0 / (1.0 - stats_decay)
    restart = warming & ((s2 < level / 100.0) | (high & (burst > 0)))
    count = tl.minimum(n + 1.0, COUNT_MAX)
    weight = tl.maximum(1.0 / count, 1.0 - stats_decay)
    limit = var * (1.0 / outlier_share + 3.0 * tl.sqrt(2.0 / size))
    reach = tl.sqrt(limit)
    new_mean = mean + weight * tl.minimum(tl.maximum(m1, -reach), reach)
    new_var = var + weight * (tl.minimum(d2, limit) - var)
    one = n * 0 + 1.0
    return (
        tl.where(restart, one, count),
        tl.where(restart, one * 0, new_mean),
        stored_variance(tl.where(restart, s2, new_var)),
        tl.minimum(age + 1.0, COUNT_MAX),
        tl.where(high, one, one * 0),
    )


@triton.jit
def load_statistics(stats, units):
    return (
        tl.load(stats + N * units).to(tl.float64),
        tl.load(stats + MEAN * units).to(tl.float64),
        tl.load(stats + VAR * units).to(tl.float64),
        tl.load(stats + AGE * units).to(tl.float64),
        tl.load(stats + BURST * units).to(tl.float64),
    )


@triton.jit
def store_statistics(stats, units, n, mean, var, age, burst):
    tl.store(stats + N * units, n.to(tl.float32))
    tl.store(stats + MEAN * units, mean.to(tl.float32))
    tl.store(stats + VAR * units, var.to(tl.float32))
    tl.store(stats + AGE * units, age.to(tl.float32))
    tl.store(stats + BURST * units, burst.to(tl.float32))


@triton.jit
def count_nonfinite(stats, units, bad):
    """statistics.count_nonfinite; bad: number of non-finite elements."""
    streak = stats + STREAK * units
    if bad > 0:
        counter = stats + NONFINITE * units
        tl.store(counter, tl.minimum(tl.load(counter) + 1.0, COUNT_MAX))
        tl.store(streak, tl.minimum(tl.load(streak) + 1.0, COUNT_MAX))
    else:
        tl.store(streak, 0.0)


@triton.jit
def shrinkage(r, tau, sharpness):
    """phi(r; tau) / r in fp64; at r = 0 its limit."""
    low, high = tl.minimum(r, tau), tl.maximum(r, tau)
    usable = (high > 0) & (high < INF)
    ratio = tl.where(usable, low, 0.0) / tl.where(usable, high, 1.0)
    soft = sharpness < INF
    p = tl.where(soft, sharpness, 1.0)
    smooth = low * tl.where(soft, power(1.0 + power(ratio, p), -1.0 / p), 1.0)
    positive = r > 0
    return tl.where(positive, smooth / tl.where(positive, r, 1.0), tl.where(tau > 0, 1.0, 0.0))


@triton.jit
def store_rule(k, o, steps, fresh):
    """The base rule's coefficients, each rounded once from fp64, as torch does with scalars. steps: done so far."""
    rule = tl.load(o + O_RULE)
    lr = tl.load(o + O_LR)
    weight_decay = tl.load(o + O_WEIGHT_DECAY)
    decoupled = tl.load(o + O_DECOUPLED) != 0
    langevin = lr
    one = lr * 0
    two = one
    three = one
    four = one
    if rule == 0:
        three = tl.load(o + O_MOMENTUM)
        one = tl.where(fresh, 0.0, three)  # a new buffer takes the gradient itself
        two = tl.where(fresh, 1.0, 1.0 - tl.load(o + O_DAMPENING))
    elif rule == 1:
        beta1, beta2 = tl.load(o + O_BETA1), tl.load(o + O_BETA2)
        one = 1.0 - beta1
        two = beta2
        three = 1.0 - beta2
        four = 1.0 / tl.sqrt(1.0 - power(beta2, steps + 1.0))
        lr = lr / (1.0 - power(beta1, steps + 1.0))
    elif rule == 2:
        alpha = tl.load(o + O_ALPHA)
        one = alpha
        two = 1.0 - alpha
        three = tl.load(o + O_MOMENTUM)
    else:
        lr = lr / (1.0 + steps * tl.load(o + O_LR_DECAY))
        langevin = lr
    tl.store(k + SIGN, tl.where(tl.load(o + O_MAXIMIZE) != 0, -1.0, 1.0))
    tl.store(k + DECAY, tl.where(decoupled, 0.0, weight_decay).to(tl.float32))
    tl.store(k + KEEP, tl.where(decoupled, 1.0 - tl.load(o + O_LR) * weight_decay, 1.0).to(tl.float32))
    tl.store(k + LR, lr.to(tl.float32))
    tl.store(k + ONE, one.to(tl.float32))
    tl.store(k + TWO, two.to(tl.float32))
    tl.store(k + THREE, three.to(tl.float32))
    tl.store(k + FOUR, four.to(tl.float32))
    tl.store(k + EPS, tl.load(o + O_EPS).to(tl.float32))
    tl.store(k + LANGEVIN, langevin.to(tl.float32))


@triton.jit
def open_rows(
    layers, rows, grads, fresh, group_options, partial, coefficients, keys, SUMS: tl.constexpr, CHUNK: tl.constexpr
):
    """Before the main pass: first statistics, threshold, noise and the rule's coefficients of every row.

    In norm mode the step's sums are known (``sums``), so the statistics take them in here, after their use; with noise
    they are known, too. SUMS False: no row needs sums.
    """
    row = tl.program_id(0).to(tl.int64)
    record = rows + row * ROW_FIELDS
    index = tl.load(record + ROW_LAYER)
    if tl.load(grads + index) != 0:
        layer = layers + index * LAYER_FIELDS
        o = group_options + tl.load(layer + LAYER_GROUP) * OPTIONS
        units = tl.load(layer + LAYER_UNITS)
        stats = tl.load(layer + LAYER_STATS).to(tl.pointer_type(tl.float32)) + tl.load(record + ROW_UNIT)
        steps = tl.load(tl.load(layer + LAYER_STEP).to(tl.pointer_type(tl.float32))).to(tl.float64)
        time = tl.load(tl.load(layer + LAYER_TIME).to(tl.pointer_type(tl.int64)))
        size = tl.maximum(tl.load(record + ROW_SIZE), 1).to(tl.float64)
        begin, end = tl.load(record + ROW_FIRST), tl.load(record + ROW_LAST)
        norm = tl.load(o + O_NORM) != 0
        noise_scale = tl.load(o + O_NOISE_SCALE)
        n, mean, var, age, burst = load_statistics(stats, units)
        m1 = n * 0
        s2 = m1
        d2 = m1
        bad = m1
        second = m1
        if SUMS:
            if norm | (n == 0) | (noise_scale != 0):
                m1 = total(partial, begin, end, SUM_CENTRED, CHUNK) / size
                s2 = total(partial, begin, end, SUM_SQUARE, CHUNK) / size
                d2 = total(partial, begin, end, SUM_DEVIATION, CHUNK) / size
                bad = total(partial, begin, end, SUM_NONFINITE, CHUNK)
            if (noise_scale != 0) & (tl.load(o + O_LANGEVIN) != 0) & (tl.load(o + O_RULE) != 0):
                second = tl.maximum(total(partial, begin, end, SUM_SECOND, CHUNK) / size, 0.0)
        finite = bad == 0
        usable = finite & (s2 > 0)
        first = usable & (n == 0)
        n = tl.where(first, 1.0, n)
        mean = tl.where(first, 0.0, mean)
        var = tl.where(first, stored_variance(s2), var)
        age = tl.where(first, 1.0, age)
        burst = tl.where(first, 0.0, burst)
        var = var.to(tl.float32).to(tl.float64)  # as it is stored

        sigma = tl.sqrt(var)
        clip_factor = tl.load(o + O_CLIP_FACTOR)
        fixed = tl.load(o + O_THRESHOLD)
        adaptive = fixed != fixed
        level = tl.where(norm, clip_factor * tl.sqrt(mean * mean + var), tl.abs(mean) + clip_factor * sigma)
        # Without a scale (n = 0) the finite elements of a non-finite gradient pass as they are.
        without = (clip_factor == INF) | ((n == 0) & (bad > 0))
        tau = tl.where(adaptive, tl.where(without, INF, level), fixed)
        limit = tau.to(tl.float32)
        zero = norm & (bad > 0)
        c_t = noise_scale * power(1.0 + time.to(tl.float64), -0.5 * tl.load(o + O_NOISE_DECAY))
        zeros = tl.load(o + O_NOISE_ZEROS)
        level = tl.where((s2 > 0) | (zeros == 0), tl.minimum(sigma, tl.sqrt(s2)), sigma)
        level = tl.where(finite, level, 0.0)
        sharpness = tl.load(o + O_SHARPNESS)

        k = coefficients + row * COEFFICIENTS
        tl.store(k + TAU, limit)
        tl.store(stats + NOISE * units, (c_t * level).to(tl.float32))
        tl.store(k + NOISE_ZEROS, zeros.to(tl.float32))
        tl.store(k + SHARPNESS, sharpness.to(tl.float32))
        tl.store(k + KEEP_INFINITE, tl.where((limit < INF) & (n > 0), 1.0, 0.0))
        tl.store(k + CENTRE, mean.to(tl.float32))
        tl.store(k + CEILING, tl.where(zero, 0.0, INF))
        tl.store(k + FIRST, tl.where(first, 1.0, 0.0))
        store_rule(k, o, steps, tl.load(fresh + index) != 0)
        if (tl.load(o + O_LANGEVIN) != 0) & (tl.load(o + O_RULE) != 0):
            correction = tl.where(tl.load(o + O_RULE) == 1, 1.0 - power(tl.load(o + O_BETA2), steps + 1.0), 1.0)
            denominator = tl.sqrt(second / correction) + tl.load(o + O_EPS)
            largest = tl.maximum(level, denominator)
            level = level / tl.where(largest > 0, largest, 1.0)
        tl.store(k + NOISE_STD, (c_t * level).to(tl.float32))
        seed = tl.load(o + O_SEED).to(tl.int64).to(tl.uint32)
        key = mix(mix(mix(seed ^ 0x243F6A88) + time.to(tl.uint32)) + tl.load(layer + LAYER_NUMBER).to(tl.uint32))
        tl.store(keys + row, key.to(tl.int32, bitcast=True))

        factor = m1 * 0 + 1.0
        if norm:
            r = tl.sqrt(tl.where(finite, s2, 0.0))
            factor = shrinkage(r, tau, sharpness)
            tl.store(stats + ATTENUATION * units, tl.where(usable, factor, 1.0).to(tl.float32))
            tl.store(stats + THRESHOLD * units, limit)
            tl.store(stats + CLIPPED * units, tl.where(r > tau, 1.0, 0.0))
            if usable:
                if tl.where(first, 0, 1) == 1:
                    n, mean, var, age, burst = updated(
                        n, mean, var, age, burst, m1, s2, d2, size,
                        tl.load(o + O_STATS_DECAY), tl.load(o + O_OUTLIER_SHARE),
                    )  # fmt: skip
                store_statistics(stats, units, n, mean, var, age, burst)
            count_nonfinite(stats, units, bad)
        elif first:
            store_statistics(stats, units, n, mean, var, age, burst)
        tl.store(k + FACTOR, factor.to(tl.float32))


@triton.jit
def close_rows(layers, rows, grads, group_options, partial, coefficients, unseen, CHUNK: tl.constexpr):
    """After the main pass: statistics (value mode), figures for diagnostics, step counts."""
    row = tl.program_id(0).to(tl.int64)
    record = rows + row * ROW_FIELDS
    index = tl.load(record + ROW_LAYER)
    if tl.load(grads + index) != 0:
        layer = layers + index * LAYER_FIELDS
        o = group_options + tl.load(layer + LAYER_GROUP) * OPTIONS
        units = tl.load(layer + LAYER_UNITS)
        unit = tl.load(record + ROW_UNIT)
        stats = tl.load(layer + LAYER_STATS).to(tl.pointer_type(tl.float32)) + unit
        size = tl.maximum(tl.load(record + ROW_SIZE), 1).to(tl.float64)
        begin, end = tl.load(record + ROW_FIRST), tl.load(record + ROW_LAST)
        k = coefficients + row * COEFFICIENTS
        n = tl.load(stats + N * units).to(tl.float64)
        if tl.load(o + O_NORM) == 0:
            s2 = total(partial, begin, end, SUM_SQUARE, CHUNK) / size
            bad = total(partial, begin, end, SUM_NONFINITE, CHUNK)
            count_nonfinite(stats, units, bad)
            if (bad == 0) & (s2 > 0) & (tl.load(k + FIRST) == 0):
                n, mean, var, age, burst = load_statistics(stats, units)
                started = n > 0
                m1 = total(partial, begin, end, SUM_CENTRED, CHUNK) / size
                d2 = total(partial, begin, end, SUM_DEVIATION, CHUNK) / size
                n, mean, var, age, burst = updated(
                    n, mean, var, age, burst, m1, s2, d2, size,
                    tl.load(o + O_STATS_DECAY), tl.load(o + O_OUTLIER_SHARE),
                )  # fmt: skip
                # Statistics that were emptied by hand between two steps start here.
                n = tl.where(started, n, 1.0)
                mean = tl.where(started, mean, 0.0)
                var = tl.where(started, var, stored_variance(s2))
                age = tl.where(started, age, 1.0)
                burst = tl.where(started, burst, 0.0)
                store_statistics(stats, units, n, mean, var, age, burst)
            tl.store(stats + THRESHOLD * units, tl.load(k + TAU))
            clipped = total(partial, begin, end, SUM_CLIPPED, CHUNK) / size
            tl.store(stats + CLIPPED * units, clipped.to(tl.float32))
            before = total(partial, begin, end, SUM_BEFORE, CHUNK)
            ratio = tl.sqrt(total(partial, begin, end, SUM_AFTER, CHUNK) / tl.where(before > 0, before, 1.0))
            tl.store(stats + ATTENUATION * units, tl.where(before > 0, tl.minimum(ratio, 1.0), 1.0).to(tl.float32))
        tl.store(unseen + row, tl.where(n > 0, 0, 1))
        if unit == 0:
            step = tl.load(layer + LAYER_STEP).to(tl.pointer_type(tl.float32))
            tl.store(step, tl.load(step) + 1.0)
            time = tl.load(layer + LAYER_TIME).to(tl.pointer_type(tl.int64))
            tl.store(time, tl.load(time) + 1)
