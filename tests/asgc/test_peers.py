"""The clipping rules of papers: each against its formula written down once more in NumPy, and as an optimizer."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from asgc import optimizers
from asgc.clips import Clip, Clipped, ValueClip
from asgc.noise import noise
from asgc.peers import AGC, AdaGC, AutoClip, GradientNoise, Spamp, ZClip
from asgc.preview import preview

Array = NDArray[np.float64]
Arrays = list[Array]
SHAPES = [(6, 5), (6,), (4, 2, 3, 3), (), (3, 6), (3,)]
PEERS = ["agc", "autoclip", "zclip", "adagc", "spamp", "gradient-noise", "adam+clip-value"]
PEERS += ["gradient-stabilizer", "divgrad", "obgd"]


class Keeper(torch.optim.SGD):
    """SGD that keeps the gradients it is given."""

    given: list[Tensor]

    def step(self, closure: Any = None) -> None:
        self.given = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        super().step()


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * 0.3 for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Heavy-tailed, every seventh step twenty times larger."""
    generator = torch.Generator().manual_seed(100 + step)
    scale = 20.0 if step % 7 == 6 else 1.0
    return [torch.randn(shape, generator=generator) ** 3 * scale for shape in SHAPES]


def total_norm(grads: Arrays) -> float:
    return math.sqrt(sum(float((g**2).sum()) for g in grads))


def follow(clip: Clip, formula: Callable[[int, Arrays, Arrays], Arrays], steps: int = 40) -> None:
    """Every step's clipped gradients equal the formula's: (step, weights before it, raw gradients) -> gradients."""
    params = parameters()
    inner = Keeper(params, lr=0.003)
    opt = Clipped(inner, clip)
    changed = 0
    for step in range(steps):
        grads = gradients(step)
        weights = [p.double().numpy() for p in params]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        expected = formula(step, weights, [g.double().numpy() for g in grads])
        opt.step()
        for found, want in zip(inner.given, expected, strict=True):
            np.testing.assert_allclose(found.numpy(), want, rtol=2e-5, atol=1e-7)
        changed += sum(not np.allclose(g.numpy(), want, rtol=1e-3) for g, want in zip(grads, expected, strict=True))
    assert changed > 5  # the rule did something here


def test_agc_bounds_each_unit_by_its_weights_and_spares_the_head() -> None:
    def formula(_: int, weights: Arrays, grads: Arrays) -> Arrays:
        result = []
        for number, (w, g) in enumerate(zip(weights, grads, strict=True)):
            if number >= 4:  # the last matrix and its bias
                result.append(g)
                continue
            rows = [(w, g)] if g.ndim < 2 else list(zip(w, g, strict=True))
            out = []
            for weight, grad in rows:
                largest, norm = 0.5 * max(np.sqrt((weight**2).sum()), 0.2), np.sqrt((grad**2).sum())
                out.append(grad * (largest / norm) if norm > largest else grad)
            result.append(out[0] if g.ndim < 2 else np.stack(out))
        return result

    follow(AGC(clip_ratio=0.5, weight_floor=0.2), formula)


def test_agc_with_the_head_and_the_head_alone() -> None:
    params = parameters()
    for exclude, expected in ((True, 1.0), (False, 0.01)):
        opt = Clipped(torch.optim.SGD(params, lr=0.0), AGC(clip_ratio=0.01, exclude_head=exclude))
        params[4].grad = torch.ones(3, 6)
        opt.step()
        norms = params[4].grad.norm(dim=1) / (math.sqrt(6) if exclude else params[4].norm(dim=1))
        torch.testing.assert_close(norms, torch.full((3,), expected))


def test_autoclip_is_the_percentile_of_all_norms() -> None:
    history: list[float] = []

    def formula(_: int, __: Arrays, grads: Arrays) -> Arrays:
        norm = total_norm(grads)
        history.append(norm)
        return [g * min(1.0, float(np.percentile(history, 30)) / (norm + 1e-6)) for g in grads]

    follow(AutoClip(percentile=30), formula)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_autoclip_percentile_is_numpys(norms: list[float], percentile: float) -> None:
    clip = AutoClip(percentile=percentile)
    found = [clip.bound(torch.tensor(norm, dtype=torch.float64)) for norm in norms]
    expected = [np.percentile(norms[: i + 1], percentile) for i in range(len(norms))]
    assert [float(f) for f in found] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_autoclip_leaves_infinite_norms_out_of_its_history() -> None:
    clip = AutoClip(percentile=100)
    assert clip.bound(torch.tensor(math.nan)) == math.inf
    assert [clip.bound(torch.tensor(x)) for x in (2.0, math.inf, 3.0)] == [2.0, 2.0, 3.0]


def test_zclip_pulls_outliers_to_the_mean_the_more_the_larger_they_are() -> None:
    first: list[float] = []
    mean = var = 0.0
    bounds: list[float] = []

    def formula(step: int, __: Arrays, grads: Arrays) -> Arrays:
        nonlocal mean, var
        norm = total_norm(grads)
        limit = math.inf
        if step < 5:
            first.append(norm)
            mean, var = float(np.mean(first)), float(np.var(first))
        else:
            z = (norm - mean) / (math.sqrt(var) + 1e-6)
            if z > 2:
                limit = mean + 2 * math.sqrt(var) * 2 / z
                bounds.append(limit)
            taken = min(norm, limit) if z > 2 else norm
            mean = 0.9 * mean + 0.1 * taken
            var = 0.9 * var + 0.1 * (taken - mean) ** 2
        return [g * min(1.0, limit / (norm + 1e-6)) for g in grads]

    follow(ZClip(z_threshold=2, ema_decay=0.9, warmup_steps=5), formula)
    assert bounds


def test_adagc_follows_each_tensor_after_its_warm_up() -> None:
    means = [math.inf] * len(SHAPES)

    def formula(step: int, __: Arrays, grads: Arrays) -> Arrays:
        norms = [math.sqrt(float((g**2).sum())) for g in grads]
        if step < 6:
            scales = [min(1.0, 2.0 / total_norm(grads))] * len(grads)
        else:
            scales = [min(1.0, 1.1 * m / n) for m, n in zip(means, norms, strict=True)]
        for i, (scale, norm) in enumerate(zip(scales, norms, strict=True)):
            clipped = scale * norm
            means[i] = min(means[i], clipped) if step < 6 else 0.9 * means[i] + 0.1 * clipped
        return [g * scale for g, scale in zip(grads, scales, strict=True)]

    follow(AdaGC(relative_threshold=1.1, ema_decay=0.9, warmup_steps=6, max_norm=2.0), formula)


def test_spamp_shapes_by_a_power_and_projects() -> None:
    means: list[float] = []

    def formula(step: int, __: Arrays, grads: Arrays) -> Arrays:
        result = []
        for i, g in enumerate(grads):
            norm = math.sqrt(float((g**2).sum()))
            if step == 0:
                means.append(norm)
            means[i] = 0.8 * means[i] + 0.2 * norm
            power = 0.7 + 0.3 * min(1.0, means[i] / norm)
            shaped = np.sign(g) * np.abs(g) ** power
            result.append(shaped * min(1.0, means[i] / math.sqrt(float((shaped**2).sum()))))
        return result

    follow(Spamp(ema_decay=0.8), formula)


def test_gradient_noise_is_annealed_and_a_function_of_the_seed() -> None:
    def formula(step: int, __: Arrays, grads: Arrays) -> Arrays:
        std = math.sqrt(0.3 / (1 + step) ** 0.55)
        eps = [noise(7, step, i, 0, g.size).double().numpy().reshape(g.shape) for i, g in enumerate(grads)]
        return [g + std * e for g, e in zip(grads, eps, strict=True)]

    follow(GradientNoise(eta=0.3, seed=7), formula)


def test_value_clip_is_clip_grad_value() -> None:
    follow(ValueClip(clip_value=0.4), lambda _, __, grads: [np.clip(g, -0.4, 0.4) for g in grads])


@pytest.mark.parametrize("name", [*PEERS, "sgd+clip", "adam-rel", "adam-reset"])
def test_preview_says_what_the_rule_gets_and_a_saved_state_goes_on_the_same(name: str) -> None:
    options = {"warmup_steps": 3} if name in ("zclip", "adagc") else {}
    params = parameters()
    opt = optimizers.build(name, params, lr=0.01, **options)
    twin_params, twin = params, opt
    for step in range(12):
        if step == 6:  # another process goes on from what was saved
            twin_params = [p.clone() for p in params]
            twin = optimizers.build(name, twin_params, lr=0.01, **options)
            twin.load_state_dict(copy.deepcopy(opt.state_dict()))
        for these in [params] if twin is opt else [params, twin_params]:
            for param, grad in zip(these, gradients(step), strict=True):
                param.grad = grad.clone()
        missing = step == 8  # a parameter that gets no gradient now and then keeps its number
        if missing:
            params[2].grad = twin_params[2].grad = None
        raw = [p.grad.clone() for p in params if p.grad is not None]
        state = copy.deepcopy(opt.state_dict())
        layers = preview(opt)
        assert all(torch.equal(p.grad, g) for p, g in zip([q for q in params if q.grad is not None], raw, strict=True))
        assert str(opt.state_dict()) == str(state)  # nothing has changed
        opt.step()
        if isinstance(opt, Clipped):
            seen = [p.grad for p in params if p.grad is not None]
            assert all(torch.equal(layer.seen, g) for layer, g in zip(layers, seen, strict=True))
            for layer, before in zip(layers, raw, strict=True):
                left = min(1.0, float(layer.seen.norm() / before.norm()))  # what noise adds does not count
                assert layer.attenuation == pytest.approx(left, rel=1e-4)
        if twin is not opt:
            twin.step()
            assert all(torch.equal(a, b) for a, b in zip(params, twin_params, strict=True))
            assert str(opt.state_dict()) == str(twin.state_dict())


def test_preview_counts_what_is_clipped() -> None:
    params = parameters()
    for param, grad in zip(params, gradients(6), strict=True):
        param.grad = grad
    shares = {name: [layer.clipped for layer in preview(optimizers.build(name, params, lr=0.1))] for name in PEERS}
    by_hand = [float((p.grad.abs() > 1).float().mean()) for p in params if p.grad is not None]
    assert shares["adam+clip-value"] == pytest.approx(by_hand)
    assert shares["agc"] == [1, 1, 1, 1, 0, 0]
    assert shares["gradient-noise"] == [0] * 6
    (noisy, *_) = preview(optimizers.build("gradient-noise", params, lr=0.1, eta=0.09))
    assert noisy.noise_std == pytest.approx(0.3)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_any_rule_and_its_options(name: str) -> None:
    if name.startswith("adam"):
        assert optimizers.defaults("sgd+clip-value") == {**optimizers.defaults("sgd"), "clip_value": 1.0}
        return
    taken = optimizers.defaults(name, rule="sgd")
    assert taken["rule"] == "sgd"
    assert "momentum" in taken
    assert "betas" not in taken
    opt = optimizers.build(name, parameters(), lr=0.1, rule="sgd", momentum=0.9)
    assert isinstance(opt, Clipped)
    assert type(opt.inner) is torch.optim.SGD
    assert type(optimizers.build(name, parameters(), lr=0.1).inner) is torch.optim.Adam  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "kept"), [("adam-rel", True), ("adam-reset", False)])
def test_adam_that_answers_shift(name: str, kept: bool) -> None:
    """torch's Adam whose step count (and moments) are set back by hand at the shift."""
    ours, theirs = parameters(), parameters()
    opt = optimizers.build(name, ours, lr=0.01, eps=1e-5)
    oracle = torch.optim.Adam(theirs, lr=0.01, eps=1e-5, foreach=False)
    for step in range(9):
        if step == 5:
            opt.shift()  # type: ignore[attr-defined]
            for param in theirs:
                oracle.state[param]["step"].zero_()
                if not kept:
                    oracle.state[param]["exp_avg"].zero_()
                    oracle.state[param]["exp_avg_sq"].zero_()
        for a, b, grad in zip(ours, theirs, gradients(step), strict=True):
            a.grad, b.grad = grad.clone(), grad.clone()
        opt.step()
        oracle.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert set(optimizers.options(name)) == set(optimizers.options("adam"))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("autoclip", {"percentile": 101}, ValueError, "percentile must be at least 0 and at most 100"),
        ("zclip", {"z_threshold": 0.0}, ValueError, "z_threshold must be above 0"),
        ("zclip", {"warmup_steps": 2.5}, TypeError, "warmup_steps must be a whole number"),
        ("zclip", {"warmup_steps": 0}, ValueError, "warmup_steps must be at least 1"),
        ("adagc", {"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0"),
        ("adagc", {"ema_decay": 1.0}, ValueError, "ema_decay must be at least 0 and below 1"),
        ("adagc", {"relative": 1.0}, TypeError, "did you mean 'relative_threshold'"),
        ("spamp", {"min_power": 0}, ValueError, "min_power must be above 0 and at most 1"),
        ("agc", {"clip_ratio": "x"}, TypeError, "clip_ratio must be a number"),
        ("agc", {"exclude_head": 1}, TypeError, "exclude_head must be True or False"),
        ("agc", {"momentum": 0.9}, TypeError, "agc has no option 'momentum'"),
        ("agc", {"rule": "adan"}, ValueError, "unknown rule 'adan'"),
        ("gradient-noise", {"eta": -1}, ValueError, "eta must be at least 0 and finite"),
        ("sgd+clip-value", {"clip_value": 0}, ValueError, "clip_value must be above 0"),
        ("adam-rel", {"clip_factor": 2.0}, TypeError, "adam-rel has no option 'clip_factor'"),
        ("adam-rel", {"rule": "sgd"}, TypeError, "adam-rel has no option 'rule'"),
    ],
)
def test_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimizers.build(name, parameters(), lr=0.1, **options)


def test_the_state_of_another_clip_is_refused_and_nothing_changes() -> None:
    params = parameters()
    opt, other = optimizers.build("zclip", params, lr=0.1), optimizers.build("spamp", params, lr=0.1)
    before = str(opt.state_dict())
    for state in (other.state_dict(), torch.optim.Adam(params).state_dict()):
        with pytest.raises(ValueError, match="not a state_dict of ZClip"):
            opt.load_state_dict(state)
    assert str(opt.state_dict()) == before
