"""The options that only the reference and the CPU's kernel have: eps_scale, thresholds of elements, ceilings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from tests.asgc.harness import Pair, bursts, channels_last

ELEMENT = {"granularity": "element", "mode": "value", "clip_factor": 1.2}
CEILING = {"ceiling": 0.01, "exclude_head": False}
OPTIONS: tuple[dict[str, Any], ...] = (
    {"eps_scale": 0.3, "mode": "norm"},
    {"eps_scale": 0.3, "mode": "value", "eps": 0.0, "noise_at": "update"},
    {"eps_scale": 2.0, "rule": "rmsprop", "mode": "norm", "granularity": "unit"},
    {"eps_scale": 2.0, "rule": "adagrad", "mode": "value"},
    ELEMENT,
    {**ELEMENT, "noise_scale": 0.0, "clip_sharpness": 3.3},
    {**ELEMENT, "amsgrad": True, "clip_sharpness": math.inf},
    {**ELEMENT, "rule": "rmsprop", "centered": True, "noise_at": "update", "eps_scale": 0.1},
    {**CEILING, "mode": "norm"},
    {**CEILING, "mode": "value", "amsgrad": True, "weight_decay": 0.1, "maximize": True, "noise_at": "update"},
    {**CEILING, "mode": "norm", "rule": "adamw", "clip_factor": math.inf, "noise_scale": 0.0},
    {**CEILING, "mode": "value", "rule": "adamw", "eps_scale": 0.5, "noise_scale": 0.0},
    {**CEILING, "mode": "norm", "rule": "rmsprop", "momentum": 0.5},
    {**CEILING, "mode": "value", "rule": "rmsprop", "noise_at": "update", "ceiling_norm": "spectral"},
    {**CEILING, "mode": "norm", "rule": "adagrad", "lr_decay": 0.1, "weight_decay": 0.1, "noise_at": "update"},
    {**CEILING, "mode": "norm", "rule": "sgd", "momentum": 0.9, "clip_factor": math.inf},
    {**CEILING, "mode": "norm", "rule": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {**CEILING, "mode": "value", "rule": "sgd", "momentum": 0.9, "dampening": 0.3, "noise_at": "update"},
    {**CEILING, "mode": "value", "rule": "sgd", "noise_scale": 0.0, "ceiling_norm": "spectral"},
    {**ELEMENT, **CEILING, "eps_scale": 0.2},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_equals_the_reference(options: dict[str, Any]) -> None:
    pair = Pair("cpu", **options)
    for _ in range(12):
        pair.step()
        pair.check()


@pytest.mark.parametrize("options", [one for one in OPTIONS if one.get("granularity") != "unit"], ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_nonfinite_gradients(options: dict[str, Any], first: int) -> None:
    def gradient(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
        g = bursts(step, index, param, generator)
        if g is not None and step in (first, first + 2) and index in (0, 3):
            flat = g.view(-1)
            flat[1], flat[2], flat[3], flat[-1] = math.inf, -math.inf, math.nan, math.inf
        return g

    pair = Pair("cpu", **options)
    for _ in range(5):
        pair.step(gradient)
        pair.check()
    assert all(torch.isfinite(p).all() for p in pair.found)


@pytest.mark.parametrize("options", [ELEMENT, {**ELEMENT, **CEILING, "noise_at": "update"}], ids=str)
def test_any_memory_order(options: dict[str, Any]) -> None:
    pair = Pair("cpu", ((32, 4, 8, 8), (64, 32, 4, 4), (5, 1, 3, 3)), layout=channels_last, **options)
    for _ in range(5):
        pair.step()
        pair.check()


@pytest.mark.parametrize(
    "options", [{**ELEMENT, **CEILING}, {**CEILING, "rule": "sgd", "momentum": 0.9, "mode": "norm"}], ids=str
)
def test_any_number_of_threads(options: dict[str, Any]) -> None:
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        pair = Pair("cpu", ((300_001,), (1000, 37), (33,)), **options)
        try:
            torch.set_num_threads(threads)
            for step in range(3):
                for i, f in enumerate(pair.found):
                    f.grad = bursts(step + 4, i, f, pair.generator)
                pair.fast.step()
        finally:
            torch.set_num_threads(before)
        results.append([*pair.found, *(pair.fast.state[f]["stats"].clone() for f in pair.found)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_ceilings_are_those_of_the_layers_that_have_one() -> None:
    """A head without a gradient, a group without a ceiling, a state loaded from the reference's."""
    shapes = ((40, 30), (30,), (5, 40), (5,))

    def groups(params: list[Tensor]) -> Any:
        return [{"params": params[:1]}, {"params": params[1:2], "ceiling": None}, {"params": params[2:]}]

    pair = Pair("cpu", shapes, groups=groups, mode="norm", ceiling=0.01)
    for step in range(6):
        pair.step(lambda step, i, p, gen: None if i == 0 and step == 2 else bursts(step, i, p, gen))
        pair.check()
        if step == 3:
            pair.fast.load_state_dict(
                pair.reference.state_dict() | {"param_groups": pair.fast.state_dict()["param_groups"]}
            )
    held = ["step_left" in pair.fast.state[param] for param in pair.found]
    assert held == [True, False, False, False]


def test_a_ceiling_that_units_get_later_is_refused() -> None:
    param = torch.ones(4, 4)
    opt = ASGC([param], 0.1, granularity="unit", exclude_head=False, implementation="cpu")
    param.grad = torch.ones(4, 4)
    opt.step()
    opt.param_groups[0]["ceiling"] = 0.1
    with pytest.raises(RuntimeError, match=r"cannot go on with ceiling=0.1 with granularity='unit'"):
        opt.step()


def test_units_with_a_ceiling_are_left_to_the_reference() -> None:
    with pytest.raises(ValueError, match=r"ceiling=0.1 with granularity='unit' .only whole layers"):
        ASGC([torch.zeros(4, 4)], 0.1, ceiling=0.1, granularity="unit", implementation="cpu")
