"""Learning rates over a run, in front of every optimizer of the registry."""

from __future__ import annotations

import copy

import pytest
import torch

from asgc import optimizers
from evaluation.runs.lr_schedule import SCHEDULES, LRSchedule, LRScheduleConfig

LR, UPDATES = 0.02, 8
LINEAR = LRScheduleConfig(name="linear", end_factor=0.25)


def start(name: str, config: LRScheduleConfig) -> tuple[torch.Tensor, torch.optim.Optimizer, LRSchedule]:
    weight = torch.ones(6, requires_grad=True)
    optimizer = optimizers.build(name, [weight], lr=LR)
    return weight, optimizer, LRSchedule(optimizer, config, UPDATES)


def update(weight: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: LRSchedule, number: int) -> float:
    """One update; returns the rate that it was made with."""
    rate = float(optimizer.param_groups[0]["lr"])
    weight.grad = torch.linspace(-1, 1 + number, 6)
    optimizer.step()
    schedule.step()
    return rate


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_steps_at_the_rates_of_the_schedule(name: str) -> None:
    weight, optimizer, schedule = start(name, LINEAR)
    rates = [update(weight, optimizer, schedule, number) for number in range(UPDATES + 3)]
    expected = [LR * (1 - 0.75 * min(number / UPDATES, 1)) for number in range(UPDATES + 3)]
    assert rates == pytest.approx(expected)
    assert schedule.values() == {"lr": pytest.approx(LR / 4)}


@pytest.mark.parametrize("name", optimizers.names())
@pytest.mark.parametrize("stop", [0, 3, UPDATES + 1])
def test_a_resumed_schedule_is_the_uninterrupted_one_bit_for_bit(name: str, stop: int) -> None:
    weight, optimizer, schedule = start(name, LINEAR)
    for number in range(stop):
        update(weight, optimizer, schedule, number)
    states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    again, resumed, its_schedule = start(name, LINEAR)
    again.data.copy_(weight)
    resumed.load_state_dict(states[0])
    its_schedule.load_state_dict(states[1])
    for number in range(stop, UPDATES + 2):
        one, other = update(weight, optimizer, schedule, number), update(again, resumed, its_schedule, number)
        assert one == other
        assert torch.equal(weight, again)


def test_a_constant_rate_is_left_alone_and_not_logged() -> None:
    weight, optimizer, schedule = start("asgc", LRScheduleConfig())
    assert [update(weight, optimizer, schedule, number) for number in range(3)] == [LR] * 3
    assert (schedule.values(), schedule.state_dict()) == ({}, {})


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("updates", [0, 1])
def test_a_run_without_updates_has_a_schedule_too(name: str, updates: int) -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = optimizers.build("adam", [weight], lr=LR)
    LRSchedule(optimizer, LRScheduleConfig(name=name, end_factor=0.0), updates)  # type: ignore[arg-type]
    assert optimizer.param_groups[0]["lr"] == LR
