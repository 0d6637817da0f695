"""How often a whole table claims a difference between methods that are equal, and how much it still finds.

python -m pytest -m slow -s tests/evaluation/analysis/comparisons/test_false_claims.py     # prints the table
"""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.analysis.comparisons.verdicts import EXPLORATORY, PRIMARY, Contrast, Verdict, judge_families
from evaluation.analysis.stats.aggregate import probability_of_improvement
from evaluation.analysis.stats.bootstrap import Bootstrap, Estimate
from evaluation.analysis.stats.multiple import rank_test
from tests.evaluation.analysis.stats.test_coverage import KINDS

HOW = Bootstrap()
NO_DRAWS = np.linspace(-1.0, 1.0, 50)  # of differences, on which no verdict of a rank test rests
METHODS, TASKS, SETTINGS = 6, 3, 2


def table(rng, kind, runs, shift=0.0):
    """Families and verdicts of six methods against the baseline: over all tasks and settings, and in each setting. The
    first is better by `shift`."""
    contrasts, families = [], []
    baseline = KINDS[kind](rng, (runs, TASKS * SETTINGS))
    for method in range(METHODS):
        scores = KINDS[kind](rng, (runs, TASKS * SETTINGS)) + shift * (method == 0)
        whole = [(PRIMARY, slice(None))]
        whole += [(EXPLORATORY, slice(TASKS * place, TASKS * (place + 1))) for place in range(SETTINGS)]
        for family, cells in whole:
            x, y = scores[:, cells], baseline[:, cells]
            improvement = HOW.estimate(probability_of_improvement, x, y)
            contrasts.append(Contrast(Estimate(0.0), Estimate(0.0), NO_DRAWS, rank_test(x, y), improvement))
            families.append(family)
    names = [place // (1 + SETTINGS) for place in range(len(contrasts))]
    primary = [name if family == PRIMARY else None for name, family in zip(names, families, strict=True)]
    judged = judge_families(contrasts, primary, names, HOW)
    return [(family, one.verdict) for family, one in zip(families, judged, strict=True)]


def claims(kind, runs, studies, shift=0.0):
    """Shares of studies with a claim: in the primary family, anywhere, and that the first method is better."""
    rng = np.random.default_rng(runs)
    found = [table(rng, kind, runs, shift) for _ in range(studies)]
    primary = np.mean([any(v != Verdict.NOT_SHOWN for family, v in one if family == PRIMARY) for one in found])
    anywhere = np.mean([any(v != Verdict.NOT_SHOWN for _, v in one) for one in found])
    return primary, anywhere, np.mean([one[0][1] == Verdict.BETTER for one in found])


def test_equal_methods_are_not_called_different():
    assert claims("normal", 5, 150)[1] <= 0.1  # 0.05 and three errors of 150 studies
    assert claims("normal", 5, 50, shift=1.5)[2] > 0.8


@pytest.mark.slow
def test_the_whole_table_claims_too_much_in_one_study_of_twenty():
    for kind in ("normal", "skewed", "bounded", "bimodal"):
        for runs in (3, 5, 10):
            primary, anywhere, _ = claims(kind, runs, 1_000)
            power = claims(kind, runs, 200, shift=1.0)[2]
            print(f"{kind:8s} {runs:2d} runs: primary {primary:.3f}, table {anywhere:.3f}; power at 1 sd {power:.2f}")
            assert anywhere <= 0.05 + 0.014, (kind, runs)  # two errors of 1,000 studies
