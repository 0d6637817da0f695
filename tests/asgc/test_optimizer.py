"""ASGC as a torch optimizer: groups, closures, schedulers, hooks, special tensors, shifts, diagnostics."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asgc import ASGC

REFERENCE = {"implementation": "reference"}


def train(params: list[Tensor], opt: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        opt.step()


def test_groups_override_every_option_and_resolve_defaults() -> None:
    a, b, c = (torch.zeros(3) for _ in range(3))
    groups: list[dict[str, Any]] = [
        {"params": [a]},
        {"params": [b], "mode": "value", "lr": 0.5, "noise_scale": 0.0, "betas": (0.5, 0.6), "label": "head"},
        {"params": c, "rule": "sgd", "momentum": 0.9},
    ]
    opt = ASGC(groups, 0.1, clip_sharpness=2.0, weight_decay=0.3, **REFERENCE)
    first, second, third = opt.param_groups
    assert (first["clip_factor"], second["clip_factor"], third["clip_factor"]) == (2, 3, 2)
    assert (first["outlier_share"], third["outlier_share"]) == (0.25, 0.9)
    assert (second["lr"], second["betas"], second["weight_decay"], second["label"]) == (0.5, (0.5, 0.6), 0.3, "head")
    assert third["momentum"] == 0.9
    assert third["weight_decay"] == 0  # rule options are those of the group's own rule
    assert "betas" not in third
    assert "clip_factor" not in groups[1]  # the caller's dict is not touched
    train([a, b, c], opt, 3)
    assert set(opt.state[c]) == {"layer", "noise_step", "step", "stats", "momentum_buffer"}
    assert "exp_avg" in opt.state[b]


def test_layer_numbers_continue_over_groups() -> None:
    params = [torch.zeros(2) for _ in range(4)]
    opt = ASGC([{"params": params[:2]}, {"params": params[2]}], 0.1, **REFERENCE)
    opt.add_param_group({"params": [params[3]], "lr": 1.0})
    assert [opt.layer_number(p) for p in params] == [0, 1, 2, 3]
    train(params[2:], opt, 1)
    assert not opt.state.get(params[0])  # torch.distributed.checkpoint takes an empty state for one yet to be made
    opt.state.clear()  # as some trainers do to reset moments
    train(params, opt, 1)
    assert [opt.state[p]["layer"] for p in params] == [0, 1, 2, 3]


def test_parameters_without_gradient_are_left_alone() -> None:
    a, b = torch.ones(2), torch.ones(2)
    opt = ASGC([a, b], 0.1, **REFERENCE)
    train([a], opt, 3)
    assert torch.equal(b, torch.ones(2))
    assert b not in opt.state
    train([b], opt, 1)
    assert (opt.state[a]["noise_step"], opt.state[b]["noise_step"]) == (4, 1)


def test_closure_is_evaluated_once_and_first() -> None:
    p = torch.ones(2, requires_grad=True)
    opt = ASGC([p], 0.1, **REFERENCE)
    calls = []

    def closure() -> float:
        calls.append(p.detach().clone())
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert opt.step(closure) == 2
    assert len(calls) == 1
    assert torch.equal(calls[0], torch.ones(2))
    assert not torch.equal(p.detach(), calls[0])


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_schedulers(lr: Any) -> None:
    p = torch.zeros(1000)
    opt = ASGC([p], lr, rule="sgd", noise_scale=0.0, clip_factor=math.inf, **REFERENCE)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    for factor in (0.1, 0.05, 0.025):
        before = p.clone()
        p.grad = torch.ones(1000)
        opt.step()
        assert torch.allclose(before - p, torch.full((1000,), factor))
        scheduler.step()
    opt = ASGC([p], 0.1, **REFERENCE)
    torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1.0, total_steps=10)
    assert opt.param_groups[0]["betas"][0] != 0.9  # momentum is cycled as with torch's own


def test_hooks_run() -> None:
    p = torch.zeros(2)
    opt = ASGC([p], 0.1, **REFERENCE)
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))
    train([p], opt, 1)
    assert seen == ["before", "after"]


def test_grad_scaler_skips_the_whole_step() -> None:
    p = torch.ones(4, requires_grad=True)
    opt = ASGC([p], 0.1, **REFERENCE)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for factor, moved in ((1.0, True), (math.inf, False), (1.0, True)):
        before = p.detach().clone()
        opt.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(opt)
        scaler.update()
        assert (not torch.equal(before, p.detach())) == moved
    assert opt.state[p]["noise_step"] == 2
    assert opt.state[p]["stats"][5].item() == 0


@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_empty_scalar_zero_and_channels_last(rule: str, mode: str, granularity: str) -> None:
    last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    params = [torch.zeros(0), torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(()), last, torch.ones(3, 2)]
    opt = ASGC(params, 0.01, rule=rule, mode=mode, granularity=granularity, **REFERENCE)
    plain = last.contiguous()
    twin = ASGC(
        [torch.zeros(1) for _ in range(4)] + [plain], 0.01, rule=rule, mode=mode, granularity=granularity, **REFERENCE
    )
    train([last], opt, 5)
    train([plain], twin, 5)
    assert torch.allclose(last, plain, atol=1e-6)
    assert last.is_contiguous(memory_format=torch.channels_last)
    train(params[:4], opt, 3)
    assert all(torch.isfinite(p).all() for p in params)
    assert params[3].abs() > 0
    params[5].grad = torch.zeros(3, 2)
    opt.step()
    assert opt.state[params[5]]["stats"][:6].abs().sum() == 0  # a zero gradient teaches nothing
    assert torch.equal(params[5], torch.ones(3, 2)) or rule == "adamw"


@pytest.mark.parametrize("rule", ["sgd", "adam", "rmsprop", "adagrad"])
def test_bf16_parameters_keep_fp32_state_and_update_in_fp32(rule: str) -> None:
    start = torch.randn(64).bfloat16()
    low, high = start.clone(), start.float()
    momentum = {"momentum": 0.9} if rule == "sgd" else {}
    opts = [ASGC([p], 0.01, rule=rule, **momentum, **REFERENCE) for p in (low, high)]
    grad = torch.randn(64).bfloat16()
    for p, opt in zip((low, high), opts, strict=True):
        p.grad = grad.to(p.dtype)
        opt.step()
    assert torch.equal(low, high.bfloat16())
    for name, value in opts[0].state[low].items():
        if isinstance(value, Tensor) and name != "noise_step":
            assert value.dtype == torch.float32
            assert torch.equal(value, opts[1].state[high][name])


def test_shift() -> None:
    def stepped(rule: str, on_shift: str, **options: Any) -> tuple[ASGC, Tensor, dict[str, Any]]:
        p = torch.zeros(8)
        opt = ASGC([p], 0.1, rule=rule, on_shift=on_shift, **options, **REFERENCE)
        opt.shift()  # before the first step: nothing to do
        train([p], opt, 30)
        before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in opt.state[p].items()}
        opt.shift()
        return opt, p, before

    for on_shift in ("none", "rewarm", "adam-rel", "reset"):
        opt, p, before = stepped("adam", on_shift)
        state = opt.state[p]
        assert state["noise_step"] == 30
        assert state["stats"][0] == (10 if on_shift == "rewarm" else 30)
        assert torch.equal(state["stats"][1:], before["stats"][1:])
        assert state["step"] == (0 if on_shift in ("adam-rel", "reset") else 30)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name], torch.zeros(8) if on_shift == "reset" else before[name])
        train([p], opt, 1)
        assert state["noise_step"] == 31

    opt, p, _ = stepped("adagrad", "reset", initial_accumulator_value=0.5)
    assert torch.equal(opt.state[p]["sum"], torch.full((8,), 0.5))
    opt, p, _ = stepped("sgd", "reset", momentum=0.9, dampening=0.5)
    assert "momentum_buffer" not in opt.state[p]
    train([p], opt, 1)  # and the first step fills it again, without dampening
    assert "momentum_buffer" in opt.state[p]


def test_diagnostics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 1, bias=False))
    opt = ASGC(
        model.named_parameters(), 0.1, mode="value", clip_factor=1.0, noise_scale=0.2, noise_decay=1.0, **REFERENCE
    )
    assert opt.diagnostics() == []
    for _ in range(4):
        for p in model.parameters():
            p.grad = 3 + 2 * torch.randn_like(p)
        opt.step()
    model[0].bias.grad = None
    for p in (model[0].weight, model[1].weight):
        p.grad = torch.full_like(p, math.nan)
    opt.step()
    first, second, third = opt.diagnostics()
    assert [d["name"] for d in (first, second, third)] == ["0.weight", "0.bias", "1.weight"]
    assert [d["layer"] for d in (first, second, third)] == [0, 1, 2]
    assert [d["nonfinite"] for d in (first, second, third)] == [1, 0, 1]
    assert first["noise_scale"] == pytest.approx(0.2 * 5**-0.5)
    assert second["noise_scale"] == pytest.approx(0.2 * 4**-0.5)
    assert first["noise_std"] == third["noise_std"] == 0  # a gradient that is not finite gets none
    assert 0 < second["noise_std"] <= second["noise_scale"] * second["std"] * 1.5
    assert 1 < first["mean"] < 4
    assert first["threshold"] == pytest.approx(abs(first["mean"]) + first["std"], rel=1e-5)
    assert 0 < second["clipped"] < 1
    assert 0.5 < second["attenuation"] < 1
    assert first["attenuation"] == 1  # nothing was left to attenuate
    unit = ASGC([torch.zeros(3, 4)], 0.1, granularity="unit", **REFERENCE)
    train(unit.param_groups[0]["params"], unit, 2)
    assert unit.diagnostics()[0]["units"] == 3
    assert unit.diagnostics()[0]["name"] == "group 0, parameter 0 (shape (3, 4))"


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(256, 4)
    y = x.prod(1, keepdim=True).tanh()
    opt = ASGC(model.parameters(), 3e-3, **REFERENCE)
    losses = []
    for _ in range(300):
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
