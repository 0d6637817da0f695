"""Better, worse, or no difference shown: the one judge of all comparisons.

A `Contrast` is a method beside the baseline. `judge` takes all contrasts of a family together: p values are adjusted
for their number (Holm), the intervals of the differences hold at once, and a verdict needs the test as well as an
interval. The rows over all tasks and settings are the *primary* family, what a study claims; rows of single settings,
tasks and points are *exploratory*, to look around with: a family of their own, judged ten times as
strictly for a method whose primary row shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from evaluation.analysis.stats.aggregate import (
    Array,
    Statistic,
    as_scores,
    interquartile_mean,
    probability_of_improvement,
)
from evaluation.analysis.stats.bootstrap import UNKNOWN, Bootstrap, Draws, Estimate
from evaluation.analysis.stats.multiple import holm, rank_test, simultaneous_estimates


class Verdict(StrEnum):
    """What is shown of a method against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"

    @property
    def sign(self) -> str:
        """The verdict without colour and words."""
        return {"BETTER": "▲", "WORSE": "▼", "NOT_SHOWN": "○"}[self.name]

    @property
    def css(self) -> str:
        """Its class on the page of a report."""
        return "no" if self is Verdict.NOT_SHOWN else self.value


@dataclass(frozen=True)
class Contrast:
    """A method beside the baseline: what is compared of the two."""

    method: Estimate
    baseline: Estimate
    draws: Draws | Array  # of their difference
    p: float = math.nan  # of a test that they are equal; NaN: there is none, and each contrast is judged on its own
    improvement: Estimate = UNKNOWN  # probability that a run of the method is better; else the difference decides

    @property
    def difference(self) -> float:
        """Method less baseline."""
        return self.method.value - self.baseline.value


@dataclass(frozen=True)
class Judged:
    """A contrast after the correction for many comparisons: fields of the rows that show it."""

    difference: Estimate
    improvement: Estimate
    p: float
    p_holm: float
    verdict: Verdict


def contrast(
    x: Array, y: Array, how: Bootstrap, center: Statistic = interquartile_mean, higher_is_better: bool = True
) -> Contrast:
    """The values x (R, T) of a method beside those of the baseline y (R', T): `center` of each, the exact rank test and
    the probability of improvement."""
    x, y = as_scores(x), as_scores(y)
    good_x, good_y = (x, y) if higher_is_better else (-x, -y)
    return Contrast(
        how.estimate(center, x),
        how.estimate(center, y),
        how.difference_draws(center, x, y),
        rank_test(good_x, good_y),
        how.estimate(probability_of_improvement, good_x, good_y),
    )


PRIMARY, EXPLORATORY = "primary", "exploratory"
STRICTER = 10  # times the p value of an exploratory contrast whose primary one shows nothing


def judge_families(
    contrasts: Sequence[Contrast],
    primary: Sequence[Hashable],
    exploratory: Sequence[Hashable],
    how: Bootstrap,
    gates: Mapping[Any, float] = MappingProxyType({}),
) -> list[Judged]:
    """The verdicts of a table: many exploratory rows take no power from the primary ones.

    `primary` names what each contrast decides (None: nothing, it is exploratory), `exploratory` by which of these names
    it is gated: its p value is at least that of the primary contrast of that name (also from another table: `gates`)
    or `STRICTER` times its own. So under equal methods both families together claim hardly more than the primary one.
    """
    judged: dict[int, Judged] = {}
    for is_primary in (True, False):
        places = [place for place, name in enumerate(primary) if (name is not None) is is_primary]
        judged |= zip(places, judge([contrasts[place] for place in places], how), strict=True)
    p_values = {**gates, **{name: judged[at].p_holm for at, name in enumerate(primary) if name is not None}}
    for place, name in enumerate(primary):
        one = judged[place]
        if name is None and (gate := p_values.get(exploratory[place], 0.0)) > one.p_holm:
            p = min(gate, STRICTER * one.p_holm)
            judged[place] = replace(one, p_holm=p, verdict=Verdict.NOT_SHOWN if p > 1 - how.level else one.verdict)
    return [judged[place] for place in range(len(contrasts))]


def judge(contrasts: Sequence[Contrast], how: Bootstrap) -> list[Judged]:
    """The verdict on each contrast of one family.

    With p values: *better* if the p value, adjusted by Holm for all of them, is at most 1 - level and the interval
    of the probability of improvement lies above 1/2 (where there is none: the difference's above 0); *worse* likewise.
    The intervals of the differences hold together. Without p values the interval of each difference, on its own,
    decides.
    """
    if not contrasts:
        return []
    p_values = np.array([one.p for one in contrasts])
    if np.isnan(p_values).all():
        differences, adjusted = [how.around(one.difference, one.draws) for one in contrasts], p_values
    else:
        draws = [one.draws for one in contrasts]
        differences = simultaneous_estimates([one.difference for one in contrasts], draws, how.level)
        adjusted = holm(p_values)
    judged = []
    for one, difference, p in zip(contrasts, differences, map(float, adjusted), strict=True):
        by_difference = math.isnan(one.improvement.value)
        shown = _verdict(difference, 0.0) if by_difference else _verdict(one.improvement, 0.5)
        verdict = Verdict.NOT_SHOWN if p > 1 - how.level else shown
        judged.append(Judged(difference, one.improvement, one.p, p, verdict))
    return judged


def _verdict(estimate: Estimate, equal: float) -> Verdict:
    """On which side of `equal` an interval lies; runs that are all alike show nothing."""
    if estimate.low == estimate.high:
        return Verdict.NOT_SHOWN
    if estimate.low > equal:
        return Verdict.BETTER
    return Verdict.WORSE if estimate.high < equal else Verdict.NOT_SHOWN
