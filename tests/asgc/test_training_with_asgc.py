"""What surrounds an optimizer in training: GradScaler, gradient accumulation, schedulers, averaging, torch.compile."""

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from asgc import ASGC, wrap
from tests.asgc.implementations.small_run import (  # fmt: skip
    OPTIMIZERS,
    assert_falls,
    assert_same_bits,
    batch,
    bits,
    build,
    loss_of,
    model,
    train,
)

EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


@EVERY
def test_grad_scaler_is_exact_and_its_skipped_step_skips_everything(name: str) -> None:
    nets = [model(), model()]
    opts = [build(name, net.parameters()) for net in nets]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for t in range(8):
        overflows = t in (0, 4)  # also before the first step
        for net, opt in zip(nets, opts, strict=True):
            opt.zero_grad()
            loss = loss_of(net, t)
            if net is nets[1]:
                scaler.scale(loss).backward()
                if overflows:
                    next(net.parameters()).grad[0, 0] = math.inf
                before = bits([net.state_dict(), opt.state_dict()])
                scale = scaler.get_scale()
                scaler.step(opt)
                scaler.update()
                if overflows:
                    assert_same_bits([net.state_dict(), opt.state_dict()], before)
                    assert scaler.get_scale() < scale
            elif not overflows:
                loss.backward()
                opt.step()
    # scales are powers of two, so training under the scaler is the same to the last bit
    assert_same_bits(nets[0].state_dict(), nets[1].state_dict())
    assert_same_bits(opts[0].state_dict(), opts[1].state_dict())
    assert [layer["nonfinite"] for layer in opts[1].diagnostics()] == [0] * 4


@EVERY
def test_gradient_accumulation_is_one_step_of_the_mean(name: str) -> None:
    nets = [model(), model()]
    opts = [build(name, net.parameters(), noise_scale=0.3) for net in nets]
    for t in range(6):
        for net, opt, parts in zip(nets, opts, (1, 4), strict=True):
            opt.zero_grad()
            x, y = batch(t)
            for part in range(parts):
                rows = slice(part * 64 // parts, (part + 1) * 64 // parts)
                (nn.functional.mse_loss(net(x[rows]), y[rows]) / parts).backward()
            opt.step()
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)
    assert opts[0].diagnostics()[0]["noise_std"] == pytest.approx(opts[1].diagnostics()[0]["noise_std"], rel=1e-3)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=12),
    "one-cycle": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.05, total_steps=12),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.05, step_size_up=4),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: 0.9**t),
    "plateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0, threshold=0.3),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(opt, 8)], milestones=[4]
    ),
}
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5}),
}


def scheduled(net: nn.Module, opt: Any, scheduler: Any, steps: range) -> list[tuple[float, float]]:
    """Train, and tell the learning rates and momenta that the optimizer went through."""
    path = []
    for t in steps:
        (loss,) = train(net, opt, 1, start=t)
        group = opt.param_groups[0]
        path.append((float(group["lr"]), float(group["betas"][0] if "betas" in group else group["momentum"])))
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        else:
            scheduler.step()
    return path


@pytest.mark.parametrize("lr", [2.0**-6, torch.tensor(2.0**-6)], ids=["float", "tensor"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_schedulers_lead_asgc_as_they_lead_torch_optim(schedule: str, rule: str, lr: Any) -> None:
    """Without clip and noise the two are the same optimizer, so every step shows the rate it was made with."""
    cls, options = RULES[rule]
    nets = [model() for _ in range(3)]
    off = {"clip_factor": math.inf, "noise_scale": 0.0}
    opts = [
        cls(nets[0].parameters(), lr=copy.deepcopy(lr), foreach=False, **options),
        ASGC(nets[1].parameters(), copy.deepcopy(lr), rule=rule, implementation="cpu", **off, **options),
        wrap(cls(nets[2].parameters(), lr=copy.deepcopy(lr), foreach=False, **options), **off),
    ]
    paths = [scheduled(net, opt, SCHEDULERS[schedule](opt), range(10)) for net, opt in zip(nets, opts, strict=True)]
    assert paths[0] == paths[1] == paths[2]
    assert len(set(paths[0])) > 2
    if schedule in ("one-cycle", "cyclic"):
        assert len({momentum for _, momentum in paths[0]}) > 2
    for net in nets[1:]:
        for p, q in zip(nets[0].parameters(), net.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
    assert isinstance(opts[1].param_groups[0]["lr"], Tensor) == isinstance(lr, Tensor)


@EVERY
def test_a_schedule_goes_on_after_loading(name: str) -> None:
    def make() -> tuple[nn.Module, Any, Any]:
        net = model()
        opt = build(name, net.parameters())
        return net, opt, SCHEDULERS["one-cycle"](opt)

    net, opt, scheduler = make()
    scheduled(net, opt, scheduler, range(5))
    saved = copy.deepcopy([net.state_dict(), opt.state_dict(), scheduler.state_dict()])
    path = scheduled(net, opt, scheduler, range(5, 10))
    other_net, other_opt, other_scheduler = make()
    for thing, state in zip((other_net, other_opt, other_scheduler), saved, strict=True):
        thing.load_state_dict(state)
    assert scheduled(other_net, other_opt, other_scheduler, range(5, 10)) == path
    assert_same_bits([other_net.state_dict(), other_opt.state_dict()], [net.state_dict(), opt.state_dict()])


@EVERY
def test_weight_averaging(name: str) -> None:
    """AveragedModel (plain and exponential) and SWALR, saved and loaded on the way."""
    net = model()
    opt = build(name, net.parameters(), lr=0.02)
    first = loss_of(net).item()
    train(net, opt, 40)
    average = swa_utils.AveragedModel(net)
    moving = swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    scheduler = swa_utils.SWALR(opt, swa_lr=0.005, anneal_epochs=3)
    seen = []
    for epoch in range(5):
        train(net, opt, 4, start=40 + 4 * epoch)
        average.update_parameters(net)
        moving.update_parameters(net)
        seen.append([p.detach().clone() for p in net.parameters()])
        scheduler.step()
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))  # with the keys that SWALR has put into the groups
    assert opt.param_groups[0]["lr"] == pytest.approx(0.005)
    assert opt.param_groups[0]["swa_lr"] == 0.005
    for i, (p, q) in enumerate(zip(average.parameters(), moving.parameters(), strict=True)):
        assert torch.allclose(p, torch.stack([params[i] for params in seen]).mean(0), atol=1e-6)
        expected = seen[0][i]
        for params in seen[1:]:
            expected = 0.5 * expected + 0.5 * params[i]
        assert torch.allclose(q, expected, atol=1e-6)
    assert loss_of(average).item() < first / 4


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled_and_eager(name: str, backend: str, **options: Any) -> list[tuple[nn.Module, Any, list[float]]]:
    """12 steps of a train step with backward and opt.step() inside, under a schedule; compiled once, never again."""
    runs = []
    for compiled in (True, False):
        net = model()
        opt = build(name, net.parameters(), **options)
        scheduler = lr_scheduler.ExponentialLR(opt, 0.95)

        def step(x: Tensor, y: Tensor, net: nn.Module = net, opt: Any = opt) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            opt.step()
            return loss

        run = torch.compile(step, backend=backend) if compiled else step
        losses = []
        with torch._dynamo.config.patch(error_on_recompile=True):
            for t in range(12):
                losses.append(run(*batch(t)).item())
                scheduler.step()
        runs.append((net, opt, losses))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the model; nothing of the optimizer
    return runs


@EVERY
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_train_step_is_the_eager_one(name: str) -> None:
    compiled, eager = compiled_and_eager(name, "aot_eager")
    assert_same_bits([x.state_dict() for x in compiled[:2]], [x.state_dict() for x in eager[:2]])
    assert compiled[2] == eager[2]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_train_step_compiled_by_inductor() -> None:
    compiled, eager = compiled_and_eager("cpu", "inductor", lr=0.03)
    for p, q in zip(compiled[0].parameters(), eager[0].parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)
    assert_falls(compiled[2], 0.7)
