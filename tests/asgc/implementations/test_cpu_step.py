"""The compiled CPU path and the foreach path against the reference, over many noisy steps."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.implementations import foreach
from tests.asgc.harness import SHAPES, Pair, bursts, bursts_now_and_then, mixed_groups
from tests.asgc.matrix import COMBINATIONS

BOTH = ("cpu", "foreach")  # beside one reference where no more than equality with it is tested
FAST = pytest.mark.parametrize("implementation", BOTH)
MODES = pytest.mark.parametrize("mode", ["value", "norm"])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of foreach for the tensors that have several blocks of the kernel."""
    monkeypatch.setattr(foreach, "CHUNK", 1 << 13)


@MODES
@pytest.mark.parametrize(("rule", "options"), COMBINATIONS)
def test_every_rule_equals_the_reference(mode: str, rule: str, options: dict[str, Any]) -> None:
    pair = Pair(BOTH, SHAPES[1:], rule=rule, mode=mode, **options)
    for step in range(23):
        pair.step()
        if step % 7 in (0, 1):
            pair.check()


@MODES
@pytest.mark.parametrize("sharpness", [1.0, 2.0, 3.3, 50.0, 0.5, math.inf])
def test_every_sharpness_equals_the_reference(mode: str, sharpness: float) -> None:
    pair = Pair(BOTH, rule="sgd", mode=mode, clip_sharpness=sharpness)
    for _ in range(4):
        pair.step()
        pair.check()


@MODES
@pytest.mark.parametrize(
    "options",
    [
        {"clip_factor": math.inf},
        {"threshold": 50.0},
        {"threshold": math.inf, "noise_scale": 1.0},
        {"noise_scale": 0.0},
        {"noise_scale": 0.0, "clip_factor": math.inf},
        {"noise_zeros": True},
        {"outlier_share": 0.9, "stats_decay": 0.8},
    ],
)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_options_of_the_transform_equal_the_reference(mode: str, rule: str, options: dict[str, Any]) -> None:
    pair = Pair(BOTH, rule=rule, mode=mode, **options)
    for _ in range(12):
        pair.step()
        pair.check()


@MODES
def test_scales_restarts_and_zero_gradients(mode: str) -> None:
    """From 1e-25 to 1e25, up and down: the sums neither overflow nor underflow, warm-up restarts are the same."""
    scales = [0.0, 1e-25, 1e-25, 0.0, 1.0, 1.0, 1.0, 1e-9, 1e-9, 1e25, 1e25, 1e25, 1e12, 1e12, 1e-20, 0.0]

    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.randn(param.shape, generator=generator) + 10) * scales[step]

    pair = Pair(BOTH, mode=mode, stats_decay=0.95)
    restarts = 0
    for _ in scales:
        pair.step(gradient)
        pair.check()
        for found, opt in pair.others:
            stats = opt.state[found[0]]["stats"].view(-1)
            restarts += bool(stats[0] == 1 and stats[3] > 1)
            assert torch.isfinite(stats).all()
    assert restarts >= 5 * len(pair.others)


@MODES
@pytest.mark.parametrize("noise_zeros", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_sparse_and_vanished_gradients(mode: str, noise_zeros: bool, rule: str) -> None:
    """Long runs of zeros beside elements with a mean, and layers whose whole gradient is zero for a while."""

    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor:
        g = torch.randn(param.shape, generator=generator) + 3
        g.view(-1)[param.numel() // 3 :] = 0.0
        return g * 0 if step in (0, 3, 4) else g

    pair = Pair(BOTH, rule=rule, mode=mode, noise_zeros=noise_zeros)
    for step in range(6):
        before = [found[0].clone() for found, _ in pair.others]
        pair.step(gradient)
        pair.check()
        if rule == "sgd":
            for old, (found, _) in zip(before, pair.others, strict=True):
                assert torch.equal(old, found[0]) == (step == 0 or (step in (3, 4) and not noise_zeros))


@pytest.mark.parametrize("chosen", ["reference", "foreach", "cpu"])
def test_a_fixed_threshold_holds_in_a_first_step_with_nonfinite_elements(chosen: str) -> None:
    """Without statistics only what is not finite contributes 0; `threshold` needs none to clip the rest."""
    p = torch.nn.Parameter(torch.zeros(5))
    opt = ASGC([p], 1.0, rule="sgd", mode="value", threshold=1.0, clip_sharpness=math.inf, implementation=chosen)
    p.grad = torch.tensor([1e6, math.nan, -2.0, math.inf, 0.5])
    opt.step()
    assert p.tolist() == [-1.0, 0.0, 1.0, 0.0, -0.5]
    assert opt.diagnostics()[0]["clipped"] == pytest.approx(2 / 5)
    assert opt.diagnostics()[0]["threshold"] == 1.0


@MODES
@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("options", [{}, {"threshold": 50.0}, {"clip_factor": math.inf}, {"noise_zeros": True}])
def test_nonfinite_gradients_are_contained(mode: str, first: int, rule: str, options: dict[str, Any]) -> None:
    """In the first step of a layer (no statistics yet) and later: inf, -inf and NaN, in one tile and in several."""

    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
        g = bursts(step, index, param, generator)
        if g is not None and step in (first, first + 2) and index in (0, 3):
            flat = g.view(-1)
            flat[1], flat[2], flat[3] = math.inf, -math.inf, math.nan
            flat[-1] = math.inf
        return g

    pair = Pair(BOTH, rule=rule, mode=mode, **options)
    for _ in range(5):
        pair.step(gradient)
        pair.check()
    for found, opt in pair.others:
        assert [entry["nonfinite"] for entry in opt.diagnostics()] == [2, 0, 0, 2, 0, 0]
        assert all(torch.isfinite(p).all() for p in found)


@FAST
def test_skip_leaves_everything(implementation: str) -> None:
    p = torch.ones(100)
    opt = ASGC([p], 0.1, nonfinite="skip", implementation=implementation)
    p.grad = torch.randn(100)
    opt.step()
    before = [p.clone(), *[value.clone() for value in opt.state[p].values() if isinstance(value, Tensor)]]
    p.grad[7] = math.nan
    opt.step()
    after = [p, *[value.clone() for value in opt.state[p].values() if isinstance(value, Tensor)]]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) == 1  # the count of non-finite steps
    assert opt.diagnostics()[0]["nonfinite"] == 1


@MODES
def test_groups_parameters_without_gradient_and_changing_options(mode: str) -> None:
    pair = Pair(BOTH, groups=mixed_groups(2, 4), mode=mode)
    for step in range(12):
        for opt in (pair.reference, *(opt for _, opt in pair.others)):
            opt.param_groups[0]["lr"] = 0.01 / (1 + step)
            opt.param_groups[1]["lr"].fill_(0.02 * (1 + step % 2))
            opt.param_groups[2]["momentum"] = 0.0
            if step == 6:
                opt.param_groups[0]["momentum"] = 0.0
        pair.step(bursts_now_and_then)
        pair.check()


@pytest.mark.parametrize("on_shift", ["rewarm", "adam-rel", "reset"])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_shifts(on_shift: str, rule: str) -> None:
    options = {"momentum": 0.9, "dampening": 0.5} if rule == "sgd" else {}
    pair = Pair(BOTH, rule=rule, on_shift=on_shift, **options)
    for step in range(9):
        if step == 5:
            for opt in (pair.reference, *(opt for _, opt in pair.others)):
                opt.shift()
        pair.step()
        pair.check()


@FAST
@MODES
def test_resumed_is_uninterrupted_to_the_last_bit(implementation: str, mode: str) -> None:
    whole = Pair(implementation, rule="sgd", momentum=0.9, mode=mode)
    for _ in range(5):
        whole.step()
    saved = whole.fast.state_dict()
    params = [p.detach().clone() for p in whole.found]
    resumed = ASGC(params, implementation=implementation, **whole.options)
    resumed.load_state_dict(saved)
    for _ in range(5):
        whole.step()
        for p, q in zip(params, whole.found, strict=True):
            p.grad = q.grad
        resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(params, whole.found, strict=True))
    for p, q in zip(params, whole.found, strict=True):
        for name, value in whole.fast.state[q].items():
            assert torch.equal(torch.as_tensor(resumed.state[p][name]), torch.as_tensor(value))


@FAST
def test_unsupported_choices_are_refused_with_the_reason(implementation: str) -> None:
    with pytest.raises(ValueError, match="float32"):
        ASGC([torch.zeros(2, dtype=torch.bfloat16)], 0.1, implementation=implementation)
    if implementation == "foreach":
        with pytest.raises(ValueError, match="granularity='unit'"):
            ASGC([torch.zeros(2, 2)], 0.1, implementation=implementation, granularity="unit")
