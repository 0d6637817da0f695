"""The hash noise against an implementation in plain Python integers, and its statistics."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from asgc.noise import noise, noise_like

U32 = 2**32


def plain_mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % U32
    x ^= x >> 15
    x = x * 0x846CA68B % U32
    return x ^ (x >> 16)


def plain_noise(seed: int, step: int, layer: int, index: int) -> float:
    k0 = plain_mix((plain_mix((plain_mix(seed ^ 0x243F6A88) + step) % U32) + layer) % U32)
    high, low = index // U32, index % U32
    if high:
        k0 = plain_mix((k0 + high) % U32)
    k1 = plain_mix(k0 ^ 0x85A308D3)
    a = plain_mix(low ^ k0)
    b = plain_mix((a + k1) % U32)
    total = sum(a.to_bytes(4, "little")) + sum(b.to_bytes(4, "little"))
    return float(np.float32(total - 1020) * np.float32(1 / 209.0217))


@pytest.mark.parametrize(
    ("seed", "step", "layer", "start"),
    [
        *[(0, 0, 0, 0), (1, 2, 3, 4), (U32 - 1, U32 - 1, 1000, 123456789), (7, 10**9, 5, U32 - 20)],
        *[(7, 3, 1, 5 * U32 - 9), (U32 - 1, 3, 0, U32 // 2 - 25), (7, U32 // 2, 9, U32 // 2 - 25)],  # the sign bit
        (7, U32 // 2, 9, U32 + 3),
    ],
)
def test_equals_plain_integers(seed: int, step: int, layer: int, start: int) -> None:
    expected = [plain_noise(seed, step, layer, start + i) for i in range(50)]
    assert noise(seed, step, layer, start, 50).tolist() == expected


def test_any_split_gives_the_same_numbers() -> None:
    count = (1 << 18) + 1000  # more than one internal chunk
    whole = noise(3, 5, 2, 0, count)
    cuts = [0, 1, 17, 1000, 1 << 18, count - 1, count]
    parts = [noise(3, 5, 2, a, b - a) for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert noise(3, 5, 2, 10, 0).shape == (0,)


def test_channels_last_uses_the_row_major_index() -> None:
    x = torch.empty(2, 3, 4, 5)
    expected = noise(1, 2, 3, 0, x.numel()).view(x.shape)
    assert torch.equal(noise_like(x, 1, 2, 3), expected)
    assert torch.equal(noise_like(x.to(memory_format=torch.channels_last), 1, 2, 3), expected)
    assert torch.equal(noise_like(x.permute(3, 0, 1, 2), 1, 2, 3), expected.view(5, 2, 3, 4))


def test_moments() -> None:
    n = 1_000_000
    x = noise(11, 4, 6, 0, n).double()
    assert abs(x.mean().item()) < 4 / math.sqrt(n)
    assert x.var().item() == pytest.approx(1, abs=0.006)
    assert (x**3).mean().item() == pytest.approx(0, abs=0.016)
    assert (x**4).mean().item() / x.var().item() ** 2 == pytest.approx(2.85, abs=0.024)
    assert x.abs().max().item() < 4.9


def test_uncorrelated_over_lags_layers_steps_and_seeds() -> None:
    n = 500_000
    x = noise(0, 0, 0, 0, n).double()
    bound = 4.5 / math.sqrt(n)
    for lag in (1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096, 65536):
        assert abs((x[lag:] * x[:-lag]).mean().item()) < bound * math.sqrt(n / (n - lag)), lag
        assert abs((x[lag:] ** 2 * x[:-lag] ** 2).mean().item() - 1) < 4 * bound, lag
    for other in (noise(0, 0, 1, 0, n), noise(0, 1, 0, 0, n), noise(1, 0, 0, 0, n), noise(0, 0, 0, U32, n)):
        assert abs((x * other.double()).mean().item()) < bound
        for lag in (1, 2, 64):
            assert abs((x[lag:] * other[:-lag].double()).mean().item()) < bound


def test_time_series_of_one_element_is_white() -> None:
    x = torch.cat([noise(5, t, 1, 77, 1) for t in range(2000)]).double()
    assert abs(x.mean().item()) < 4.5 / math.sqrt(2000)
    assert x.std().item() == pytest.approx(1, abs=0.08)
    for lag in (1, 2, 4):
        assert abs((x[lag:] * x[:-lag]).mean().item()) < 4.5 / math.sqrt(2000)
