"""Each base rule equals torch.optim's (foreach=False) over 30 steps where clipping and noise are off."""

import inspect
import math
from typing import Any

import pytest
import torch

from asgc import ASGC
from asgc.options import RULES, TORCH_CLASSES, rule_defaults

OFF = {"clip_factor": math.inf, "noise_scale": 0.0, "implementation": "reference"}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("sgd", {"maximize": True, "momentum": 0.5}),
    ("adam", {}),
    ("adam", {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.01}),
    ("adam", {"amsgrad": True, "betas": (0.9, 0.8)}),
    ("adam", {"maximize": True, "weight_decay": 0.1}),
    ("adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("adam", {"betas": (torch.tensor(0.8), torch.tensor(0.99))}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 0.2, "amsgrad": True, "maximize": True}),
    ("rmsprop", {}),
    ("rmsprop", {"alpha": 0.9, "eps": 1e-4, "weight_decay": 0.01, "momentum": 0.9}),
    ("rmsprop", {"centered": True}),
    ("rmsprop", {"centered": True, "momentum": 0.5, "maximize": True}),
    ("adagrad", {}),
    ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.01, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("adagrad", {"maximize": True}),
    ("sgd", {"lr": torch.tensor(0.01), "momentum": 0.9}),
    ("adam", {"lr": torch.tensor(0.01), "amsgrad": True}),
    ("adamw", {"lr": torch.tensor([0.01])}),
    ("rmsprop", {"lr": torch.tensor(0.01)}),
    ("adagrad", {"lr": torch.tensor(0.01), "lr_decay": 0.1}),
]


def names(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *case[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=names)
def test_equals_torch_to_the_last_bit(case: tuple[str, dict[str, Any]], dtype: torch.dtype) -> None:
    rule, options = case
    if not set(options) - {"lr"} <= set(rule_defaults(rule)):
        pytest.skip("this torch has no such option")
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 3), (), (2, 3, 2, 2)]
    start = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    start[2] = start[2].to(memory_format=torch.channels_last)
    ours, theirs = ([p.clone(memory_format=torch.preserve_format) for p in start] for _ in range(2))
    options = dict(options)
    lr = options.pop("lr", 0.01)
    opt = ASGC(ours, lr, rule=rule, **OFF, **options)
    reference = getattr(torch.optim, TORCH_CLASSES[rule])(theirs, lr=lr, foreach=False, **options)
    for step in range(30):
        for mine, other in zip(ours, theirs, strict=True):
            grad = torch.randn(mine.shape, generator=generator, dtype=dtype) * (1 + step % 7)
            grad[grad.abs() < 0.1] = 0
            mine.grad, other.grad = grad.clone(), grad.clone()
        opt.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        for key, value in reference.state[other].items():
            if value is not None:
                assert torch.equal(opt.state[mine][key], value), key
                assert opt.state[mine][key].stride() == value.stride()


@pytest.mark.parametrize("rule", RULES)
def test_options_are_exactly_torchs(rule: str) -> None:
    signature = inspect.signature(getattr(torch.optim, TORCH_CLASSES[rule])).parameters
    implementation = {"foreach", "fused", "capturable", "differentiable"}
    expected = {k: v.default for k, v in signature.items() if k not in implementation | {"params", "lr"}}
    assert rule_defaults(rule) == expected
    group = ASGC([torch.zeros(1)], 0.1, rule=rule).param_groups[0]
    assert {k: group[k] for k in expected} == expected


def test_every_option_is_tested() -> None:
    for rule in RULES:
        tested = {name for case, options in CASES if case == rule for name in options}
        # adamw is adam with decoupled weight decay: betas and eps are tested there
        assert set(rule_defaults(rule)) - tested <= ({"betas", "eps"} if rule == "adamw" else set())
