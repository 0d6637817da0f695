"""Many comparisons at once: exact p values of rank tests, their correction, and simultaneous intervals.

With 7 optimizers on 20 cells something is significant by chance: p values of one question are adjusted together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.analysis.stats.aggregate import Array, as_scores, probability_of_improvement
from evaluation.analysis.stats.bootstrap import Draws, Estimate, as_draws

EXACT_RUNS = 100  # of both sides together; above, the exact distribution takes seconds and the normal one is as good


def rank_test(scores_x: ArrayLike, scores_y: ArrayLike) -> float:
    """Two-sided p value of Mann and Whitney's test, stratified by task: are runs of X and Y equally good?

    (R, T) and (R', T) scores, or (R,) and (R',). The statistic is the `probability_of_improvement` (mean over tasks);
    its distribution over all ways of dealing each task's R + R' scores out to X and Y is computed exactly, ties and
    infinite scores included, up to `EXACT_RUNS` runs of a task; beyond, it is taken as normal with the exact variance
    (van Elteren 1960; equal weights). p is the share of the ways that are at least as far from 1/2.
    """
    x, y = as_scores(scores_x), as_scores(scores_y)
    observed = probability_of_improvement(x, y)
    n, m = x.shape[0], y.shape[0]
    ranks = [_doubled_ranks(np.concatenate([x[:, task], y[:, task]])) for task in range(x.shape[1])]
    if n + m > EXACT_RUNS:
        # Variance of a sum of n of the n + m doubled ranks, drawn without replacement.
        variance = sum(float(np.var(task, ddof=1)) * n * m / (n + m) for task in ranks)
        deviation = abs(observed - 0.5) * 2 * n * m * len(ranks)
        return math.erfc(deviation / math.sqrt(2 * variance)) if variance > 0 else 1.0
    total, offset = np.ones(1), 0
    for task in ranks:
        sums = _distribution_of_sums(task, n)
        total, offset = np.convolve(total, sums), offset + n * (n + 1)
    # Sum of X's doubled ranks = 2 U + n (n + 1), in each task; in its middle U is n m / 2.
    twice_u = np.arange(total.size) - offset
    middle = n * m * len(ranks)
    deviation = round(abs(observed - 0.5) * 2 * middle)
    return float(min(1.0, total[np.abs(twice_u - middle) >= deviation].sum()))


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p values (K,) of K tests: those below 0.05 are wrong together with probability 0.05 at most
    (Holm 1979), however the tests depend on each other."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be a vector of numbers in [0, 1], not {p}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def simultaneous_estimates(values: ArrayLike, draws: Sequence[Draws | Array], level: float = 0.95) -> list[Estimate]:
    """K values (K,) with intervals that all hold at once with probability `level`, from their bootstrap draws.

    Each is the interval of `Draws.ends` at a higher level, the normal distribution's within ± c: c is the `level`
    quantile of the largest of the K |draw - value| / s, s the standard deviation of its draws (the bootstrap max-t of
    Beran 1988; Montiel Olea & Plagborg-Møller 2019, section 2). Draws that belong together (one seed) keep their
    dependence, which makes c smaller than Bonferroni's. NaN where the draws are (of too few runs).
    """
    from scipy import special

    centres = np.asarray(values, dtype=np.float64)
    if centres.shape != (len(draws),):
        raise ValueError(f"{centres.size} values need as many draws, not {len(draws)}")
    known = [as_draws(one) for one in draws]
    drawn = np.stack([one.values for one in known], axis=1)
    spread = drawn.std(axis=0, ddof=1)
    moves = spread > 0
    largest = np.max(np.abs(drawn - centres)[:, moves] / spread[moves], axis=1, initial=0.0)
    together = max(level, 1 - 2 * float(special.ndtr(-np.quantile(largest, level))))
    ends = (one.ends(centre, together) for one, centre in zip(known, centres, strict=True))
    return [Estimate(float(centre), float(low), float(high)) for centre, (low, high) in zip(centres, ends, strict=True)]


def _doubled_ranks(values: Array) -> NDArray[np.int64]:
    """Twice the ranks 1.. of `values`, ties sharing their mean: whole numbers."""
    ordered = np.sort(values)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray(below + up_to + 1, dtype=np.int64)


def _distribution_of_sums(ranks: NDArray[np.int64], n: int) -> Array:
    """Probability of each sum 0, 1, .. of `n` of the `ranks`, all choices equally likely."""
    size = int(np.sort(ranks)[-n:].sum()) + 1
    ways = np.zeros((n + 1, size))
    ways[0, 0] = 1.0
    for rank in ranks:
        for chosen in range(n, 0, -1):
            ways[chosen, rank:] += ways[chosen - 1, : size - rank]
    return ways[n] / math.comb(len(ranks), n)
