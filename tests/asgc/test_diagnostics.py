"""What ``diagnostics()`` and ``preview()`` say stays a number, and attenuation a share, whatever the gradients are."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asgc import ASGC, optimizers, wrap
from asgc.implementations.cpu import build
from asgc.preview import preview

IMPLEMENTATIONS = [
    "reference",
    "foreach",
    pytest.param("cpu", marks=pytest.mark.skipif(build.unavailable() is not None, reason="no C++ compiler")),
]
MODES = pytest.mark.parametrize("mode", ["value", "norm"])
NUMBERS = ("mean", "std", "threshold", "clipped", "attenuation", "noise_scale", "noise_std", "nonfinite")


@MODES
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_attenuation_is_at_most_one(implementation: str, mode: str, data: st.DataObject) -> None:
    """Noise that adds to the norm, and infinite elements that are clipped to the threshold, do not count against it."""
    noise_scale = data.draw(st.sampled_from([0.0, 0.1, 3.0]))
    noise_at = data.draw(st.sampled_from(["gradient", "update"]))
    sharpness = data.draw(st.sampled_from([4.0, 2.0, 3.3, math.inf]))
    shared: dict[str, Any] = {"mode": mode, "noise_scale": noise_scale, "clip_sharpness": sharpness}
    p, q = torch.zeros(500), torch.zeros(500)
    opt = ASGC([p], 0.1, implementation=implementation, noise_at=noise_at, **shared)
    around = wrap(torch.optim.SGD([q], lr=0.1), **shared)
    for step in range(data.draw(st.integers(1, 5))):
        scale = data.draw(st.sampled_from([1.0, 1e-4, 1e-30, 1e4, 1e25]))
        p.grad = torch.randn(500, generator=torch.Generator().manual_seed(step)) * scale
        if data.draw(st.booleans()):
            p.grad[data.draw(st.integers(0, 499))] = data.draw(st.sampled_from([math.inf, -math.inf, math.nan, 0.0]))
        q.grad = p.grad.clone()
        for each in (opt, around):
            shown = each.preview()[0]
            each.step()
            told = each.diagnostics()[0]
            assert 0 <= told["attenuation"] <= 1
            assert shown.attenuation == told["attenuation"]
            if mode == "norm" and not told["clipped"]:
                assert told["attenuation"] > 0.8


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_attenuation_is_what_the_clip_leaves(implementation: str) -> None:
    p = torch.zeros(2000)
    opt = ASGC([p], 1.0, rule="sgd", mode="value", noise_scale=1.0, clip_factor=1.0, implementation=implementation)
    for step in range(3):
        p.zero_()
        p.grad = torch.randn(2000, generator=torch.Generator().manual_seed(step))
        opt.step()
    silent = ASGC([q := torch.zeros(2000)], 1.0, rule="sgd", mode="value", noise_scale=1.0, clip_factor=math.inf,
                  implementation=implementation)  # fmt: skip
    for step in range(3):
        q.zero_()
        q.grad = torch.randn(2000, generator=torch.Generator().manual_seed(step))
        silent.step()
    assert opt.diagnostics()[0]["attenuation"] == pytest.approx(float(p.norm() / q.norm()), rel=1e-5)


@pytest.mark.parametrize("name", [one for one in optimizers.names() if "shampoo" not in one])  # takes no empty layers
def test_every_optimizer_shows_numbers_for_empty_layers(name: str) -> None:
    params = [torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(4)]
    opt = optimizers.build(name, params, lr=0.1)
    for param in params:
        param.grad = torch.ones_like(param)
    for layer in preview(opt):
        assert not any(math.isnan(value) for value in layer[2:6])
    opt.step()


@MODES
@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 0), (2, 0, 3)])
def test_empty_layers_and_units_have_numbers(
    shape: tuple[int, ...], implementation: str, noise_at: str, granularity: str, mode: str
) -> None:
    if (implementation, granularity) == ("foreach", "unit"):
        pytest.skip("not served")
    options = {"mode": mode, "granularity": granularity}
    p, q = torch.zeros(shape), torch.zeros(shape)
    asgc = ASGC([p], 0.1, implementation=implementation, noise_at=noise_at, **options)
    for opt, param in ((asgc, p), (wrap(torch.optim.SGD([q], lr=0.1), **options), q)):
        for _ in range(2):
            param.grad = torch.zeros(shape)
            (shown,) = opt.preview()
            opt.step()
            (told,) = opt.diagnostics()
            assert [math.isfinite(told[name]) for name in NUMBERS] == [True] * len(NUMBERS)
            assert (told["clipped"], told["attenuation"], told["noise_std"], told["nonfinite"]) == (0, 1, 0, 0)
            assert all(math.isfinite(value) for value in shown[2:])
