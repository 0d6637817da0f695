"""Means over a logging interval."""

from __future__ import annotations

import pytest
import torch

from evaluation.runs.interval_means import IntervalMeans


def test_every_number_of_a_tensor_counts_alike() -> None:
    means = IntervalMeans()
    means.add({"loss": torch.tensor([1.0, 2.0, 3.0]), "epsilon": 0.5})
    means.add({"loss": torch.tensor(6.0)})
    means.add({"loss": torch.tensor([8.0])})
    assert means.take() == pytest.approx({"loss": 4.0, "epsilon": 0.5})
    assert means.take() == {}
