"""Statistics by unit and noise after the rule in the fast paths, against the reference and against each other."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import asgc.optimizer
from asgc import ASGC
from asgc.gradient_statistics import STATISTICS
from asgc.implementations.cpu import compiled_step
from tests.asgc.harness import Pair, assert_refused_step_counts_its_unit_only, channels_last, transposed
from tests.asgc.matrix import COMBINATIONS

# Short and long rows, odd ones, units of one element, one unit, no unit, empty units, and tensors without units.
SHAPES: tuple[tuple[int, ...], ...] = (
    *((70, 27), (3, 9001), (2, 32, 32), (8, 3, 5, 5), (90, 1), (1, 40), (17,), ()),
    *((0, 3), (3, 0)),
)
MODES = pytest.mark.parametrize("mode", ["value", "norm"])
NONFINITE = STATISTICS.index("nonfinite")


def mixed(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
    """Units of different scales: bursts, zeros, infinities and NaN in single ones; layers without a gradient."""
    if step > 1 and (step + index) % 5 == 0:
        return None
    g = torch.randn(param.shape, generator=generator) + 0.3
    if g.numel() < 8:
        return g
    rows = g.view(g.shape[0] if g.dim() > 1 else 1, -1)
    rows *= 1.0 + torch.arange(rows.shape[0]).view(-1, 1)
    rows[0] *= 30.0 if step % 3 == 2 else 1.0
    rows[1 % len(rows)] *= 0.0 if step in (0, 3) else 1.0
    rows.view(-1)[7::13] = 0.0
    if step in (0, 2, 5):
        rows[-1, -1] = math.inf
        rows[len(rows) // 2, 0] = -math.inf if step else math.nan
    return g


def two_groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[::2]}, {"params": params[1::2], "noise_zeros": True, "lr": 0.05}]


@MODES
@pytest.mark.parametrize(
    ("implementation", "granularity", "noise_at"),
    [
        ("cpu", "unit", "gradient"),
        ("cpu", "unit", "update"),
        (("cpu", "foreach"), "layer", "update"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("rule", "options"), COMBINATIONS)
def test_every_rule_equals_the_reference(
    implementation: str | tuple[str, ...],
    granularity: str,
    noise_at: str,
    mode: str,
    rule: str,
    options: dict[str, Any],
) -> None:
    options = {"mode": mode, "rule": rule, "granularity": granularity, "noise_at": noise_at, **options}
    if rule != "sgd":
        options["eps"] = 1e-2  # noise divided by next to nothing would magnify every rounding
    pair = Pair(implementation, SHAPES, groups=two_groups, **options)
    for _ in range(7):
        pair.step(mixed)
        pair.check()
    for found, opt in pair.others:
        assert all(torch.isfinite(p).all() for p in found)
        assert sum(entry["nonfinite"] for entry in opt.diagnostics()) > 10


@MODES
@pytest.mark.parametrize("granularity", ["unit", "layer"])
@pytest.mark.parametrize(
    "options",
    [
        {"clip_factor": math.inf},
        {"threshold": 2.0},
        {"threshold": math.inf, "noise_scale": 1.0},
        {"clip_sharpness": 2.0},
        {"clip_sharpness": 3.3},
        {"clip_sharpness": 1.0, "outlier_share": 0.9, "stats_decay": 0.8},
        {"clip_sharpness": math.inf},
    ],
)
def test_options_equal_the_reference(mode: str, granularity: str, options: dict[str, Any]) -> None:
    pair = Pair("cpu", SHAPES[:4], rule="sgd", mode=mode, granularity=granularity, noise_at="update", **options)
    for _ in range(6):
        pair.step(mixed)
        pair.check()


@MODES
@pytest.mark.parametrize("rule", ["adam", "sgd"])
@given(data=st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_shape_equals_the_reference(mode: str, rule: str, data: st.DataObject) -> None:
    """Unit sizes around the widths of registers, tiles and blocks."""
    size = data.draw(st.integers(0, 70) | st.sampled_from([511, 512, 1024, 1040, 2049, 8192, 8193, 8200, 16385]))
    units = data.draw(st.integers(1, 5) if size > 70 else st.integers(1, 150))
    noise_at = data.draw(st.sampled_from(["gradient", "update"]))
    pair = Pair("cpu", [(units, size)], rule=rule, mode=mode, granularity="unit", noise_at=noise_at)
    for _ in range(3):
        pair.step(mixed)
        pair.check()


@MODES
@pytest.mark.parametrize("size", [27, 1056, 9001])
def test_a_unit_is_a_layer_of_its_own(mode: str, size: int) -> None:
    """Without noise (whose index runs through the tensor) the same bits as separate parameters."""
    options = {"lr": 0.1, "mode": mode, "noise_scale": 0.0, "implementation": "cpu"}
    whole = torch.ones(5, size)
    parts = [torch.ones(size) for _ in range(5)]
    a, b = ASGC([whole], granularity="unit", **options), ASGC(parts, granularity="layer", **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        whole.grad = mixed(step, 0, whole, generator)
        assert whole.grad is not None
        for part, g in zip(parts, whole.grad, strict=True):
            part.grad = g.clone()
        a.step()
        b.step()
        assert torch.equal(whole, torch.stack(parts))
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(a.state[whole][name], torch.stack([b.state[part][name] for part in parts]))
        assert torch.equal(a.state[whole]["stats"], torch.cat([b.state[part]["stats"] for part in parts], dim=1))


@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("rule", ["adam", "rmsprop"])
def test_units_of_filters_in_channels_last_order(noise_at: str, rule: str) -> None:
    shapes = ((32, 4, 8, 8), (5, 1, 3, 3), (1, 6, 3, 3), (40, 24, 1, 1), (2, 70, 12, 12))
    options = {"mode": "value", "granularity": "unit", "noise_at": noise_at, "rule": rule, "eps": 1e-3}
    pair, plain = Pair("cpu", shapes, layout=channels_last, **options), Pair("cpu", shapes, **options)
    for _ in range(4):
        pair.step(mixed)
        pair.check()
        plain.step(mixed)
    for a, b in zip(pair.found, plain.found, strict=True):
        assert a.stride() == channels_last(b).stride()
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_interleaved_units_are_refused_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    shape = (6, 4)
    with pytest.raises(ValueError, match=r"shape \(6, 4\) whose units .* are interleaved in memory .*contiguous"):
        ASGC([transposed(torch.ones(shape))], 0.1, granularity="unit", implementation="cpu")
    asgc.optimizer._say.cache_clear()
    p = transposed(torch.ones(shape))
    opt = ASGC([p], 0.1, granularity="unit")
    p.grad = torch.ones(shape)
    opt.step()
    assert opt.param_groups[0]["implementation"] == "reference"
    assert "interleaved" in caplog.text
    for served in (transposed(torch.ones(1, 4)), torch.ones(4, 0).t(), torch.ones(6)):
        assert compiled_step.unsupported(ASGC([served], 0.1, granularity="unit", implementation="reference")) is None


def test_units_that_become_interleaved_are_refused_before_anything_changes() -> None:
    p, q = torch.ones(6, 4), torch.ones(6, 4)
    opt = ASGC([p, q], 0.1, granularity="unit", implementation="cpu")
    p.grad, q.grad = torch.ones(6, 4), torch.ones(6, 4)
    opt.step()
    before = p.clone()
    q.data = transposed(q.data)
    with pytest.raises(RuntimeError, match="interleaved"):
        opt.step()
    q.data = q.data.contiguous()
    opt.state[q]["stats"] = torch.zeros(len(STATISTICS), 5)
    with pytest.raises(RuntimeError, match=r"statistics of a parameter of shape .* do not fit"):
        opt.step()
    assert torch.equal(p, before)


@MODES
@pytest.mark.parametrize("granularity", ["unit", "layer"])
def test_results_do_not_depend_on_the_number_of_threads(mode: str, granularity: str) -> None:
    shapes = ((500, 147), (6, 40_000), (33, 64), (64, 16, 3, 3))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pair = Pair("cpu", shapes, mode=mode, granularity=granularity, noise_at="update")
        for step in range(3):
            for i, f in enumerate(pair.found):
                f.grad = mixed(step, i, f, pair.generator)
            pair.fast.step()
        stats = [pair.fast.state[f]["stats"] for f in pair.found]
        results.append([*pair.found, *stats])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@MODES
@pytest.mark.parametrize(("implementation", "granularity"), [("cpu", "unit"), ("cpu", "layer"), ("foreach", "layer")])
def test_resumed_is_uninterrupted_to_the_last_bit(implementation: str, granularity: str, mode: str) -> None:
    whole = Pair(implementation, SHAPES, mode=mode, granularity=granularity, noise_at="update")
    for _ in range(4):
        whole.step(mixed)
    params = [p.detach().clone() for p in whole.found]
    resumed = ASGC(params, implementation=implementation, **whole.options)
    resumed.load_state_dict(whole.fast.state_dict())
    for _ in range(3):
        whole.step(mixed)
        for p, q in zip(params, whole.found, strict=True):
            p.grad = q.grad
        resumed.step()
    for p, q in zip(params, whole.found, strict=True):
        assert torch.equal(p, q)
        for name, value in whole.fast.state[q].items():
            assert torch.equal(torch.as_tensor(resumed.state[p][name]), torch.as_tensor(value))


@pytest.mark.parametrize("implementation", ["cpu", "foreach"])
def test_noise_after_the_rule_is_exactly_this_noise(implementation: str) -> None:
    """sgd: the step without noise, then minus lr times the noise, rounded as in the reference."""
    params = [torch.zeros(100_003) for _ in range(3)]
    runs = [(implementation, 0.5), (implementation, 0.0), ("reference", 0.5)]
    for p, (chosen, scale) in zip(params, runs, strict=True):
        opt = ASGC([p], 0.25, rule="sgd", noise_at="update", noise_scale=scale, implementation=chosen)
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        opt.step()
    noisy, silent, expected = params
    torch.testing.assert_close(noisy - silent, expected - silent, rtol=0, atol=2e-8)
    assert float((noisy - silent).std()) == pytest.approx(0.25 * 0.5, rel=0.02)


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_refused_step_changes_nothing_but_the_count_of_that_unit(policy: str) -> None:
    grad = torch.randn(5, 300)
    assert_refused_step_counts_its_unit_only(policy, grad, noise_at="update", implementation="cpu")


@pytest.mark.parametrize("granularity", ["unit", "layer"])
def test_state_is_that_of_adam_and_a_few_numbers_a_row(granularity: str) -> None:
    params = [torch.zeros(400, 50), torch.zeros(400)]
    opt, adam = ASGC(params, 0.1, granularity=granularity, implementation="cpu"), torch.optim.Adam(params, 0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    adam.step()

    def size(of: torch.optim.Optimizer) -> int:
        tensors = (value for state in of.state.values() for value in state.values() if isinstance(value, Tensor))
        return sum(t.untyped_storage().nbytes() for t in tensors)

    rows = 401 if granularity == "unit" else 2
    assert size(opt) - size(adam) == rows * 4 * len(STATISTICS) + len(params) * 8  # and the noise's step count


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_takes_no_memory_beside_its_state() -> None:
    """Peak memory of a process over two steps: two moments a parameter, nothing of the parameters' size beside."""
    code = (
        "import re, torch\n"
        "from asgc import ASGC\n"
        # Not ru_maxrss, which a new process takes over from the one that started it.
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "def optimizer(shape):\n"
        "    p = torch.zeros(shape); p.grad = torch.ones(shape)\n"
        "    return ASGC([p], 0.1, mode='norm', granularity='unit', noise_at='update', implementation='cpu')\n"
        "optimizer((4, 4)).step()\n"
        "opt = optimizer((20_000, 600))\n"
        "before = peak()\n"
        "for _ in range(2): opt.step()\n"
        "print((peak() - before) / 12_000_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert 6.0 < float(done.stdout) < 9.0  # bytes a parameter
