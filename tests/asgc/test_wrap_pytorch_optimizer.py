"""``wrap`` around optimizers of the package pytorch_optimizer: layer-wise rates, preconditioners, Hessian estimates."""

import copy
from typing import Any

import pytest
import pytorch_optimizer
import torch

from asgc import ASGC, wrap
from tests.asgc.implementations.small_run import (
    assert_falls,
    assert_resumes,
    assert_same_bits,
    bits,
    loss_of,
    model,
    train,
)

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


AROUND: dict[str, Any] = {
    "Lookahead": lambda params: pytorch_optimizer.Lookahead(torch.optim.Adam(params, lr=0.02)),
    "ScheduleFreeWrapper": lambda params: pytorch_optimizer.ScheduleFreeWrapper(torch.optim.SGD(params, lr=0.1)),
    "OrthoGrad": lambda params: pytorch_optimizer.OrthoGrad(torch.optim.Adam(params, lr=0.02)),
    "TRAC": lambda params: pytorch_optimizer.TRAC(torch.optim.Adam(params, lr=0.02)),
    "ScheduleFreeAdamW": lambda params: pytorch_optimizer.ScheduleFreeAdamW(params, lr=0.02),
}


@pytest.mark.parametrize("name", AROUND)
def test_optimizers_that_are_wrappers_inside(name: str) -> None:
    """They keep another optimizer in themselves, and do not call torch's constructor."""
    net = model()
    inner = AROUND[name](net.parameters())
    if hasattr(inner, "train"):
        inner.train()
    opt = wrap(inner, mode="value")
    assert_falls(train(net, opt, 60))
    assert opt.options["outlier_share"] == (0.9 if name == "ScheduleFreeWrapper" else 0.25)
    torch.optim.lr_scheduler.StepLR(opt, 1)
    # A state in a second optimizer: the next step is the same, to the last bit. (They cannot be deep-copied.)
    other = model()
    other.load_state_dict(net.state_dict())
    fresh = AROUND[name](other.parameters())
    if hasattr(fresh, "train"):
        fresh.train()
    resumed = wrap(fresh, mode="value")
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(net, opt, 3, start=60)
    train(other, resumed, 3, start=60)
    assert_same_bits(other.state_dict(), net.state_dict())


def inside(groups: Any, **options: Any) -> Any:
    return wrap(torch.optim.Adam(groups, **options))


def test_wrap_and_asgc_inside_of_wrappers() -> None:
    for make in (
        lambda params: pytorch_optimizer.Lookahead(inside(params, lr=0.02)),
        lambda params: pytorch_optimizer.Lookahead(ASGC(params, lr=0.02)),
        lambda params: pytorch_optimizer.ScheduleFreeWrapper(ASGC(params, lr=0.1, rule="sgd")),
    ):
        net = model()
        opt = make(net.parameters())
        if hasattr(opt, "train"):
            opt.train()
        assert_falls(train(net, opt, 60))
        opt.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("name", ["SAM", "LookSAM", "FriendlySAM", "WSAM"])
def test_sam_and_its_kin_take_it_inside_and_are_refused_in_it(name: str) -> None:
    net = model()
    given = (net, net.parameters()) if name == "WSAM" else (net.parameters(),)
    with pytest.raises(ValueError, match=f"{name} evaluates its closure itself, .* base_optimizer=lambda groups"):
        wrap(getattr(pytorch_optimizer, name)(*given, base_optimizer=torch.optim.SGD, lr=0.1))
    net = model()
    given = (net, net.parameters()) if name == "WSAM" else (net.parameters(),)
    opt = getattr(pytorch_optimizer, name)(*given, base_optimizer=inside, lr=0.02)
    losses = []
    for t in range(60):

        def closure(t: int = t) -> torch.Tensor:
            opt.zero_grad()
            loss = loss_of(net, t)
            loss.backward()
            return loss

        losses.append(closure().item())
        opt.step(closure)
    assert_falls(losses)
    assert len(opt.base_optimizer.diagnostics()) == 4


def test_lbfgs_inside_of_a_wrapper_is_refused() -> None:
    lookahead = pytorch_optimizer.Lookahead(torch.optim.LBFGS(model().parameters()))
    with pytest.raises(ValueError, match="LBFGS evaluates its closure"):
        wrap(lookahead)


def test_averaging_and_its_schedule() -> None:
    net = model()
    opt = wrap(torch.optim.SGD(net.parameters(), lr=0.1))
    schedule, average = torch.optim.swa_utils.SWALR(opt, 0.05), torch.optim.swa_utils.AveragedModel(net)
    losses = []
    for t in range(60):
        losses += train(net, opt, 1, start=t)
        schedule.step()
        average.update_parameters(net)
    assert_falls(losses)
    assert opt.inner.param_groups[0]["lr"] == pytest.approx(0.05)
