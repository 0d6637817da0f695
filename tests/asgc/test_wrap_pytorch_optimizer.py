"""``wrap`` around optimizers of the package pytorch_optimizer: layer-wise rates, preconditioners, Hessian estimates."""

from typing import Any

import pytest
import pytorch_optimizer
import torch

from asgc import wrap
from tests.asgc.implementations.small_run import assert_falls, assert_resumes, bits, loss_of, model, train

# name: (learning rate, whether it needs the graph of the gradients, for Hessian-vector products)
CLASSES: dict[str, tuple[float, bool]] = {
    "Lamb": (0.02, False),  # layer-wise rates
    "LARS": (0.5, False),
    "SOAP": (0.02, False),  # preconditioners
    "Shampoo": (0.05, False),
    "AdaHessian": (0.05, True),
    "SophiaH": (0.1, True),
    "Lion": (0.005, False),  # signs
    "Tiger": (0.005, False),
    "AdaBelief": (0.02, False),
    "Adan": (0.02, False),
    "AdEMAMix": (0.02, False),
    "MADGRAD": (0.01, False),
}
SLOW = ("LARS", "SophiaH")  # not at half the loss after 60 steps


def make(name: str, params: Any, **options: Any) -> Any:
    return wrap(getattr(pytorch_optimizer, name)(params, lr=CLASSES[name][0]), **options)


@pytest.mark.parametrize("mode", ["norm", "value"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_loss_falls(name: str, mode: str) -> None:
    net = model()
    opt = make(name, net.parameters(), mode=mode)
    steps = 120 if name in SLOW else 60
    assert_falls(train(net, opt, steps, create_graph=CLASSES[name][1]))
    assert all(layer["threshold"] > 0 for layer in opt.diagnostics())


@pytest.mark.parametrize("name", CLASSES)
def test_resumes_to_the_last_bit(name: str) -> None:
    assert_resumes(lambda params: make(name, params, noise_decay=0.1), model(), create_graph=CLASSES[name][1])


def test_the_inner_step_takes_its_own_arguments() -> None:
    """SophiaH takes a Hessian estimate from outside: a large one makes the step small."""
    moved = []
    for size in (1.0, 1e6):
        net = model()
        opt = wrap(pytorch_optimizer.SophiaH(net.parameters(), lr=0.01, weight_decay=0.0), noise_scale=0.0)
        loss_of(net).backward()
        before = bits(net.state_dict())
        opt.step(hessian=[torch.full_like(p, size) for p in net.parameters()])
        moved.append(sum(float((a - b).abs().sum()) for a, b in zip(bits(net.state_dict()), before, strict=True)))
    assert moved[1] < 1e-3 * moved[0]
