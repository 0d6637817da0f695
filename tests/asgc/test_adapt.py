"""Online adaptation: the hypergradient is the derivative it says, and following it pays and does no harm."""

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asgc import ASGC, adapt, functional, rules, wrap
from tests.asgc.matrix import COMBINATIONS

KEYS = ("clip_factor", "clip_sharpness")


def warmed_up(options: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """A parameter and its state in fp64 after some steps on gradients with outliers."""
    generator = torch.Generator().manual_seed(3)
    param = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    state = functional.init(param, 2, options)
    for name in ("stats", *adapt.DERIVATIVES):
        state[name] = state[name].double()
    for step in range(7):
        g = torch.randn(5, 7, generator=generator, dtype=torch.float64) * (3.0 if step % 3 == 2 else 1.0) + 0.3
        param, state = functional.step(param, g, state, options)
    for name in adapt.DERIVATIVES:  # what is left of earlier measurements is tested below
        state[name] = torch.zeros_like(state[name])
    state["adapted"][adapt.LENGTH] = 0.0
    return param, state


@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize(("rule", "rule_options"), COMBINATIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_hypergradient_equals_finite_differences(
    rule: str, rule_options: dict[str, Any], mode: str, noise_at: str, granularity: str
) -> None:
    """d loss(step(theta)) / d theta, with and without the compensation for scale, two real forward steps each."""
    chosen = {"mode": mode, "noise_at": noise_at, "noise_scale": 0.2, "granularity": granularity, **rule_options}
    options = functional.options(rule, lr=0.03, clip_factor=0.9, adapt="hypergradient", adapt_every=1, **chosen)
    param, state = warmed_up(options)
    grad = torch.linspace(-3, 3, 35, dtype=torch.float64).view(5, 7) ** 3 / 9 + 0.2
    curvature = torch.linspace(0.5, 2, 35, dtype=torch.float64).view(5, 7)

    new_param, new_state = functional.step(param, grad, state, options)
    own = adapt.in_use(options, new_state["adapted"])  # what this step used: measured with the values moved before
    weight = state["adapted"][adapt.WEIGHT]
    e = (state["adapted"][adapt.ELASTICITY] / weight).tolist() if weight > 0 else [0.0, 0.0]
    assert (weight > 0) == (rule != "sgd")

    def loss(j: int, delta: float) -> float:
        moved = {**own, KEYS[j]: own[KEYS[j]] * math.exp(delta)}
        units = state["stats"].shape[1]
        root = rules.denominator(rules.squares(dict(state), moved, units), 35 // units, dict(state), moved)
        t, layer = int(state["noise_step"]), state["layer"]
        new = functional.transform(grad, state["stats"], t, layer, moved, denominator=root)
        x, noise = new.grad, new.noise
        w, _ = rules.step(param, x * math.exp(-e[j] * delta), dict(state), moved, noise)
        return float((curvature * w**4).sum())

    found = adapt.hypergradient(4 * curvature * new_param**3, new_state)
    for j in range(2):
        width = 1e-5
        expected = (loss(j, width) - loss(j, -width)) / (2 * width)
        assert abs(expected) > 1e-7
        assert float(found[j]) == pytest.approx(expected, rel=2e-6, abs=1e-9)


def test_derivatives_reach_through_the_momentum() -> None:
    """D is the derivative of the last update by a theta held through the steps, as finite differences have it."""
    chosen = {"mode": "value", "noise_scale": 0.2, "momentum": 0.8, "adapt_lr": 0.0}
    options = functional.options("sgd", lr=0.03, clip_factor=0.9, adapt="hypergradient", adapt_every=1, **chosen)

    def last_update(j: int, delta: float) -> tuple[Tensor, dict[str, Any]]:
        moved = {**options, KEYS[j]: options[KEYS[j]] * math.exp(delta)}
        generator = torch.Generator().manual_seed(5)
        param = torch.zeros(30, dtype=torch.float64)
        state = functional.init(param, 0, options)
        state["stats"] = state["stats"].double()
        for step in range(6):
            before = param
            grad = torch.randn(30, generator=generator, dtype=torch.float64) ** 3 + 0.2
            # The first gradient makes its own threshold, and is not measured.
            param, state = functional.step(param, grad, state, moved if step > 0 else options)
        return param - before, state

    for j, name in enumerate(adapt.DERIVATIVES):
        width = 1e-5
        expected = (last_update(j, width)[0] - last_update(j, -width)[0]) / (2 * width)
        found = -last_update(j, 0.0)[1][name].double()
        assert float(found.abs().max()) > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # kept in fp32


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_values_stay_in_their_bounds(data: st.DataObject) -> None:
    """Whatever the gradients, also with steps that would leave them at once."""
    rule = data.draw(st.sampled_from(["sgd", "adam", "adagrad"]))
    mode = data.draw(st.sampled_from(["value", "norm"]))
    sharpness = data.draw(st.sampled_from([0.5, 1.0, 3.3, 4.0, 30.0, math.inf]))
    implementation = data.draw(st.sampled_from(["cpu", "reference"]))
    scales = data.draw(st.lists(st.sampled_from([0.0, 1e-20, 1.0, 1e3, 1e15, math.inf, math.nan]), max_size=4))
    factor = data.draw(st.floats(0.01, 100))
    w = torch.ones(30)
    opt = ASGC(
        [w],
        1e-3,
        rule=rule,
        mode=mode,
        clip_factor=factor,
        clip_sharpness=sharpness,
        adapt="hypergradient",
        adapt_lr=1e4,
        adapt_every=1,
        implementation=implementation,
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    for scale in [*[1.0] * 12, *scales, *[1.0] * 4]:
        w.grad = scale * (torch.randn(30, generator=generator) ** 3 + 0.3)
        opt.step()
        found = opt.diagnostics()[0]
        assert factor / adapt.RANGE * 0.999 <= found["clip_factor"] <= factor * adapt.RANGE * 1.001
        low, high = adapt.SHARPNESS
        assert min(low, sharpness) <= found["clip_sharpness"] <= max(high, sharpness)
        assert bool(torch.isfinite(opt.state[w]["adapted"]).all())


def test_the_bounds_are_reached() -> None:
    """Without them the test above could not fail."""
    w = torch.ones(30)
    opt = ASGC([w], 1e-3, rule="sgd", mode="value", clip_factor=0.5, adapt="hypergradient", adapt_lr=1e4, adapt_every=1)
    for _ in range(30):
        w.grad = torch.linspace(1, 2, 30)
        opt.step()
    found = opt.diagnostics()[0]
    assert found["clip_factor"] == pytest.approx(0.5 * adapt.RANGE * (1 - adapt.PULL), rel=0.1)
    assert found["clip_sharpness"] == adapt.SHARPNESS[1]


def test_any_scale_of_the_gradient_gives_the_same_path() -> None:
    paths = []
    for scale in (2.0**-60, 1.0, 2.0**40):
        w = torch.zeros(100)
        options = {"rule": "sgd", "mode": "value", "clip_factor": 1.0, "adapt": "hypergradient", "adapt_every": 1}
        opt = ASGC([w], 0.1, **options)
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            w.grad = scale * (torch.randn(100, generator=generator) + 0.5)
            opt.step()
        paths.append(opt.state[w]["adapted"][adapt.LOG].clone())
    assert float(paths[1].abs().min()) > 0.05
    for path in paths:
        torch.testing.assert_close(path, paths[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
def test_a_saved_state_goes_on_to_the_bit(implementation: str) -> None:
    """Saved between two measurements, after the values have moved."""
    chosen = {"mode": "value", "clip_factor": 1.0, "adapt": "hypergradient", "implementation": implementation}
    runs = []
    for stop in (False, True):
        w = torch.zeros(40, 5)
        opt = ASGC([w], 0.01, adapt_every=3, **chosen)
        generator = torch.Generator().manual_seed(2)
        for step in range(70):
            if stop and step == 50:
                file = io.BytesIO()
                torch.save((w, opt.state_dict()), file)
                file.seek(0)
                w, saved = torch.load(file)
                opt = ASGC([w], 0.01, adapt_every=3, **chosen)
                opt.load_state_dict(saved)
            w.grad = torch.randn(40, 5, generator=generator) ** 3 + w - 1
            opt.step()
        runs.append({**opt.state[w], "weight": w})
    assert float(runs[0]["adapted"][0].abs()) > 0.02
    assert set(runs[0]) == set(runs[1])
    for name, value in runs[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(runs[1][name])), name


def test_a_saved_state_of_another_shape_is_refused() -> None:
    w = torch.ones(4)
    opt = ASGC([w], 0.1, adapt="hypergradient")
    w.grad = torch.ones(4)
    opt.step()
    for name in ("adapted", "factor_derivative"):
        saved = opt.state_dict()
        saved["state"][0] = {**saved["state"][0], name: torch.zeros(5)}
        with pytest.raises(ValueError, match=f"the saved {name} of"):
            opt.load_state_dict(saved)


def test_adapting_begins_when_it_is_switched_on() -> None:
    for implementation in ("reference", "cpu"):
        w = torch.ones(6)
        opt = ASGC([w], 0.1, implementation=implementation)
        w.grad = torch.ones(6)
        opt.step()
        opt.param_groups[0].update(adapt="hypergradient", adapt_every=1)
        opt.step()
        assert "adapted" in opt.state[w]


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
def test_preview_shows_the_values_of_the_coming_step(implementation: str) -> None:
    w = torch.zeros(60)
    chosen = {"mode": "value", "clip_factor": 1.0, "rule": "sgd", "adapt": "hypergradient", "adapt_lr": 3.0}
    opt = ASGC([w], 0.1, adapt_every=1, implementation=implementation, noise_scale=0.0, **chosen)
    generator = torch.Generator().manual_seed(2)
    factors, sharpnesses = set(), set()
    for _ in range(25):
        w.grad = torch.randn(60, generator=generator) + 0.7
        shown, before = opt.preview()[0], w.clone()
        opt.step()
        found = opt.diagnostics()[0]
        assert shown.clip_factor == pytest.approx(found["clip_factor"], rel=1e-6)
        assert shown.clip_sharpness == found["clip_sharpness"]
        assert shown.threshold == pytest.approx(found["threshold"], rel=1e-6)
        torch.testing.assert_close(before - 0.1 * shown.seen, w, rtol=1e-5, atol=1e-6)
        factors.add(round(shown.clip_factor, 6))
        sharpnesses.add(shown.clip_sharpness)
    assert len(factors) > 10
    assert len(sharpnesses) > 1


def test_after_a_shift_nothing_measured_before_counts() -> None:
    w = torch.zeros(60)
    opt = ASGC([w], 0.1, mode="value", rule="sgd", adapt="hypergradient", adapt_every=1, on_shift="rewarm")
    for _ in range(5):
        w.grad = torch.randn(60, generator=torch.Generator().manual_seed(1))
        opt.step()
    count = float(opt.state[w]["adapted"][adapt.COUNT])
    assert count > 0
    opt.shift()
    opt.step()
    assert float(opt.state[w]["adapted"][adapt.COUNT]) == count
    opt.step()
    assert float(opt.state[w]["adapted"][adapt.COUNT]) == count + 1


def test_who_cannot_adapt_says_so() -> None:
    options: dict[str, Any] = {"adapt": "hypergradient"}
    with pytest.raises(ValueError, match=r"'foreach' cannot be used: adapt='hypergradient' \(not done by foreach\)"):
        ASGC([torch.ones(2)], 0.1, implementation="foreach", **options)
    with pytest.raises(ValueError, match=r"'sharded' cannot be used: adapt='hypergradient' \(not done for DTensors\)"):
        ASGC([torch.ones(2)], 0.1, implementation="sharded", **options)
    with pytest.raises(TypeError, match="wrap has no option 'adapt'"):
        wrap(torch.optim.SGD([torch.ones(2)], 0.1), **options)
