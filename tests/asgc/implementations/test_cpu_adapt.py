"""The adaptation in the CPU kernel equals the reference, one step at a time."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import asgc.optimizer
from asgc import ASGC, adapt
from asgc.implementations.cpu import adaptation
from tests.asgc.harness import channels_last, transposed
from tests.asgc.matrix import COMBINATIONS

# Several blocks with a tail, a matrix, a filter, a bias, a scalar and an empty tensor.
SHAPES: tuple[tuple[int, ...], ...] = ((9_001,), (40, 33), (8, 3, 5, 5), (17,), (), (0, 3))
MODES = pytest.mark.parametrize("mode", ["value", "norm"])


def outliers(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
    """A mean, heavy tails, exact zeros; single steps without a gradient, with none but zeros, and not finite."""
    g = (torch.randn(param.shape, generator=generator) + 0.3) * (1 + index)
    g = g / torch.rand(param.shape, generator=generator).clamp(min=1e-3).sqrt() + 3 * param
    if g.numel() > 10:
        g.view(-1)[::7] = 0.0
    if step > 2 and step % 5 == index:
        g.view(-1)[:1] = math.inf if index % 2 else math.nan
    if step % 7 == index + 2:
        return None if index % 2 else g * 0.0
    return g


def compare(
    options: dict[str, Any],
    layout: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    steps: int = 14,
) -> ASGC:
    """Both implementations step from the reference's state, again and again; returns the reference."""
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    given = {"lr": 0.02, "adapt": "hypergradient", "adapt_every": 2, "noise_scale": 0.2, **options}
    expected, found = ([layout(value.clone()) for value in values] for _ in range(2))
    reference = ASGC(expected, implementation="reference", **given)
    fast = ASGC(found, implementation="cpu", **given)
    for step in range(steps):
        if step == 9:  # there are some measurements then
            for state in reference.state.values():
                moving(state)
        for index, (e, f) in enumerate(zip(expected, found, strict=True)):
            g = outliers(step, index, e, generator)
            e.grad = None if g is None else layout(g)
            f.grad = None if g is None else layout(g.clone())
            f.copy_(e)
        saved = reference.state_dict()
        for group in saved["param_groups"]:
            group["implementation"] = "cpu"
        fast.load_state_dict(saved)
        reference.step()
        fast.step()
        for e, f in zip(expected, found, strict=True):
            same(reference.state[e], fast.state[f])
            torch.testing.assert_close(f, e, rtol=1e-5, atol=3e-6)
    return reference


def moving(state: dict[str, Any]) -> None:
    """As if many measurements had agreed: the values have left their start and go on."""
    if "adapted" in state:
        v = state["adapted"]
        v[adapt.LOG] = torch.tensor([-0.4, 0.5])
        v[adapt.MEAN] = torch.tensor([0.9, -0.8]) * v[adapt.SQUARE].sqrt()
        v[adapt.COUNT] += 40


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert set(a) == set(b)
    if "adapted" not in a:
        return
    x, y = a["adapted"], b["adapted"]
    assert y.dtype == torch.float64
    assert torch.equal(x[adapt.COUNT], y[adapt.COUNT])
    spread = x[adapt.SQUARE].sqrt().clamp(min=1e-30)
    torch.testing.assert_close(y[adapt.MEAN] / spread, x[adapt.MEAN] / spread, rtol=0, atol=1e-4)
    for rows in (adapt.LOG, adapt.RELEVANCE):
        torch.testing.assert_close(y[rows], x[rows], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y[adapt.SQUARE], x[adapt.SQUARE], rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(y[adapt.WEIGHT :], x[adapt.WEIGHT :], rtol=1e-4, atol=1e-12)
    size = float(x[adapt.WEIGHT])
    torch.testing.assert_close(y[adapt.ELASTICITY], x[adapt.ELASTICITY], rtol=1e-4, atol=1e-5 * size)
    for name in adapt.DERIVATIVES:
        assert b[name].dtype == torch.bfloat16
        size = float(a[name].float().abs().max()) if a[name].numel() else 0.0
        # bfloat16 has 8 bits: where the two round to different sides they differ by one of them.
        torch.testing.assert_close(b[name].float(), a[name].float(), rtol=2.0**-7, atol=2e-5 * size)


@MODES
@pytest.mark.parametrize(("rule", "rule_options"), COMBINATIONS, ids=lambda x: x if isinstance(x, str) else "")
def test_every_rule_equals_the_reference(mode: str, rule: str, rule_options: dict[str, Any]) -> None:
    still = compare({"rule": rule, "mode": mode, "adapt_lr": 0.0, **rule_options})
    reference = compare({"rule": rule, "mode": mode, **rule_options})
    logs = [torch.stack([s["adapted"][adapt.LOG] for s in opt.state.values()]) for opt in (reference, still)]
    assert float((logs[0] - logs[1]).abs().max()) > 0.01


@MODES
@pytest.mark.parametrize(
    "options",
    [
        {"clip_sharpness": 1.0},
        {"clip_sharpness": 0.5},
        {"clip_sharpness": 2.0},
        {"clip_sharpness": 16.0},
        {"clip_sharpness": 3.3},
        {"clip_sharpness": math.inf},
        {"clip_factor": 0.3},
        {"noise_zeros": True, "noise_decay": 0.4},
        {"noise_scale": 0.0},
        {"adapt_every": 1, "adapt_lr": 3.0},
        {"adapt_every": 5},
        {"nonfinite": "skip"},
    ],
    ids=str,
)
def test_options_equal_the_reference(mode: str, options: dict[str, Any]) -> None:
    compare({"mode": mode, "rule": "adam", **options}, shapes=SHAPES[1:5])


@MODES
@pytest.mark.parametrize("layout", [channels_last, transposed])
def test_any_memory_order_equals_the_reference(mode: str, layout: Callable[[Tensor], Tensor]) -> None:
    compare({"mode": mode}, layout=layout, shapes=((8, 3, 5, 5), (40, 33), (17,)))


def test_large_steps_of_the_sharpness_are_octaves() -> None:
    """In the kernel as in the reference, and in what diagnostics report."""
    for log_sharpness, sharpness in ((0.3, 4.0), (0.4, 8.0), (1.3, 16.0), (-0.4, 2.0), (-1.3, 1.0)):
        weights = [torch.full((40,), 0.1) for _ in range(2)]
        for w, implementation in zip(weights, ("reference", "cpu"), strict=True):
            opt = ASGC([w], 0.1, mode="value", adapt="hypergradient", implementation=implementation, rule="sgd")
            for step in range(3):
                w.grad = torch.linspace(-3, 3, 40) * (1 + step)
                if step == 2:
                    opt.state[w]["adapted"][1] = log_sharpness
                opt.step()
            assert opt.diagnostics()[0]["clip_sharpness"] == sharpness
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)
        assert weights[0].abs().max() > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    states: list[dict[str, Any]] = []
    before = torch.get_num_threads()
    try:
        for count in (2, threads):
            torch.set_num_threads(count)
            generator = torch.Generator().manual_seed(0)
            w = torch.randn(100_003, generator=generator)
            opt = ASGC([w], 0.1, mode="value", adapt="hypergradient", adapt_every=1, implementation="cpu")
            for _ in range(4):
                w.grad = torch.randn(w.shape, generator=generator) * (1 + w.abs())
                opt.step()
            states.append({**opt.state[w], "weight": w})
    finally:
        torch.set_num_threads(before)
    for name, value in states[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][name])), name


def test_groups_that_adapt_and_groups_that_do_not() -> None:
    generator = torch.Generator().manual_seed(1)
    with_neighbour, alone, plain, only = (torch.ones(50, 20) for _ in range(4))
    groups = [{"params": [with_neighbour], "adapt": "hypergradient", "adapt_every": 1}, {"params": [plain]}]
    both = ASGC(groups, 0.1, noise_scale=0.0, implementation="cpu")
    first = ASGC([alone], 0.1, noise_scale=0.0, implementation="cpu", adapt="hypergradient", adapt_every=1)
    second = ASGC([only], 0.1, noise_scale=0.0, implementation="cpu")
    for _ in range(5):
        g = torch.randn(50, 20, generator=generator)
        for w in (with_neighbour, alone, plain, only):
            w.grad = g + w
        for opt in (both, first, second):
            opt.step()
    assert torch.equal(with_neighbour, alone)
    assert torch.equal(plain, only)
    assert "adapted" not in both.state[plain]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"granularity": "unit"}, "granularity='unit'"), ({"noise_at": "update"}, "noise_at='update'")],
)
def test_what_the_kernel_does_not_adapt_goes_to_the_reference(
    options: dict[str, Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"adapt": "hypergradient", **options}
    with pytest.raises(ValueError, match=rf"implementation='cpu' cannot be used: adapt='hypergradient' with {word}"):
        ASGC([torch.ones(3, 2)], 0.1, implementation="cpu", **given)
    asgc.optimizer._say.cache_clear()
    w = torch.ones(3, 2)
    opt = ASGC([w], 0.1, **given)
    w.grad = torch.ones(3, 2)
    opt.step()
    assert opt.param_groups[0]["implementation"] == "reference"
    assert word in caplog.text
    group = {**opt.param_groups[0], "noise_scale": 0.0, "granularity": "layer"}
    assert adaptation.unsupported(group) is None


def test_a_state_that_does_not_fit_is_refused_before_anything_changes() -> None:
    w = torch.ones(4, 5)
    opt = ASGC([w], 0.1, adapt="hypergradient", implementation="cpu")
    w.grad = torch.ones(4, 5)
    opt.step()
    before = w.clone()
    state = opt.state[w]
    for name, wrong in (("adapted", torch.zeros(3)), ("factor_derivative", torch.zeros(4, dtype=torch.bfloat16))):
        kept = state[name]
        state[name] = wrong
        with pytest.raises(RuntimeError, match="fit"):
            opt.step()
        state[name] = kept
    assert torch.equal(w, before)
    opt.step()
    assert not torch.equal(w, before)
