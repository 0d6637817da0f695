"""What the host does around the Triton kernels: launches, options, state, refusals."""

import copy
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.gradient_statistics import STATISTICS
from asgc.implementations import REGISTRY
from tests.asgc.harness import transposed

pytest.importorskip("triton")
from asgc.implementations.triton import triton_step
from tests.asgc.implementations.interpreter import DEVICE, SHAPES, Launches, eventful, on_device, small_tiles  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy", "ignore::RuntimeWarning:triton"),  # infinities
]
MODES = pytest.mark.parametrize("mode", ["value", "norm"])
ON_A_CPU = pytest.mark.skipif(DEVICE != "cpu", reason="there is a GPU")


def give(params: list[Tensor], step: int, without: int | None = None) -> None:
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(params):
        p.grad = None if i == without else torch.randn(p.shape, generator=generator).to(p.device, p.dtype)


def parameters(shapes: Any = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]


def everything(opt: ASGC) -> list[Tensor]:
    params = [p for group in opt.param_groups for p in group["params"]]
    states = [opt.state[p] for p in params]
    return [x.clone() for x in params + [s[k] for s in states for k in sorted(s) if isinstance(s[k], Tensor)]]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("mode", "noise_scale", "expected"),
    [
        ("value", 0.0, ["open_rows", "main", "close_rows"]),
        ("value", 0.1, ["sums", "open_rows", "main", "close_rows"]),
        ("norm", 0.0, ["sums", "open_rows", "main", "close_rows"]),
    ],
)
def test_many_small_tensors_in_one_launch(
    monkeypatch: pytest.MonkeyPatch, mode: str, noise_scale: float, expected: list[str]
) -> None:
    """24 tensors in two groups with other options; the sums of value mode without noise are for the first step only."""
    params = parameters([(3 + i,) for i in range(24)])
    groups = [{"params": params[:12]}, {"params": params[12:], "lr": 0.3, "betas": (0.5, 0.9), "seed": 4}]
    opt = ASGC(groups, 0.1, mode=mode, noise_scale=noise_scale, implementation="triton")
    give(params, 0)
    opt.step()
    launches = Launches(monkeypatch)
    give(params, 1)
    opt.step()
    assert launches.names == expected


CHANGES: dict[str, Any] = {
    "lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3, "clip_factor": 1.7, "clip_sharpness": 3.1,
    "noise_scale": 0.7, "noise_decay": 0.2, "stats_decay": 0.8, "outlier_share": 0.4, "seed": 9, "noise_zeros": True,
    "maximize": True, "decoupled_weight_decay": True,
}  # fmt: skip


@MODES
def test_a_change_of_options_compiles_nothing_and_has_its_effect(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Constants, argument types and alignments are what Triton compiles for; the tables stay as well."""
    options = {"mode": mode, "clip_sharpness": 3.0}
    params, expected = parameters(SHAPES[:2]), parameters(SHAPES[:2])
    opt = ASGC(params, torch.tensor(0.1), implementation="triton", **options)
    reference = ASGC(expected, torch.tensor(0.1), implementation="reference", **options)
    launches = Launches(monkeypatch)
    for step in range(2):
        give(params, step)
        opt.step()
        give(expected, step)
        reference.step()
    plan, keys = triton_step._plans[opt], set(launches.keys)
    for step, (name, value) in enumerate(CHANGES.items(), start=2):
        for each, of in ((opt, params), (reference, expected)):
            each.param_groups[0][name] = value
            give(of, step)
            each.step()
        for p, e in zip(params, expected, strict=True):
            torch.testing.assert_close(p, e, rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert launches.keys == keys
    assert triton_step._plans[opt] is plan


TENSORS: dict[str, Any] = {
    "lr": 0.02, "eps": 1e-3, "weight_decay": 0.3, "clip_factor": 1.3, "clip_sharpness": 3.1, "noise_scale": 0.7,
    "noise_decay": 0.2, "stats_decay": 0.8, "outlier_share": 0.4,
}  # fmt: skip


@MODES
@pytest.mark.parametrize("place", sorted({"cpu", DEVICE}))
def test_every_number_may_be_a_tensor(mode: str, place: str) -> None:
    """And a tensor may be changed in place. In fp64, so that it is the same number."""

    def tensor(x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device=place)

    a, b = parameters(SHAPES[:2]), parameters(SHAPES[:2])
    options = {"mode": mode, "implementation": "triton"}
    numbers = ASGC(a, betas=(0.8, 0.95), **options, **TENSORS)
    tensors = ASGC(
        b, betas=(tensor(0.8), tensor(0.95)), **options, **{name: tensor(value) for name, value in TENSORS.items()}
    )
    for step in range(3):
        if step == 2:
            for name in TENSORS:
                numbers.param_groups[0][name] = 0.5
                tensors.param_groups[0][name].fill_(0.5)
        give(a, step)
        give(b, step)
        numbers.step()
        tensors.step()
        assert same(everything(numbers), everything(tensors))
    assert numbers.diagnostics() == tensors.diagnostics()


def test_a_threshold_a_momentum_and_a_hard_clip_as_tensors() -> None:
    a, b = parameters(SHAPES[:2]), parameters(SHAPES[:2])
    values = {"threshold": 0.5, "clip_sharpness": math.inf, "momentum": 0.5, "dampening": 0.25}
    options = {"lr": 0.1, "rule": "sgd", "mode": "value", "implementation": "triton"}
    numbers = ASGC(a, **options, **values)
    tensors = ASGC(b, **options, **{name: torch.tensor(value) for name, value in values.items()})
    for step in range(3):
        give(a, step)
        give(b, step)
        numbers.step()
        tensors.step()
    assert same(everything(numbers), everything(tensors))


@pytest.mark.parametrize(("before", "after"), [("reference", "triton"), ("triton", "reference"), ("triton", "triton")])
@pytest.mark.parametrize(("rule", "options"), [("adam", {}), ("sgd", {"momentum": 0.9, "dampening": 0.5})])
def test_a_state_goes_on_in_another_implementation(before: str, after: str, rule: str, options: dict[str, Any]) -> None:
    params = parameters(SHAPES[:3])
    opt = ASGC(params, 0.1, rule=rule, implementation=before, **options)
    for step in range(2):
        give(params, step, without=step)
        opt.step()
    copies = [p.clone() for p in params]
    resumed = ASGC(copies, 0.1, rule=rule, implementation=after, **options)
    saved = copy.deepcopy(opt.state_dict())
    for group in saved["param_groups"]:
        group["implementation"] = after
    resumed.load_state_dict(saved)
    for step in range(2, 4):
        give(params, step)
        give(copies, step)
        opt.step()
        resumed.step()
    if before == after:
        assert same(everything(opt), everything(resumed))
    for x, y in zip(everything(opt), everything(resumed), strict=True):
        torch.testing.assert_close(x, y, rtol=2e-5, atol=1e-6, check_device=False)


def test_a_momentum_buffer_is_not_left_behind_by_a_refused_step() -> None:
    params = parameters(SHAPES[:2])
    opt = ASGC(params, 0.1, rule="sgd", momentum=0.9, implementation="triton")
    give(params, 0)
    opt.layer_state(params[1], opt.param_groups[0])["stats"] = torch.zeros(len(STATISTICS), 7, device=DEVICE)
    before = [p.clone() for p in params]
    with pytest.raises(RuntimeError, match=r"statistics of a parameter of shape \(2, 3, 3\) do not fit"):
        opt.step()
    assert same(before, params)
    assert "momentum_buffer" not in opt.state[params[0]]


def test_tensors_that_moved_and_groups_that_came() -> None:
    """New storage, a new group, gradients at new addresses: the step follows."""
    runs = []
    for implementation in ("triton", "reference"):
        params = parameters()
        opt = ASGC(params[:2], 0.1, implementation=implementation)
        give(params, 0)
        opt.step()
        params[0].data = params[0].data.clone()
        opt.state[params[1]]["exp_avg"] = opt.state[params[1]]["exp_avg"].clone()
        opt.add_param_group({"params": params[2:], "lr": 0.5})
        for step in (1, 2):
            give(params, step)
            opt.step()
        runs.append(everything(opt))
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, check_device=False)


def test_units_without_rows_count_their_steps() -> None:
    p = torch.zeros(0, 3, device=DEVICE)
    opt = ASGC([p], 0.1, granularity="unit", implementation="triton")
    p.grad = torch.zeros_like(p)
    opt.step()
    opt.step()
    assert int(opt.state[p]["noise_step"]) == int(opt.state[p]["step"]) == 2


def test_in_place_changes_are_seen_by_autograd() -> None:
    p = torch.ones(3, device=DEVICE, requires_grad=True)
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    ASGC([p], 0.1, implementation="triton").step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@ON_A_CPU
def test_capturable_without_a_gpu_is_refused_by_name_and_nothing_changes() -> None:
    p = torch.ones(3)
    for implementation in ("auto", "triton", "cpu"):
        with pytest.raises(ValueError, match="capturable=True cannot be used: it needs parameters on a GPU"):
            ASGC([p], 0.1, capturable=True, implementation=implementation)
    opt = ASGC([p], 0.1, implementation="triton")
    p.grad = torch.ones(3)
    opt.step()
    before = everything(opt)
    with pytest.raises(ValueError, match="capturable=True cannot be used"):
        opt.add_param_group({"params": [torch.ones(2)], "capturable": True})
    assert len(opt.param_groups) == 1
    assert same(before, everything(opt))


def test_a_capture_without_capturable_or_without_a_step_before_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.ones(3, device=DEVICE)
    opt = ASGC([p], 0.1, rule="sgd", momentum=0.9, implementation="triton")
    p.grad = torch.ones_like(p)
    monkeypatch.setattr(triton_step, "_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="make ASGC with capturable=True"):
        opt.step()
    opt.param_groups[0]["capturable"] = True
    with pytest.raises(RuntimeError, match=r"capturable=True: run a step .* outside the capture first"):
        triton_step.step(opt)
    assert torch.equal(p, torch.ones_like(p))
    assert "momentum_buffer" not in opt.state[p]


@pytest.mark.parametrize(
    ("param", "options", "reason"),
    [
        (torch.zeros(2, dtype=torch.float64), {}, "not a dense float32, bfloat16 or float16 tensor"),
        (torch.zeros(4, 4)[:, ::2], {}, "gaps or overlaps in memory"),
        (transposed(torch.zeros(6, 4)), {"granularity": "unit"}, "dimension 0 outermost"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(param: Tensor, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"implementation='triton' cannot be used: .*{reason}"):
        ASGC([param], 0.1, implementation="triton", **options)


def test_adaptation_is_refused_with_the_reason() -> None:
    opt = ASGC([torch.zeros(2)], 0.1)
    opt.param_groups[0]["adapt"] = "hypergradient"
    assert REGISTRY["triton"].unsupported(opt) == "adapt='hypergradient' (not done by triton)"


def test_other_implementations_refuse_tensors() -> None:
    with pytest.raises(TypeError, match="implementation='triton'"):
        ASGC([torch.zeros(2)], 0.1, noise_scale=torch.tensor(0.2), implementation="cpu")
    opt = ASGC([on_device(torch.zeros(2))], 0.1, noise_scale=torch.tensor(0.2), implementation="triton")
    for other in ("cpu", "foreach"):
        assert REGISTRY[other].unsupported(opt) == "an option other than lr and betas is a tensor"
    assert REGISTRY["reference"].unsupported(opt) is None


def test_state_is_that_of_adam_and_a_few_numbers_a_row() -> None:
    params = parameters([(400, 5), (40,)])
    for granularity, rows in (("layer", 2), ("unit", 401)):
        opt, adam = ASGC(params, 0.1, granularity=granularity, implementation="triton"), torch.optim.Adam(params, 0.1)
        for p in params:
            p.grad = None
        params[1].grad = torch.ones(40, device=DEVICE)
        opt.layer_state(params[0], opt.param_groups[0])
        opt.step()
        give(params, 0)
        adam.step()

        def size(of: torch.optim.Optimizer) -> int:
            tensors = (value for state in of.state.values() for value in state.values() if isinstance(value, Tensor))
            return sum(t.untyped_storage().nbytes() for t in tensors)

        assert size(opt) - size(adam) == rows * 4 * len(STATISTICS) + len(params) * 8  # and the noise's step count


def test_results_do_not_depend_on_the_other_layers() -> None:
    """A layer's sums have an order of their own: beside others it gets the same bits as alone."""
    alone, beside = parameters([(150,)]), parameters([(150,), (7,), (2, 3, 3)])
    for params in (alone, beside):
        opt = ASGC(params, 0.1, mode="norm", implementation="triton")
        for step in range(3):
            params[0].grad = eventful(step, 5, torch.zeros(150), torch.Generator().manual_seed(step))
            params[0].grad = params[0].grad.to(DEVICE) if params[0].grad is not None else None
            for p in params[1:]:
                p.grad = torch.ones_like(p)
            opt.step()
    assert torch.equal(alone[0], beside[0])


def test_triton_is_imported_with_the_first_optimizer_that_uses_it() -> None:
    code = (
        "import sys, torch, asgc\n"
        "p = torch.ones(2); p.grad = torch.ones(2)\n"
        "asgc.ASGC([p], 0.1).step()\n"
        "assert not [name for name in sys.modules if name.startswith('asgc.implementations.triton')]\n"
        "try: asgc.ASGC([p], 0.1, implementation='triton')\n"
        "except ValueError as error: assert 'the parameters are on the CPU' in str(error), error\n"
        "else: raise SystemExit('not refused')\n"
        "assert 'asgc.implementations.triton.kernels' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "TRITON_INTERPRET" not in os.environ
