"""Every cell of the matrix (``matrix.py``) goes through the same checks.

A cell whose implementation cannot serve it (``asgc.implementations`` says why) must refuse with that reason, and
"auto" must go on with another implementation.
"""

import copy
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.implementations import REGISTRY
from asgc.options import ASGC_DEFAULTS, ASGC_OPTIONS, rule_defaults
from tests.asgc import matrix
from tests.asgc.harness import LR, SMALL, Run, assert_close, assert_same, parameters
from tests.asgc.matrix import CELLS, Cell
from tests.asgc.oracle import Oracle

Check = Callable[[Cell], None]
CHOICES = {option.name: option.choices for option in ASGC_OPTIONS if option.choices}
OTHER = {"lr": LR / 4, "noise_scale": 0.4, "clip_factor": 1.5, "weight_decay": 0.05}  # overrides of a second group


def test_everything_is_declared() -> None:
    """An option, a choice, a rule option or an implementation without an entry in the matrix fails here."""
    beside = {"rule", "mode", "implementation", "capturable"}  # dimensions of their own, or a check of their own
    assert set(matrix.VALUES) | beside == set(ASGC_DEFAULTS)
    elsewhere = {"auto", "sharded", "triton"}  # in test_dispatch, test_parallel (DTensors), test_triton (interpreter)
    assert set(matrix.IMPLEMENTATIONS) | elsewhere == set(CHOICES["implementation"])
    assert set(matrix.RULES) == set(CHOICES["rule"])
    assert set(matrix.MODES) == set(CHOICES["mode"])
    for option in set(CHOICES) & set(matrix.VALUES):
        assert {*matrix.VALUES[option], ASGC_DEFAULTS[option]} - {None} == set(CHOICES[option]), option
    for rule, options in matrix.RULES.items():
        assert set(options) == set(rule_defaults(rule)), rule


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(cell: Cell) -> None:
    plain = Run.of(cell, "reference")
    reason = REGISTRY[cell.implementation].unsupported(plain.opt)
    if reason is not None:
        refused(cell, reason)
        return
    for check in CHECKS:
        check(cell)


def refused(cell: Cell, reason: str) -> None:
    with pytest.raises(ValueError, match=f"implementation={cell.implementation!r} cannot be used") as caught:
        Run.of(cell)
    assert reason in str(caught.value)
    run = Run.of(cell, "auto").step()
    assert run.opt.param_groups[0]["implementation"] not in ("auto", cell.implementation)
    assert_close(cell, run.params, Run.of(cell, "reference").step().params)


_started: list[tuple[Cell, Run]] = []  # of the last cell


def started(cell: Cell) -> Run:
    """A run after two steps: a copy, as most checks begin here. (That copies go on the same is a check below.)"""
    if not _started or _started[0][0] is not cell:
        _started[:] = [(cell, Run.of(cell).step(2))]
    return copy.deepcopy(_started[0][1])


_expected: dict[str, list[Tensor]] = {}


def expected(cell: Cell, make: Callable[[Cell, str], Run]) -> list[Tensor]:
    """What ``make`` leaves under the reference: made once for all implementations that are compared with it."""
    key = f"{make.__name__} {replace(cell, implementation='reference')}"
    if key not in _expected:
        _expected[key] = make(cell, "reference").bits()
    return _expected[key]


def shifted(cell: Cell, implementation: str) -> Run:
    run = Run.of(cell, implementation).step(2).step(only=[1])
    run.opt.shift()
    return run.step(2)


def equals_the_reference(cell: Cell) -> None:
    """With a parameter that has no gradient in some steps, a burst, and a shift in between."""
    run = shifted(cell, cell.implementation)
    assert_close(cell, run.bits(), expected(cell, shifted))
    assert [run.opt.state[p]["noise_step"] for p in run.params] == [4, 5]


def reference_equals_the_formulas(cell: Cell) -> None:
    """The reference itself against the float64 formulas, which share no code with it."""
    run = Run.of(cell)
    oracles = [Oracle(p.double().cpu().numpy(), i, run.opt.param_groups[0]) for i, p in enumerate(run.params)]
    for _ in range(5):
        run.give()
        for param, oracle in zip(run.params, oracles, strict=True):
            assert param.grad is not None
            oracle.step(param.grad.double().cpu().numpy())
            oracle.p = torch.from_numpy(np.asarray(oracle.p)).to(cell.dtype).double().numpy()  # rounded each step
        run.step()
    assert_close(cell, run.params, [torch.from_numpy(oracle.p) for oracle in oracles], factor=4)


def goes_on_from_a_saved_state(cell: Cell) -> None:
    run = started(cell)
    file = io.BytesIO()
    torch.save({"params": run.params, "opt": run.opt.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    other = Run.of(cell)
    for param, value in zip(other.params, saved["params"], strict=True):
        param.copy_(value)
    other.opt.load_state_dict(saved["opt"])
    other.time = run.time
    assert_same(other.bits(), run.bits())
    assert_same(other.step(2).bits(), run.step(2).bits())


def goes_on_from_copies(cell: Cell) -> None:
    run = started(cell)
    copies = [copy.deepcopy(run), pickle.loads(pickle.dumps(run))]
    assert_same(Run.of(cell).step(3).bits(), run.step().bits())
    for other in copies:
        assert other.params[0] is not run.params[0]
        assert other.params[0] is other.opt.param_groups[0]["params"][0]
        assert_same(other.step().bits(), run.bits())


def in_groups(cell: Cell, implementation: str) -> Run:
    params = parameters(cell)
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], **OTHER, "label": "head"}]
    return Run(params, ASGC(groups, LR, implementation=implementation, **cell.options)).step(2)


def takes_groups_with_overrides(cell: Cell) -> None:
    run = in_groups(cell, cell.implementation)
    assert_close(cell, run.bits(), expected(cell, in_groups))
    first, second = run.opt.param_groups
    assert second["label"] == "head"
    assert {name: second[name] for name in OTHER} == OTHER
    assert first["lr"] == LR
    alone = Run.of(cell, shapes=SMALL[:1]).step(2)
    assert_same(alone.params, run.params[:1])  # one group's options are not another's


def leaves_a_parameter_without_gradient_alone(cell: Cell) -> None:
    run = started(cell)
    before = run.bits()
    for param in run.params:
        param.grad = None
    run.opt.step()
    assert_same(run.bits(), before)
    fresh = Run.of(cell).step(1, only=[0])
    assert fresh.params[1] not in fresh.opt.state


def evaluates_a_closure_once_and_first(cell: Cell) -> None:
    run, plain = Run.of(cell), Run.of(cell).step()
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        run.give()
        return 3.5

    assert run.opt.step(closure) == 3.5
    assert calls == [True]
    assert_same(run.bits(), plain.bits())


def moves_nothing_at_learning_rate_zero(cell: Cell) -> None:
    run = Run.of(cell, lr=0.0)
    before = [param.clone() for param in run.params]
    run.step(2)
    assert_same(run.params, before)
    assert all(run.opt.state[param]["noise_step"] == 2 for param in run.params)  # but the statistics go on


def freezes_and_unfreezes(cell: Cell) -> None:
    run = started(cell)
    frozen = run.params[0]
    before = [frozen.clone(), *[v.clone() for v in run.opt.state[frozen].values() if isinstance(v, Tensor)]]
    frozen.requires_grad_(False)
    run.step(2, only=[1])
    after = [frozen, *[v for v in run.opt.state[frozen].values() if isinstance(v, Tensor)]]
    assert_same(before, after)
    frozen.requires_grad_(True)
    run.step()
    assert run.opt.state[frozen]["noise_step"] == 3
    assert not torch.equal(frozen, before[0])


def refuses_capturable_on_a_cpu(cell: Cell) -> None:
    if cell.device == "cpu":
        with pytest.raises(ValueError, match="capturable=True"):
            Run.of(cell, capturable=True)


def with_a_late_group(cell: Cell, implementation: str) -> Run:
    run = Run.of(cell, implementation, shapes=SMALL[:1]).step()
    run.params.append(parameters(cell)[1])
    run.opt.add_param_group({"params": run.params[1:], **OTHER})
    return run.step(2)


def adds_a_group_later(cell: Cell) -> None:
    run = with_a_late_group(cell, cell.implementation)
    assert [run.opt.state[p]["layer"] for p in run.params] == [0, 1]
    assert [int(run.opt.state[p]["noise_step"]) for p in run.params] == [3, 2]
    assert_close(cell, run.bits(), expected(cell, with_a_late_group))


def takes_the_learning_rate_as_a_tensor(cell: Cell) -> None:
    lr = torch.tensor(LR, dtype=torch.float64 if cell.dtype == torch.float64 else torch.float32)
    run = Run.of(cell, lr=lr).step()
    assert_close(cell, run.bits(), Run.of(cell).step().bits())
    lr.zero_()  # as schedulers do, in place
    before = [param.clone() for param in run.params]
    assert_same(run.step().params, before)


def calls_hooks(cell: Cell) -> None:
    run = Run.of(cell)
    seen: list[str] = []
    run.opt.register_step_pre_hook(lambda *_: seen.append("before step"))
    run.opt.register_step_post_hook(lambda *_: seen.append("after step"))
    run.opt.register_state_dict_pre_hook(lambda _: seen.append("before saving"))
    run.opt.register_state_dict_post_hook(lambda *_: seen.append("after saving"))
    run.opt.register_load_state_dict_pre_hook(lambda *_: seen.append("before loading"))
    run.opt.register_load_state_dict_post_hook(lambda _: seen.append("after loading"))
    run.step()
    run.opt.load_state_dict(run.opt.state_dict())
    steps, saving, loading = (
        [f"{when} {what}" for when in ("before", "after")] for what in ("step", "saving", "loading")
    )
    assert seen == [*steps, *saving, *loading]
    assert_same(run.step().bits(), started(cell).bits())


def meets_nonfinite_gradients(cell: Cell) -> None:
    """By the policy of ``nonfinite``, the same as the reference."""
    runs = [Run.of(cell), Run.of(cell, "reference")]
    for run in runs:
        run.step(2)
        before = run.bits()
        run.give()
        for param, value in zip(run.params, (math.inf, math.nan), strict=True):
            assert param.grad is not None
            param.grad.view(-1)[1] = value
        policy = run.opt.param_groups[0]["nonfinite"]
        if policy == "raise":
            with pytest.raises(RuntimeError, match=r"group 0, parameter 0 .* has a non-finite gradient"):
                run.opt.step()
            assert_same(run.bits(), before)
        else:
            run.opt.step()
        counts = [entry["nonfinite"] for entry in run.opt.diagnostics()]
        assert counts == ([0, 0] if policy == "raise" else [1, 1])
        if policy == "skip":
            assert_same(run.params, before[: len(run.params)])
        run.step()
        assert all(torch.isfinite(tensor).all() for tensor in run.params)
    assert_close(cell, runs[0].bits(), runs[1].bits())


def _only(wanted: bool, check: Check) -> Check:
    """A check for the reference, or for all the others."""
    return lambda cell: check(cell) if (cell.implementation == "reference") == wanted else None


CHECKS: tuple[Check, ...] = (
    _only(True, reference_equals_the_formulas),
    _only(False, equals_the_reference),
    goes_on_from_a_saved_state,
    goes_on_from_copies,
    takes_groups_with_overrides,
    leaves_a_parameter_without_gradient_alone,
    evaluates_a_closure_once_and_first,
    moves_nothing_at_learning_rate_zero,
    freezes_and_unfreezes,
    refuses_capturable_on_a_cpu,
    adds_a_group_later,
    takes_the_learning_rate_as_a_tensor,
    calls_hooks,
    _only(False, meets_nonfinite_gradients),
)
