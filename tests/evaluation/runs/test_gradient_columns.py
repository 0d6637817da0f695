"""Histogram, tail index and noise scale of gradients against numpy and known distributions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.runs.gradient_columns import BINS, HISTOGRAM_EDGES, histograms, noise_scale, tail_index


def test_edges_are_four_per_decade() -> None:
    assert (HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1], len(HISTOGRAM_EDGES)) == (-12.0, 4.0, 65)
    assert np.allclose(np.diff(HISTOGRAM_EDGES), 0.25)
    assert BINS == 66


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-40, 40), min_size=1, max_size=50))
def test_histogram_counts_as_numpy_does(logs: list[float]) -> None:
    logs = [x for x in logs if abs(4 * x - round(4 * x)) > 1e-4]  # not within rounding of an edge
    magnitudes = torch.tensor([10**x for x in logs], dtype=torch.float32)  # 1e-40 is subnormal, 1e40 infinite
    expected, _ = np.histogram(logs, bins=[-np.inf, *HISTOGRAM_EDGES, np.inf])
    assert histograms(magnitudes, [len(logs)]) == [expected.tolist()]


def test_histograms_of_layers_put_zeros_below_and_what_is_not_finite_above() -> None:
    flat = torch.tensor([0.0, 1e-20, 0.5, math.inf, math.nan, 1e7, 0.5])
    first, empty, second = histograms(flat, [4, 0, 3])
    half = int(np.searchsorted(HISTOGRAM_EDGES, np.log10(0.5)))
    assert (first[0], first[half], first[-1], sum(first)) == (2, 1, 1, 4)
    assert (second[0], second[half], second[-1], sum(second)) == (0, 1, 2, 3)
    assert empty == [0] * BINS


@pytest.mark.parametrize("alpha", [0.8, 1.5, 3.0])
def test_tail_index_of_pareto_samples(alpha: float) -> None:
    x = np.random.default_rng(0).pareto(alpha, 1_000_000) + 1
    k = math.isqrt(len(x))
    assert tail_index(torch.from_numpy(x)) == pytest.approx(alpha, abs=4 * alpha / math.sqrt(k))


def test_tail_index_of_gaussian_samples_grows_with_their_number() -> None:
    rng = np.random.default_rng(0)
    indices = [tail_index(torch.from_numpy(np.abs(rng.standard_normal(n)))) for n in (1_000, 30_000, 1_000_000)]
    assert 3 < indices[0] < indices[1] < indices[2]
    # The expected excess over the quantile u = 3.29 of 1 in 1000: E[log(x / u) | x > u], by numerical integration.
    u = 3.2905
    grid = np.linspace(u, u + 6, 200_001)
    density = np.exp(-(grid**2) / 2)
    excess = float((np.log(grid / u) * density).sum() / density.sum())
    assert indices[2] == pytest.approx(1 / excess, rel=0.1)


def test_tail_index_by_hand_and_where_there_is_none() -> None:
    x = torch.tensor([*[1.0] * 12, 2.0, 4.0, 8.0, 16.0, 0.0, 0.0, math.inf, math.nan])  # m = 16, k = 4, x_(5) = 1
    assert tail_index(x) == pytest.approx(4 / (math.log(2) * (1 + 2 + 3 + 4)))
    assert math.isnan(tail_index(torch.ones(15)))
    assert math.isnan(tail_index(torch.zeros(100)))
    assert math.isnan(tail_index(torch.zeros(0)))
    assert tail_index(torch.ones(16)) == math.inf


def gaussian_gradients(mean: list[torch.Tensor], std: float, count: int, seed: int) -> list[torch.Tensor]:
    """`count` samples' gradients of each layer, stacked."""
    generator = torch.Generator().manual_seed(seed)
    return [m + std * torch.randn(count, *m.shape, generator=generator, dtype=torch.float64) for m in mean]


@pytest.mark.parametrize(("batch", "size"), [(32, 16), (32, 8), (7, 3)])
def test_noise_scale_is_unbiased(batch: int, size: int) -> None:
    """Against samples whose covariance trace and mean gradient are known, averaged over many batches."""
    mean = [torch.full((3, 2), 0.5, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)]
    trace, square = 9 * 1.7**2, 6 * 0.25 + 5.0
    estimates = []
    for seed in range(1_500):
        samples = gaussian_gradients(mean, 1.7, batch, seed)
        whole, part = [s.mean(0) for s in samples], [s[:size].mean(0) for s in samples]
        estimates.append(noise_scale(whole, part, batch, size))
    found = np.mean(estimates, axis=0)
    error = np.std(estimates, axis=0) / math.sqrt(len(estimates))
    assert np.all(np.abs(found - [trace, square]) < 4 * error)
    assert np.all(error < 0.03 * np.array([trace, square]))  # or the line above would say nothing


def test_noise_scale_is_the_papers_formula_averaged_over_both_halves() -> None:
    samples = gaussian_gradients([torch.zeros(50)], 1.0, 10, 0)[0] + 0.3
    whole, halves, (big, small) = samples.mean(0), samples.view(2, 5, 50).mean(1), (10, 5)
    norm_big, norm_small = float(whole.square().sum()), float(halves.square().sum(1).mean())
    square = (big * norm_big - small * norm_small) / (big - small)  # equation A.2
    trace = (norm_small - norm_big) / (1 / small - 1 / big)  # equation A.3
    for half in halves:
        assert noise_scale([whole], [half], big, small) == pytest.approx((trace, square))
