"""Which implementation steps: chosen once, kept in the state, refused or replaced with a word."""

import copy
import logging
from typing import Any

import pytest
import torch

import asgc.implementations.cpu
import asgc.implementations.foreach
import asgc.optimizer
from asgc import ASGC
from asgc.implementations import reference


class Recorder:
    """Stands for the module of an implementation: serves layer granularity only, and counts its steps."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason, self.steps = reason, 0

    def unsupported(self, opt: ASGC) -> str | None:
        if any(group["granularity"] == "unit" for group in opt.param_groups):
            return "granularity='unit'"
        return self.reason

    def step(self, opt: ASGC) -> None:
        self.steps += 1
        reference.step(opt)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    recorders = {"cpu": Recorder(), "foreach": Recorder()}
    for name, recorder in recorders.items():
        for attribute in ("unsupported", "step"):
            monkeypatch.setattr(getattr(asgc.implementations, name), attribute, getattr(recorder, attribute))
    asgc.optimizer._say.cache_clear()
    return recorders


def step(opt: ASGC) -> None:
    for group in opt.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    opt.step()


def chosen(opt: ASGC) -> set[str]:
    return {group["implementation"] for group in opt.param_groups}


def test_auto_prefers_cpu_and_keeps_it_in_the_state(modules: dict[str, Recorder]) -> None:
    opt = ASGC([torch.zeros(2)], 0.1)
    assert chosen(opt) == {"auto"}
    step(opt)
    assert chosen(opt) == {"cpu"}
    opt.add_param_group({"params": torch.zeros(3)})
    step(opt)
    assert chosen(opt) == {"cpu"}
    assert modules["cpu"].steps == 2
    other = ASGC([torch.zeros(2)], 0.1, implementation="reference")
    other.add_param_group({"params": torch.zeros(3)})
    other.load_state_dict(opt.state_dict())
    step(copy.deepcopy(other))
    assert modules["cpu"].steps == 3


def test_auto_falls_back_and_says_so_once(modules: dict[str, Recorder], caplog: pytest.LogCaptureFixture) -> None:
    modules["cpu"].reason = "no C++ compiler"
    with caplog.at_level(logging.WARNING, "asgc"):
        for _ in range(2):
            opt = ASGC([torch.zeros(2)], 0.1)
            step(opt)
            step(opt)
    assert chosen(opt) == {"foreach"}
    assert modules["foreach"].steps == 4
    assert len(caplog.records) == 1
    assert "foreach" in caplog.text
    assert "no C++ compiler" in caplog.text
    modules["foreach"].reason = "no"
    opt = ASGC([torch.zeros(2)], 0.1)
    step(opt)
    assert chosen(opt) == {"reference"}


@pytest.mark.parametrize("name", ["cpu", "foreach"])
def test_an_unsupported_choice_is_refused(modules: dict[str, Recorder], name: str) -> None:
    with pytest.raises(ValueError, match=f"implementation='{name}' cannot be used: granularity='unit'"):
        ASGC([torch.zeros(2)], 0.1, implementation=name, granularity="unit")
    opt = ASGC([torch.zeros(2)], 0.1, implementation=name)
    with pytest.raises(ValueError, match="cannot be used"):
        opt.add_param_group({"params": torch.zeros(3), "granularity": "unit"})
    assert len(opt.param_groups) == 1
    step(opt)
    assert modules[name].steps == 1


def test_auto_moves_on_where_its_choice_stops_to_serve(
    modules: dict[str, Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    opt = ASGC([torch.zeros(2)], 0.1)
    step(opt)
    with caplog.at_level(logging.WARNING, "asgc"):
        opt.add_param_group({"params": torch.zeros(3, 2), "granularity": "unit"})
    step(opt)
    assert chosen(opt) == {"reference"}
    assert "goes on with the reference implementation, no longer cpu" in caplog.text
    assert opt.state[opt.param_groups[0]["params"][0]]["noise_step"] == 2


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_nonfinite_policies_hold_for_every_implementation(modules: dict[str, Recorder], policy: str) -> None:
    p = torch.zeros(2)
    opt: Any = ASGC([p], 0.1, implementation="cpu", nonfinite=policy)
    p.grad = torch.tensor([1.0, float("inf")])
    if policy == "raise":
        with pytest.raises(RuntimeError, match="non-finite"):
            opt.step()
    else:
        opt.step()
        assert opt.diagnostics()[0]["nonfinite"] == 1
    assert modules["cpu"].steps == 0
