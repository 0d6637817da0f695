"""Saved by torch.distributed.checkpoint on two ranks, resumed on three and on one: as the uninterrupted run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from asgc import ASGC
from asgc.gradient_statistics import ATTENUATION, CLIPPED
from tests.asgc.implementations.ranks import Checks
from tests.asgc.implementations.shards import near, whole

CASES: dict[str, dict[str, Any]] = {
    "adam": {"rule": "adam", "noise_decay": 0.3},
    "sgd by unit": {"rule": "sgd", "momentum": 0.9, "dampening": 0.1, "mode": "value", "granularity": "unit"},
    "flat": {"rule": "rmsprop", "centered": True},
}
HALF, END = 4, 7


def make(case: str, shard: bool) -> tuple[nn.Module, ASGC]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
    if shard:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, ASGC(model.parameters(), 1e-2, noise_scale=0.3, **CASES[case])


def train(model: nn.Module, opt: ASGC, start: int, stop: int) -> None:
    """The same batch on every rank: the mean over ranks is each rank's gradient."""
    for step in range(start, stop):
        opt.zero_grad()
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)) * (20 if step == 5 else 1)
        model(x).square().sum().backward()
        opt.step()


def everything(model: nn.Module, opt: ASGC) -> dict[str, Tensor]:
    """Whole tensors by name."""
    found = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for key, value in opt.state[p].items():
            found[f"{name}.{key}"] = whole(torch.as_tensor(value)).clone()
    return found


def state(case: str, model: nn.Module, opt: ASGC) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, opt, options=how(case)),
    }


def how(case: str) -> StateDictOptions:
    return StateDictOptions(flatten_optimizer_state_dict=case == "flat")


def save(case: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        model, opt = make(case, shard=True)
        train(model, opt, 0, HALF)
        dcp.save(state(case, model, opt), checkpoint_id=folder / case)
        train(model, opt, HALF, END)
        found = everything(model, opt)
        if dist.get_rank() == 0:
            torch.save(found, folder / f"{case}.pt")

    return check


def resume(case: str, shard: bool) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        model, opt = make(case, shard)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(7.0)
        loaded = state(case, model, opt)
        dcp.load(loaded, checkpoint_id=folder / case, no_dist=not shard)
        set_model_state_dict(model, loaded["model"])
        set_optimizer_state_dict(model, opt, loaded["optimizer"], options=how(case))
        assert {int(s["noise_step"]) for s in opt.state.values()} == {HALF}
        assert [s["layer"] for s in opt.state.values()] == [0, 1, 2, 3]
        train(model, opt, HALF, END)
        expected, found = torch.load(folder / f"{case}.pt"), everything(model, opt)
        assert set(found) == set(expected)
        for name, value in expected.items():
            if name.endswith(".stats"):  # the figures of a sharded layer are one step old
                rows = [row for row in range(len(value)) if row not in (CLIPPED, ATTENUATION)]
                torch.testing.assert_close(found[name][rows], value[rows], rtol=1e-4, atol=1e-5)
            near(found[name], value, 1e-5 if not name.endswith(".stats") else 1.0, name)
        assert ("sharded" in opt.param_groups[0]["implementation"]) == shard

    return check


SAVED: Checks = {f"saved, {case}": save(case) for case in CASES}
ON_THREE: Checks = {f"resumed on three, {case}": resume(case, shard=True) for case in CASES}
ON_ONE: Checks = {f"resumed on one, {case}": resume(case, shard=False) for case in CASES}
