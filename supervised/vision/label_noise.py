"""Wrong training labels, on purpose: what an optimizer does with them is a question that studies ask."""

from __future__ import annotations

import numpy as np

from evaluation.runs import seeding
from supervised.order import Indices


def noisy(labels: Indices, classes: int, share: float) -> Indices:
    """The labels, `share` of them (rounded to whole samples) drawn anew uniformly over all classes.

    A class may be drawn that was there before, so that `share * (1 - 1 / classes)` of all are wrong in expectation. A
    pure function of its arguments: the same in all runs, whatever their seeds; with a larger share the samples of a
    smaller one are drawn anew as well, to the same labels.
    """
    rng = np.random.default_rng(seeding.derive(0, "label_noise", classes, len(labels)))
    order, drawn = rng.permutation(len(labels)), rng.integers(classes, size=len(labels))
    chosen = order[: round(share * len(labels))]
    result = np.array(labels, np.int64)
    result[chosen] = drawn[chosen]
    return result
