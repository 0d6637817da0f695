"""Memory order, moving tensors and threads: what a kernel that works on addresses can get wrong."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.implementations.cpu import build, compiled_step
from asgc.implementations.cpu.layer_structs import memory_order
from asgc.noise import noise
from tests.asgc.harness import Pair, bursts, channels_last, transposed

FAST = pytest.mark.parametrize("implementation", ["cpu", "foreach"])
FILTERS = ((32, 4, 8, 8), (64, 32, 4, 4), (16, 3, 3, 3), (5, 1, 3, 3), (40, 24, 1, 1))


@FAST
@pytest.mark.parametrize("layout", [channels_last, transposed])
def test_noise_follows_the_logical_index_in_any_memory_order(
    implementation: str, layout: Callable[[Tensor], Tensor]
) -> None:
    pair = Pair(implementation, FILTERS, layout=layout, mode="value")
    for _ in range(5):
        pair.step()
        pair.check()
    plain = Pair(implementation, FILTERS, mode="value")
    for _ in range(5):
        plain.step()
    for a, b in zip(pair.found, plain.found, strict=True):
        assert a.stride() == layout(b).stride()
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@FAST
def test_gradients_and_state_in_another_memory_order(implementation: str) -> None:
    """Rows, columns, expanded and fp64-born gradients; moments loaded from a model of another layout."""
    pair = Pair(implementation, FILTERS, layout=channels_last, rule="adam")
    layouts: list[Callable[[Tensor], Tensor]] = [channels_last, transposed, lambda g: g[:1].expand_as(g), torch.clone]
    for step in range(8):
        for i, (e, f) in enumerate(zip(pair.expected, pair.found, strict=True)):
            g = layouts[step % 4](bursts(step, i, e, pair.generator))
            e.grad, f.grad = g, layouts[step % 4](g.clone())
        if step == 4:
            for f in pair.found:
                pair.fast.state[f]["exp_avg"] = pair.fast.state[f]["exp_avg"].contiguous()
        pair.reference.step()
        pair.fast.step()
        pair.steps += 1
        pair.check()


@FAST
def test_a_lazily_negated_gradient(implementation: str) -> None:
    p = torch.zeros(3)
    opt = ASGC([p], 1.0, rule="sgd", clip_factor=float("inf"), noise_scale=0.0, implementation=implementation)
    p.grad = torch._neg_view(torch.tensor([1.0, -2.0, 3.0]))
    opt.step()
    assert p.tolist() == [1.0, -2.0, 3.0]


def test_memory_order_of_dense_and_other_tensors() -> None:
    assert memory_order(torch.zeros(3, 4)) == ((), ())
    assert memory_order(torch.zeros(3, 4).t()) == ((3, 4), (1, 3))
    filters = torch.zeros(5, 2, 3, 3).to(memory_format=torch.channels_last)
    assert memory_order(filters) == ((5, 9, 2), (18, 1, 9))
    assert memory_order(torch.zeros(6, 4)[:, :2]) is None
    assert memory_order(torch.zeros(1).expand(5)) is None
    reason = compiled_step.unsupported(ASGC([torch.zeros(6, 4)[:, :2]], 0.1, implementation="reference"))
    assert reason is not None
    assert "gaps or overlaps" in reason


@FAST
def test_moved_parameters_gradients_and_state(implementation: str) -> None:
    """New memory for everything between two steps; the old memory is filled with garbage."""
    pair = Pair(implementation, rule="sgd", momentum=0.9)
    for step in range(6):
        pair.step()
        pair.check()
        if step == 1:
            for f in pair.found:
                old = f.data
                f.data = old.clone()
                old.fill_(1e9)
        if step == 2:
            saved = copy.deepcopy(pair.fast.state_dict())
            for f in pair.found:
                for key in ("stats", "momentum_buffer"):
                    pair.fast.state[f][key].fill_(1e9)
            pair.fast.load_state_dict(saved)
        if step == 3:
            for f in pair.found:
                pair.fast.state[f] = {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in pair.fast.state[f].items()
                }


@FAST
def test_a_layer_may_change_its_size(implementation: str) -> None:
    """A parameter that grows (with its state) between two steps is stepped whole."""
    p = torch.zeros(10)
    opt = ASGC([p], 0.1, implementation=implementation, noise_scale=0.0, rule="sgd")
    for size in (10, 5000):
        p.data = torch.zeros(size)
        p.grad = torch.ones(size)
        opt.step()
        assert (p != 0).all()


@FAST
def test_copied_optimizers_do_not_share_memory(implementation: str) -> None:
    pair = Pair(implementation)
    pair.step()
    params = [p.detach().clone() for p in pair.found]
    copied_params, copied = copy.deepcopy((pair.found, pair.fast))
    for p in copied_params:
        p.grad = torch.ones_like(p)
    copied.step()
    assert all(torch.equal(p, q) for p, q in zip(params, pair.found, strict=True))
    pair.step()
    pair.check()


def test_the_table_goes_with_its_optimizer() -> None:
    p = torch.zeros(3)
    opt = ASGC([p], 0.1, implementation="cpu")
    p.grad = torch.ones(3)
    opt.step()
    gone = weakref.ref(opt)
    assert opt in compiled_step._tables
    del opt
    gc.collect()
    assert gone() is None


@FAST
def test_autograd_notices_the_change_in_place(implementation: str) -> None:
    w = torch.nn.Parameter(torch.randn(5))
    opt = ASGC([w], 0.1, implementation=implementation)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_state_that_does_not_fit_is_refused_before_anything_changes() -> None:
    p, q = torch.ones(4), torch.ones(4)
    opt = ASGC([p, q], 0.1, implementation="cpu")
    p.grad, q.grad = torch.ones(4), torch.ones(4)
    opt.step()
    before = p.clone()
    opt.state[q]["exp_avg"] = torch.zeros(3)
    with pytest.raises(RuntimeError, match="does not fit"):
        opt.step()
    del opt.state[q]["exp_avg"]
    with pytest.raises(RuntimeError, match="has no 'exp_avg'"):
        opt.step()
    assert torch.equal(p, before)


def test_a_refused_first_step_leaves_the_momentum_unset() -> None:
    p, q = torch.ones(4), torch.ones(4)
    opt = ASGC([p, q], 0.1, rule="sgd", momentum=0.9, dampening=0.5, noise_scale=0.0, implementation="cpu")
    p.grad, q.grad = torch.ones(4), torch.ones(4)
    q.data = torch.ones(4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="no longer a dense float32"):
        opt.step()
    q.data, q.grad = torch.ones(4), torch.ones(4)
    opt.step()
    assert torch.equal(opt.state[p]["momentum_buffer"], opt.state[q]["momentum_buffer"])
    assert float(opt.state[p]["momentum_buffer"][0]) > 0.9  # the gradient itself, not (1 - dampening) times it


@pytest.mark.parametrize("mode", ["value", "norm"])
def test_results_do_not_depend_on_the_number_of_threads(mode: str) -> None:
    shapes = ((300_001,), (1000, 37), (33,), (128, 64, 3, 3))
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        pair = Pair("cpu", shapes, mode=mode)
        for step in range(3):
            for i, f in enumerate(pair.found):
                f.grad = bursts(step + 4, i, f, pair.generator)
            pair.fast.step()
        stats = [pair.fast.state[f]["stats"].clone() for f in pair.found]
        results.append([*pair.found, *stats])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("start", [0, 5, (1 << 31) - 3, (1 << 32) - 100, (1 << 32) - 33, (1 << 32), (7 << 32) + 11])
def test_noise_has_the_same_bits(start: int) -> None:
    out = torch.empty(100)
    build.load_kernel().asgc_noise(out.data_ptr(), 100, start, 0xFFFFFFFF, 1 << 31, 12)
    assert torch.equal(out, noise(0xFFFFFFFF, 1 << 31, 12, start, 100))
    assert out.std() > 0.7


@FAST
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_step_adds_exactly_this_noise(implementation: str, rule: str) -> None:
    """Without clip the rule gets the gradient plus c_t sigma eps, rounded where the reference rounds: a fused
    multiply-add would leave other numbers where the two nearly cancel."""
    p = torch.zeros(100_003)
    options = {"rule": rule, "clip_factor": float("inf"), "seed": 9, "noise_scale": 1.0}
    opt = ASGC([torch.zeros(2), p], 1.0, implementation=implementation, **options)
    g = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    for t in range(2):
        p.grad = g
        if t:
            p.zero_()
            opt.state[p]["stats"][1:3] = torch.tensor([[0.0], [0.75]])  # below the gradient's own
            if rule == "adam":
                opt.state[p]["exp_avg"].zero_()
        opt.step()
    noisy = g + torch.tensor(0.75, dtype=torch.float64).sqrt().float() * noise(9, 1, 1, 0, p.numel())
    found = -p if rule == "sgd" else opt.state[p]["exp_avg"]
    assert torch.equal(found, noisy if rule == "sgd" else torch.zeros_like(noisy).lerp(noisy, 1 - 0.9))


@pytest.mark.parametrize("sharpness", [4.0, 2.0, 1.0, 0.5, 3.0, 7.7, 100.0, float("inf")])
def test_clip_is_accurate(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.logspace(-30, 30, 4001), torch.randn(4001, generator=generator), torch.zeros(3)])
    x[::2] *= -1
    for tau in (1.0, 1e-12, 1e12):
        out = torch.empty_like(x)
        build.load_kernel().asgc_clip(out.data_ptr(), x.data_ptr(), x.numel(), tau, sharpness)
        size, limit = x.abs().double(), torch.tensor(tau).double()
        low, high = torch.minimum(size, limit), torch.maximum(size, limit)
        exact = (
            x.sign() * low
            if sharpness == float("inf")
            else x.sign() * low * (1 + (low / high) ** sharpness) ** (-1 / sharpness)
        )
        torch.testing.assert_close(out.double(), exact, rtol=4e-7 if sharpness in (1, 2, 4) else 2e-6, atol=0)
        assert (out.abs() <= x.abs()).all()
        assert (out.abs() <= tau).all()


def test_infinite_elements_clip_to_the_threshold() -> None:
    x = torch.tensor([float("inf"), -float("inf"), 0.0])
    for sharpness in (4.0, 2.0, 1.0, 0.01, 3.0, float("inf")):
        out = torch.empty(3)
        build.load_kernel().asgc_clip(out.data_ptr(), x.data_ptr(), 3, 2.5, sharpness)
        assert out.tolist() == [2.5, -2.5, 0.0]
