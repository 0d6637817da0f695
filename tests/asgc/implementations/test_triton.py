"""The Triton kernels against the reference: in Triton's interpreter, or on the GPU where there is one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.gradient_statistics import STATISTICS
from asgc.noise import noise
from tests.asgc.harness import (
    Pair,
    assert_refused_step_counts_its_unit_only,
    bursts_now_and_then,
    channels_last,
    mixed_groups,
    transposed,
)
from tests.asgc.matrix import COMBINATIONS

pytest.importorskip("triton")
from asgc.implementations.triton import fields, triton_step
from tests.asgc.implementations.interpreter import DEVICE, SHAPES, eventful, on_device, small_tiles  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy", "ignore::RuntimeWarning:triton"),  # infinities
]
MODES = pytest.mark.parametrize("mode", ["value", "norm"])
NONFINITE = STATISTICS.index("nonfinite")


def pair_of(shapes: Any = SHAPES, layout: Any = on_device, **options: Any) -> Pair:
    return Pair("triton", shapes, layout=layout, **options)


# Of every rule the options with the most arithmetic.
FULLEST = (COMBINATIONS[1], COMBINATIONS[3], COMBINATIONS[5], COMBINATIONS[8], COMBINATIONS[10])


def check_rule(rule: str, options: dict[str, Any], **transform: Any) -> None:
    if rule != "sgd":
        options = {"eps": 1e-2, **options}  # noise divided by next to nothing would magnify every rounding
    pair = pair_of(rule=rule, **options, **transform)
    for _ in range(3):
        pair.step(eventful)
        pair.check()
    assert all(torch.isfinite(p).all() for p in pair.found)
    assert sum(entry["nonfinite"] for entry in pair.fast.diagnostics()) >= 2


@MODES
@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize(("rule", "options"), FULLEST)
def test_every_rule_equals_the_reference(
    noise_at: str, granularity: str, mode: str, rule: str, options: dict[str, Any]
) -> None:
    check_rule(rule, options, mode=mode, noise_at=noise_at, granularity=granularity)


@pytest.mark.parametrize(
    ("mode", "noise_at", "granularity"), [("value", "gradient", "layer"), ("norm", "update", "unit")]
)
@pytest.mark.parametrize(("rule", "options"), [entry for entry in COMBINATIONS if entry not in FULLEST])
def test_every_option_of_a_rule_equals_the_reference(
    mode: str, noise_at: str, granularity: str, rule: str, options: dict[str, Any]
) -> None:
    check_rule(rule, options, mode=mode, noise_at=noise_at, granularity=granularity)


@MODES
@pytest.mark.parametrize(
    "options",
    [
        {"clip_factor": math.inf},
        {"threshold": 2.0},
        {"threshold": math.inf, "noise_scale": 1.0},
        {"noise_scale": 0.0},
        {"noise_scale": 0.0, "clip_factor": math.inf},
        {"noise_zeros": True, "granularity": "unit"},
        {"clip_sharpness": 2.0, "clip_factor": 1.1},
        {"clip_sharpness": 3.3, "clip_factor": 1.1, "granularity": "unit"},
        {"clip_sharpness": 50.0},
        {"clip_sharpness": 1.0, "outlier_share": 0.9, "stats_decay": 0.5},
        {"clip_sharpness": math.inf, "seed": (1 << 32) - 1},
    ],
)
def test_options_of_the_transform_equal_the_reference(mode: str, options: dict[str, Any]) -> None:
    pair = pair_of(SHAPES[:2], rule="sgd", mode=mode, **options)
    for _ in range(4):
        pair.step(eventful)
        pair.check()


@MODES
@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize(("dtype", "rule"), [(torch.bfloat16, "adam"), (torch.float16, "sgd")])
def test_half_precision_parameters_with_fp32_state(dtype: torch.dtype, rule: str, granularity: str, mode: str) -> None:
    """Parameters are rounded once, to nearest: equal but for a few that lie between two numbers."""
    pair = pair_of(SHAPES[:4], lambda x: x.to(DEVICE, dtype), rule=rule, mode=mode, granularity=granularity)
    for _ in range(3):
        pair.step(eventful)
        for expected, found in zip(pair.expected, pair.found, strict=True):
            step = torch.finfo(dtype).eps * expected.abs().clamp(min=1e-3).double()
            assert ((found.double() - expected.double()).abs() <= step).all()
            assert (found != expected).sum() <= 1 + found.numel() // 50
            expected.copy_(found)  # so that such a difference does not grow
        a, b = pair.reference.state, pair.fast.state
        for e, f in zip(pair.expected, pair.found, strict=True):
            for name in {"exp_avg", "exp_avg_sq", "stats"} & set(a[e]):
                assert b[f][name].dtype == torch.float32
                torch.testing.assert_close(b[f][name], a[e][name], rtol=1e-5, atol=1e-7)


def noisy(p: Tensor, steps: int, seed: int = 7) -> Tensor:
    """Noise of the last of some steps: sgd from zero, without gradient, at learning rate and scale 1."""
    opt = ASGC(
        [torch.zeros(1, device=DEVICE), p], 1.0, rule="sgd", mode="value", noise_at="update", noise_zeros=True,
        noise_scale=1.0, threshold=math.inf, seed=seed, implementation="triton",
    )  # fmt: skip
    p.grad = torch.zeros_like(p)
    for _ in range(steps):
        opt.layer_state(p, opt.param_groups[0])["stats"][:4] = torch.tensor([[5.0], [0.0], [1.0], [5.0]])
        p.zero_()
        opt.step()
    return -p


@pytest.mark.parametrize("layout", [lambda x: x, transposed, channels_last])
def test_the_noise_is_equal_to_the_bit(layout: Any) -> None:
    p = layout(torch.zeros(5, 3, 7, 9)).to(DEVICE)
    expected = noise(7, 2, 1, 0, p.numel()).view(p.shape)
    assert torch.equal(noisy(p, steps=3).cpu(), expected)
    assert float(expected.std()) == pytest.approx(1.0, abs=0.1)


def test_the_noise_of_an_index_past_two_to_the_32nd() -> None:
    """A block that claims to begin there, with addresses moved back by as much."""
    far = 3 << 32
    p = torch.zeros(300, device=DEVICE)
    opt = ASGC([p], 1.0, rule="sgd", noise_at="update", noise_zeros=True, noise_scale=1.0, seed=7,
               mode="value", threshold=math.inf, implementation="triton")  # fmt: skip
    p.grad = torch.zeros_like(p)
    opt.step()  # no statistics yet: no noise
    opt.state[p]["stats"][:4] = torch.tensor([[5.0], [0.0], [1.0], [5.0]])
    plan = triton_step._plans[opt]
    assert not p.any()
    for piece in plan.table.launches:
        piece.blocks[:, fields.BLOCK_BEGIN] += far
    plan.table.records[:, fields.PARAM] -= 4 * far
    plan.grads[0] -= 4 * far
    opt.step()
    assert torch.equal(-p.cpu(), noise(7, 1, 0, far, 300))


def test_no_block_crosses_a_multiple_of_two_to_the_32nd() -> None:
    from asgc.implementations.triton.device_table import _blocks

    size, length = (1 << 33) + 1000, 1 << 28
    for units, each in ((1, size), (3, (1 << 32) - 40)):
        table, counts = _blocks(0, 0, units, each, length - 8)
        first, count = table[:, fields.BLOCK_BEGIN], table[:, fields.BLOCK_COUNT]
        assert sum(counts) == len(table)
        assert torch.equal(first[1:], (first + count)[:-1])
        assert int(first[0]) == 0
        assert int((first + count)[-1]) == units * each
        assert torch.equal(first >> 32, (first + count - 1) >> 32)


@pytest.mark.parametrize(("rule", "granularity"), [("adam", "layer"), ("rmsprop", "unit")])
@MODES
def test_memory_orders_and_alignments(mode: str, rule: str, granularity: str) -> None:
    """channels_last, transposed, tensors that begin anywhere, and gradients in another order than the parameter."""

    def layout(x: Tensor) -> Tensor:
        if x.dim() == 4:
            return channels_last(x.to(DEVICE))
        if x.dim() == 2 and granularity == "layer":
            return transposed(x).to(DEVICE)
        moved = torch.empty(x.numel() + 1, device=DEVICE)[1:].view(x.shape)
        return moved.copy_(x)

    shapes = ((4, 3, 2, 5), (6, 40), (131,))
    pair, plain = (
        Pair("triton", shapes, layout=of, mode=mode, rule=rule, granularity=granularity, eps=1e-3)
        for of in (layout, on_device)
    )
    for step in range(3):
        pair.step()
        pair.check()
        plain.step()
        if step == 1:
            pair.layout = lambda x: x.to(DEVICE)  # row-major gradients
    for a, b in zip(pair.found, plain.found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert pair.found[0].is_contiguous(memory_format=torch.channels_last)


@MODES
def test_groups_parameters_without_gradient_and_changing_options(mode: str) -> None:
    pair = pair_of(groups=mixed_groups(1, 3), mode=mode)
    for step in range(7):
        for opt in (pair.reference, pair.fast):
            opt.param_groups[0]["lr"] = 0.01 / (1 + step)
            opt.param_groups[1]["lr"].fill_(0.02 * (1 + step % 2))
            if step == 5:
                opt.param_groups[0]["momentum"] = 0.0
        pair.step(bursts_now_and_then)
        pair.check()


@pytest.mark.parametrize("on_shift", ["rewarm", "adam-rel", "reset"])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_shifts(on_shift: str, rule: str) -> None:
    options = {"momentum": 0.9, "dampening": 0.5} if rule == "sgd" else {}
    pair = pair_of(SHAPES[:2], rule=rule, on_shift=on_shift, **options)
    for step in range(5):
        if step == 3:
            pair.reference.shift()
            pair.fast.shift()
        pair.step()
        pair.check()


@MODES
def test_scales_restarts_and_zero_gradients(mode: str) -> None:
    """The sums neither overflow nor underflow; warm-up restarts are the reference's."""
    scales = [0.0, 1e-25, 1e-25, 0.0, 1.0, 1e-9, 1e25, 1e25, 1e-20, 0.0]

    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor:
        return (torch.randn(param.shape, generator=generator) + 10) * scales[step]

    pair = pair_of(SHAPES[:2], mode=mode, stats_decay=0.95)
    restarts = 0
    for _ in scales:
        pair.step(gradient)
        pair.check()
        stats = pair.fast.state[pair.found[0]]["stats"].view(-1)
        restarts += bool(stats[0] == 1 and stats[3] > 1)
    assert restarts >= 2


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_refused_step_changes_nothing_but_the_count_of_that_unit(policy: str) -> None:
    grad = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    assert_refused_step_counts_its_unit_only(policy, grad, implementation="triton")
