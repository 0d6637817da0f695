"""Saving and resuming: to the last bit, for every rule, mode and precision."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC, wrap

CASES: list[dict[str, Any]] = [
    {"rule": "sgd", "momentum": 0.9, "mode": "value"},
    {"rule": "adam", "amsgrad": True, "noise_decay": 0.5},
    {"rule": "adamw", "granularity": "unit"},
    {"rule": "rmsprop", "centered": True, "momentum": 0.9, "noise_at": "update"},
    {"rule": "adagrad", "granularity": "unit", "mode": "value", "lr_decay": 0.1},
]


def make(dtype: torch.dtype, **options: Any) -> tuple[list[Tensor], ASGC]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 3), (5,), ())]
    return params, ASGC(params, 0.01, implementation="reference", **options)


def train(params: list[Tensor], opt: torch.optim.Optimizer, start: int, stop: int) -> None:
    for t in range(start, stop):
        generator = torch.Generator().manual_seed(t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) * 3.0 ** (t % 3)
        opt.step()


def assert_same_state(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_state(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", CASES, ids=lambda o: o["rule"])
def test_resumed_equals_uninterrupted_to_the_last_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    params, opt = make(dtype, **options)
    train(params, opt, 0, 12)
    file = io.BytesIO()
    torch.save({"params": params, "opt": opt.state_dict()}, file)
    train(params, opt, 12, 25)

    file.seek(0)
    saved = torch.load(file)
    resumed_params, resumed = make(dtype, **options)
    for p, value in zip(resumed_params, saved["params"], strict=True):
        p.copy_(value)
    resumed.load_state_dict(saved["opt"])
    assert_same_state(resumed.state_dict(), saved["opt"])
    train(resumed_params, resumed, 12, 25)
    assert_same_state(resumed.state_dict(), opt.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(params, resumed_params, strict=True))
    state = resumed.state[resumed_params[0]]
    assert state["stats"].dtype == torch.float32
    assert state["noise_step"].dtype == torch.int64
    assert state["step"].dtype == torch.float32


def test_a_loaded_state_is_a_copy() -> None:
    params, opt = make(torch.float32)
    train(params, opt, 0, 3)
    saved = opt.state_dict()
    other_params, other = make(torch.float32)
    other.load_state_dict(saved)
    kept = copy.deepcopy(saved)
    train(other_params, other, 3, 6)
    assert_same_state(saved, kept)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(copied: Any) -> None:
    params, opt = make(torch.bfloat16, granularity="unit")
    train(params, opt, 0, 3)
    twin: ASGC = copied(opt)
    twin_params = twin.param_groups[0]["params"]
    assert twin_params[0] is not params[0]
    train(params, opt, 3, 6)
    train(twin_params, twin, 3, 6)
    assert_same_state(twin.state_dict(), opt.state_dict())
    twin.add_param_group({"params": [torch.zeros(2)]})
    assert twin.layer_number(twin.param_groups[1]["params"][0]) == 3


def test_user_hooks_see_the_restored_state_and_may_replace_the_loaded_one() -> None:
    params, opt = make(torch.bfloat16)
    train(params, opt, 0, 3)
    saved = opt.state_dict()
    other_params, other = make(torch.bfloat16)
    seen = []
    other.register_load_state_dict_pre_hook(lambda _, __: saved)
    other.register_load_state_dict_post_hook(lambda o: seen.append(o.state[other_params[0]]["stats"].dtype))
    other.load_state_dict({})
    assert seen == [torch.float32]
    assert_same_state(other.state_dict(), saved)


def test_a_wrong_state_changes_nothing() -> None:
    params, opt = make(torch.float32)
    train(params, opt, 0, 3)
    before = copy.deepcopy(opt.state_dict())
    plain = torch.optim.Adam([torch.zeros(4, 3), torch.zeros(5), torch.zeros(())])
    unit_params, unit = make(torch.float32, granularity="unit")
    train(unit_params, unit, 0, 1)
    wrong = copy.deepcopy(unit.state_dict())
    wrong["state"][0]["stats"] = wrong["state"][0]["stats"][:, :2]
    fewer = ASGC([torch.zeros(4, 3)], 0.1)
    for state_dict, message in (
        (plain.state_dict(), "not a state_dict of ASGC"),
        ({}, "not a state_dict of ASGC"),
        (wrong, "saved statistics of group 0, parameter 0"),
        (fewer.state_dict(), "doesn't match the size"),
    ):
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(state_dict)
        assert_same_state(opt.state_dict(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrapped_resumes_to_the_last_bit(dtype: torch.dtype) -> None:
    def make_wrapped() -> tuple[list[Tensor], Any]:
        generator = torch.Generator().manual_seed(1)
        params = [torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 3), (5,))]
        inner = torch.optim.Adam(params, lr=0.01, foreach=False)
        return params, wrap(inner, mode="value", granularity="unit", noise_decay=0.1)

    params, opt = make_wrapped()
    train(params, opt, 0, 5)
    file = io.BytesIO()
    torch.save({"params": params, "opt": opt.state_dict()}, file)
    train(params, opt, 5, 9)
    file.seek(0)
    saved = torch.load(file)
    resumed_params, resumed = make_wrapped()
    for p, value in zip(resumed_params, saved["params"], strict=True):
        p.copy_(value)
    resumed.load_state_dict(saved["opt"])
    assert_same_state(resumed.state_dict(), saved["opt"])
    train(resumed_params, resumed, 5, 9)
    assert_same_state(resumed.state_dict(), opt.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(params, resumed_params, strict=True))
    for copied in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        train(copied.param_groups[0]["params"], copied, 9, 12)
        assert all(s["noise_step"] == 12 for s in copied.statistics.values())
    assert all(s["noise_step"] == 9 for s in opt.statistics.values())
    with pytest.raises(ValueError, match=r"not a state_dict of asgc\.wrap"):
        opt.load_state_dict(opt.inner.state_dict())
