"""What ``preview()`` promises before a step is what the base rule then gets."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC, optimizers, rules, wrap
from asgc.clips import Clipped, NormClip
from asgc.implementations.cpu import build
from asgc.preview import preview, preview_transform

SHAPES = [(40, 7), (3, 2, 4, 4), (11,), ()]
OPTIONS: list[dict[str, Any]] = [
    {"mode": "value"},
    {"mode": "norm"},
    {"mode": "value", "clip_factor": 0.8, "noise_scale": 0.7, "noise_decay": 0.5, "seed": 9},
    {"mode": "norm", "clip_factor": 0.5, "clip_sharpness": math.inf, "noise_scale": 0.5},
    {"mode": "value", "threshold": 0.3, "noise_zeros": True},
    {"mode": "norm", "granularity": "unit"},
    {"mode": "value", "noise_scale": 0.0},
]


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def give_gradients(params: list[Tensor], step: int) -> None:
    """Heavy-tailed gradients, some exactly zero, and every fifth step ten times larger."""
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator) ** 3 * (10.0 if step % 5 == 4 else 1.0)
        param.grad = torch.where(torch.rand(param.shape, generator=generator) < 0.2, 0.0, grad)


class Recorder(torch.optim.SGD):
    """SGD that keeps the gradients it is given."""

    def step(self, closure: Any = None) -> None:
        self.given = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        super().step()


@pytest.fixture
def given_to_rule(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The gradients that the reference implementation hands to ``rules.step``."""
    given: list[Tensor] = []
    real: Callable[..., Any] = rules.step

    def step(param: Tensor, grad: Tensor, *rest: Any) -> Any:
        given.append(grad.clone())
        return real(param, grad, *rest)

    monkeypatch.setattr(rules, "step", step)
    return given


@pytest.mark.parametrize("options", [*OPTIONS, {"mode": "value", "noise_at": "update"}])
def test_asgc_gives_its_rule_what_preview_says(options: dict[str, Any], given_to_rule: list[Tensor]) -> None:
    params = parameters()
    opt = ASGC(params, 0.01, implementation="reference", **options)
    for step in range(7):
        give_gradients(params, step)
        layers = preview(opt)
        given_to_rule.clear()
        opt.step()
        assert [layer.param is param for layer, param in zip(layers, params, strict=True)] == [True] * len(params)
        for layer, given, told in zip(layers, given_to_rule, opt.diagnostics(), strict=True):
            assert torch.equal(layer.seen, given)
            assert (layer.threshold, layer.clipped, layer.attenuation) == (
                told["threshold"], told["clipped"], told["attenuation"],
            )  # fmt: skip
    if options.get("noise_scale") != 0:
        assert not torch.equal(layers[0].seen, params[0].grad)


FAST_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("cpu", options) for options in OPTIONS),
    *(("foreach", options) for options in OPTIONS if "granularity" not in options),
    ("cpu", {"mode": "value", "granularity": "unit", "noise_scale": 0.5}),
]


@pytest.mark.parametrize(("implementation", "options"), FAST_OPTIONS)
def test_the_fast_paths_step_by_what_preview_says(implementation: str, options: dict[str, Any]) -> None:
    if implementation == "cpu" and build.unavailable() is not None:
        pytest.skip("no C++ compiler")
    params = parameters()
    opt = ASGC(params, 1.0, rule="sgd", implementation=implementation, **options)  # so the step is the seen gradient
    for step in range(7):
        for param in params:
            param.zero_()
        give_gradients(params, step)
        layers = preview(opt)
        opt.step()
        for layer in layers:
            assert torch.equal(layer.seen, -layer.param)


@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize(("implementation", "granularity"), [("cpu", "layer"), ("cpu", "unit"), ("foreach", "layer")])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_the_fast_paths_show_what_the_reference_shows(
    implementation: str, granularity: str, rule: str, noise_at: str
) -> None:
    """With state, weight decay and options of their own in two groups, which must not leak into what is seen."""
    if implementation == "cpu" and build.unavailable() is not None:
        pytest.skip("no C++ compiler")
    params = parameters()
    groups = [
        {"params": params[:2], "clip_factor": 0.5, "weight_decay": 0.1},
        {"params": params[2:], "noise_scale": 0.6, "seed": 3, "lr": 0.5},
    ]
    options = {"granularity": granularity, "noise_at": noise_at, "implementation": implementation}
    opt = ASGC(groups, 0.01, rule=rule, **options)
    for step in range(6):
        give_gradients(params, step)
        fast = preview(opt)
        slow = preview_transform(
            (param, {**opt.state[param], "layer": opt.layer_number(param)}, group)
            for group in opt.param_groups
            for param in group["params"]
        )
        for one, other in zip(fast, slow, strict=True):
            assert one.param is other.param
            torch.testing.assert_close(one.seen, other.seen, rtol=2e-5, atol=1e-6)
            assert one[2:] == pytest.approx(other[2:], rel=1e-5)
            assert one.noise_std > 0
        opt.step()


@pytest.mark.parametrize("options", OPTIONS)
def test_wrap_gives_the_inner_optimizer_what_preview_says(options: dict[str, Any]) -> None:
    params = parameters()
    inner = Recorder(params, lr=0.01)
    opt = wrap(inner, **options)
    for step in range(7):
        give_gradients(params, step)
        layers = opt.preview()
        opt.step()
        for layer, given in zip(layers, inner.given, strict=True):
            assert torch.equal(layer.seen, given)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_the_clipped_baselines_give_the_inner_optimizer_what_preview_says(max_norm: float) -> None:
    params = parameters()
    inner = Recorder(params, lr=0.01)
    opt = Clipped(inner, NormClip(max_norm=max_norm))
    for step in range(6):
        give_gradients(params, step)
        raw = [param.grad.clone() for param in params if param.grad is not None]
        layers = preview(opt)
        opt.step()
        for layer, given, grad in zip(layers, inner.given, raw, strict=True):
            assert torch.equal(layer.seen, given)
            rms = float(grad.square().mean().sqrt())
            assert layer.clipped == (max_norm == 0.5) == (rms > layer.threshold)
            assert layer.attenuation == pytest.approx(float(given.norm() / grad.norm()), rel=1e-5)
            if max_norm == 0.5:  # a layer beyond its threshold is scaled down to it
                assert float(given.square().mean().sqrt()) == pytest.approx(layer.threshold, rel=1e-4)


def test_a_plain_optimizer_sees_the_gradients_themselves() -> None:
    params = parameters()
    opt = torch.optim.Adam(params)
    give_gradients(params[:2], 0)
    layers = preview(opt)
    assert [layer.seen is param.grad for layer, param in zip(layers, params[:2], strict=True)] == [True, True]
    assert {layer[2:6] for layer in layers} == {(math.inf, 0.0, 1.0, 0.0)}
    assert all(math.isnan(layer.clip_factor) and math.isnan(layer.clip_sharpness) for layer in layers)


@pytest.mark.parametrize("name", optimizers.names())
def test_preview_changes_nothing(name: str) -> None:
    looked, plain = parameters(), parameters()
    a, b = (optimizers.build(name, params, lr=0.01) for params in (looked, plain))
    before = copy.deepcopy(a.state_dict())
    give_gradients(looked, 0)
    preview(a)
    assert str(a.state_dict()) == str(before)  # before the first step, too, when there is no state yet
    for step in range(6):
        for params in (looked, plain):
            give_gradients(params, step)
        raw = [param.grad.clone() for param in looked if param.grad is not None]
        preview(a)
        assert all(torch.equal(param.grad, grad) for param, grad in zip(looked, raw, strict=True))
        a.step()
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(looked, plain, strict=True))


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_step_that_is_refused_shows_zeros(policy: str) -> None:
    params = parameters()
    for opt in (
        ASGC(params, 0.01, nonfinite=policy, implementation="reference"),
        wrap(torch.optim.SGD(params, lr=0.01), nonfinite=policy),
    ):
        give_gradients(params, 0)
        assert params[0].grad is not None
        params[0].grad[0, 0] = math.nan
        layers = preview(opt)
        assert all(not layer.seen.any() and layer.attenuation == 0 for layer in layers)
        give_gradients(params, 0)
        assert preview(opt)[0].seen.any()


def test_noise_std_is_the_standard_deviation_of_the_noise_of_that_step() -> None:
    """Measured on a large layer: seen minus gradient, where nothing is clipped."""
    param = torch.zeros(200_000)
    opt = ASGC([param], 0.01, rule="sgd", clip_factor=math.inf, noise_scale=0.5, noise_decay=1.0)
    for step in range(4):
        param.grad = torch.randn(200_000, generator=torch.Generator().manual_seed(step)) * (1.0 + step)
        layer = preview(opt)[0]
        assert layer.noise_std == pytest.approx(float((layer.seen - param.grad).std()), rel=0.01)
        opt.step()
