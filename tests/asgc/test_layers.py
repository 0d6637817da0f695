"""Numbers of layers: the noise's key, the same in one optimizer for all parameters and in one for each."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward

from asgc import ASGC, number_layers, optimizers, wrap
from tests.asgc.implementations.small_run import loss_of, model

SHAPES = ((6, 2), (6, 2), (5,))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def run(params: list[nn.Parameter], opts: list[Any], steps: int = 3) -> list[nn.Parameter]:
    for t in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t))
        for opt in opts:
            opt.step()
    return params


MAKERS: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda params, name=name: ASGC(params, 0.1, noise_scale=1.0, implementation=name)
        for name in ("reference", "foreach", "cpu")
    },
    "wrap": lambda params: wrap(torch.optim.Adam(params, lr=0.1, foreach=False), noise_scale=1.0),
    "gradient-noise": lambda params: optimizers.build("gradient-noise", params, 0.1, eta=1.0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_one_optimizer_a_parameter_does_what_one_for_all_does(name: str) -> None:
    make = MAKERS[name]
    one = parameters()
    run(one, [make(one)])
    numbered = parameters()
    number_layers(numbered)
    run(numbered, [make([p]) for p in numbered])
    assert all(torch.equal(a, b) for a, b in zip(one, numbered, strict=True))
    without = run(unnumbered := parameters(), [make([p]) for p in unnumbered])
    assert torch.equal(without[0], without[1])  # what it is for
    assert not torch.equal(numbered[0], numbered[1])


@pytest.mark.parametrize("name", ["reference", "wrap"])
def test_a_preview_and_a_saved_state_know_the_numbers(name: str) -> None:
    params = parameters()
    number_layers(params)
    opt = MAKERS[name](params[1:])
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    seen = [layer.seen.clone() for layer in opt.preview()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations([x.flatten()[:5] for x in seen], 2))
    opt.step()
    layers = [layer["layer"] for layer in opt.diagnostics()]
    assert layers == [1, 2]
    other = MAKERS[name](parameters()[1:])  # not numbered: the state is
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    run(other.param_groups[0]["params"], [other], 1)
    assert [layer["layer"] for layer in other.diagnostics()] == [1, 2]


def test_a_step_in_the_backward_pass() -> None:
    """torch's own helper makes an optimizer for each parameter."""
    nets = [model(), model()]
    number_layers(nets[0].parameters())
    _apply_optimizer_in_backward(ASGC, nets[0].parameters(), {"lr": 0.02, "noise_scale": 0.5})
    opt = ASGC(nets[1].parameters(), 0.02, noise_scale=0.5)
    for t in range(5):
        loss_of(nets[0], t).backward()
        opt.zero_grad()
        loss_of(nets[1], t).backward()
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
