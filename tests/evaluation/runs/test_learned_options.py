"""A preset in a trainer: whose options its optimizer has, how they change over a run, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asgc import ASGC
from asgc.meta import KINDS, Preset
from asgc.meta.preset import KIND
from evaluation.cli.optimizer_group import OptimizerConfig
from evaluation.runs.lr_schedule import LRSchedule, LRScheduleConfig
from evaluation.runs.make_optimizer import make_optimizer, trained

START = {kind: {"clip_factor": 1.0 + k, "noise_scale": 0.1} for k, kind in enumerate(KINDS)}
END = {kind: {"clip_factor": 4.0 + k, "noise_scale": 0.1} for k, kind in enumerate(KINDS)}


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.output = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.hidden(self.embedding(x)))


def config(learned: Preset, folder: Path, **options: Any) -> Any:
    learned.save(folder / "learned.json")
    group = OptimizerConfig()
    for name, value in {"name": "asgc", "preset": str(folder / "learned.json"), **options}.items():
        setattr(group, name, value)
    return group


def test_a_trainers_optimizer_has_the_options_of_each_kind_of_layer(tmp_path: Path) -> None:
    group, model = config(Preset("learned", "sgd", {"momentum": 0.9}, START), tmp_path), Words()
    assert list(group.faults()) == []
    opt = make_optimizer(group, 3, trained(group, model))
    assert isinstance(opt, ASGC)
    found = {one[KIND]: one for one in opt.param_groups}
    assert {kind: one["clip_factor"] for kind, one in found.items()} == {k: v["clip_factor"] for k, v in START.items()}
    assert found["embeddings"]["params"] == [model.embedding.weight]
    assert all((one["momentum"], one["rule"]) == (0.9, "sgd") for one in opt.param_groups)
    assert found["head"]["seed"] != 0  # the run's own noise
    assert trained(config(Preset("learned", "sgd", {}, START), tmp_path, preset=None), model) == [*model.parameters()]


def test_options_follow_the_share_that_is_done_also_over_a_restart(tmp_path: Path) -> None:
    group = config(Preset("learned", "adam", {}, START, END), tmp_path)

    def begin() -> tuple[nn.Module, ASGC, LRSchedule]:
        torch.manual_seed(0)
        model = Words()
        opt = make_optimizer(group, 3, trained(group, model))
        assert isinstance(opt, ASGC)
        return model, opt, LRSchedule(opt, LRScheduleConfig("linear"), 10)

    def learn(model: nn.Module, opt: ASGC, schedule: LRSchedule, updates: range) -> list[float]:
        factors = []
        for update in updates:
            opt.zero_grad()
            model(torch.tensor([update % 5])).square().sum().backward()
            factors.append(opt.param_groups[0]["clip_factor"])
            opt.step()
            schedule.step()
        return factors

    whole, half, other = begin(), begin(), begin()
    factors = learn(*whole, range(10))
    assert factors == sorted(factors)
    assert factors[0] == START["embeddings"]["clip_factor"]
    assert whole[1].param_groups[0]["clip_factor"] == END["embeddings"]["clip_factor"]
    first = learn(*half, range(4))
    other[0].load_state_dict(half[0].state_dict())
    other[1].load_state_dict(half[1].state_dict())
    other[2].load_state_dict(half[2].state_dict())
    assert first + learn(*other, range(4, 10)) == factors
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), other[0].parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"name": "adam"}, "--optimizer.preset: adam takes none; asgc, asgc-clip and asgc-noise do"),
        ({"preset": "nothing.json"}, "--optimizer.preset: no preset 'nothing.json'"),
        ({"rule": "adam"}, "--optimizer.rule adam: preset learned was learned with rule sgd"),
        ({"betas": (0.9, 0.99)}, "--optimizer.betas: asgc with rule 'sgd' has no such option"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, options: dict[str, Any], fault: str) -> None:
    group = config(Preset("learned", "sgd", {}, START), tmp_path, **options)
    assert fault in "\n".join(group.faults())


def test_a_layer_that_names_another_optimizer_drops_the_preset(tmp_path: Path) -> None:
    group = config(Preset("learned", "adam", {}, START), tmp_path)
    group.prepare({"name": "asgc-clip"})
    assert group.preset is not None
    group.prepare({"name": "adam"})
    assert group.preset is None


def test_a_preset_brings_its_rate_and_takes_back_what_layers_below_had_set(tmp_path: Path) -> None:
    group = config(Preset("learned", "sgd", {"momentum": 0.9}, START, lr=0.05), tmp_path, preset=None, eps=1e-4, lr=3.0)
    layer = {"preset": str(tmp_path / "learned.json")}
    group.prepare(layer)
    assert (group.lr, group.eps) == (0.05, None)
    group.preset = layer["preset"]
    assert list(group.faults()) == []
    assert group.effective() == {"rule": "sgd", "momentum": 0.9, "clip_factor": 4.0, "noise_scale": 0.1}
