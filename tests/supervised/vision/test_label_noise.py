"""Label noise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.vision.label_noise import noisy


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 400), classes=st.integers(2, 12), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_share_holds_the_smaller(size: int, classes: int, shares: tuple[float, float]) -> None:
    labels = np.arange(size) % classes
    less, more = (noisy(labels, classes, share) for share in sorted(shares))
    assert ((more == less) | (less == labels)).all()
    assert (less != labels).sum() <= round(min(shares) * size)
    assert less.min() >= 0
    assert less.max() < classes


def test_the_share_is_drawn_anew_uniformly_over_all_classes() -> None:
    labels = np.arange(50_000) % 10
    found = noisy(labels, 10, 0.2)
    wrong = found != labels
    assert abs(wrong.mean() - 0.2 * 0.9) < 4 * np.sqrt(0.2 * 0.1 * 0.9 / 50_000)
    shift = np.bincount((found - labels)[wrong] % 10, minlength=10)[1:]
    assert ((shift - shift.mean()) ** 2 / shift.mean()).sum() < 26.1  # 8 degrees of freedom, one in a thousand
    assert (noisy(labels, 10, 0.0) == labels).all()
    # With labels that no draw can be, exactly the share is new.
    assert (noisy(np.full(1000, -1), 10, 0.137) >= 0).sum() == 137
