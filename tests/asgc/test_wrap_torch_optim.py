"""``wrap`` around every optimizer of torch.optim, in small real runs."""

from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from asgc import wrap
from tests.asgc.implementations.small_run import assert_falls, assert_resumes, model, train

CLASSES = {
    name: cls
    for name in torch.optim.__all__
    if isinstance(cls := getattr(torch.optim, name), type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
REFUSED = ("LBFGS", "SparseAdam")
RATES = {"Adadelta": 3.0, "ASGD": 0.1, "SGD": 0.1, "Adagrad": 0.1, "Adafactor": 0.1}
WORKING = [name for name in CLASSES if name not in REFUSED]


def make(name: str, params: Any, **options: Any) -> Any:
    return wrap(CLASSES[name](params, lr=RATES.get(name, 0.02)), **options)


def test_none_is_forgotten() -> None:
    known = {"Adadelta", "Adafactor", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"}
    assert known | {"Adagrad", "Muon"} <= set(WORKING)


@pytest.mark.parametrize("mode", ["norm", "value"])
@pytest.mark.parametrize("name", WORKING)
def test_the_loss_falls(name: str, mode: str) -> None:
    net = model(bias=name != "Muon")  # Muon takes matrices only
    opt = make(name, net.parameters(), mode=mode)
    assert_falls(train(net, opt, 60))
    assert len(opt.diagnostics()) == len(list(net.parameters()))
    assert all(layer["threshold"] > 0 for layer in opt.diagnostics())


@pytest.mark.parametrize("name", WORKING)
def test_resumes_to_the_last_bit(name: str) -> None:
    assert_resumes(lambda params: make(name, params, noise_decay=0.1, granularity="unit"), model(bias=name != "Muon"))


def test_refused_with_a_reason() -> None:
    params = [torch.zeros(3, 2)]
    with pytest.raises(ValueError, match="LBFGS evaluates its closure several times"):
        wrap(torch.optim.LBFGS(params))
    with pytest.raises(ValueError, match="SparseAdam takes sparse gradients only"):
        wrap(torch.optim.SparseAdam(params))
