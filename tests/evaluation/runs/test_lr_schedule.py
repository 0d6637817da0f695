"""Learning rates over a run, in front of every optimizer of the registry."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

from asgc import optimizers
from evaluation.runs.lr_schedule import SCHEDULES, LRSchedule, LRScheduleConfig

LR, UPDATES = 0.02, 8
LINEAR = LRScheduleConfig(name="linear", end_factor=0.25)
# All schedules, and after how many of the 8 updates the warm-up ends.
EVERY = [
    LRScheduleConfig(name=name, end_factor=0.25, milestones=[0.25, 0.7], decay=0.5, warmup=warmup)  # type: ignore[arg-type]
    for name in SCHEDULES
    for warmup in (0, 3)
    if (name, warmup) != ("constant", 0)
]


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


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{config.name}-{config.warmup}")
def test_rates_are_those_of_the_formulas(config: LRScheduleConfig) -> None:
    """And stay where they are after the run's end: a cosine does not rise again."""
    weight, optimizer, schedule = start("adam", config)
    rates = [update(weight, optimizer, schedule, number) for number in range(UPDATES + 3)]
    for number, rate in enumerate(rates):
        if number < config.warmup:
            assert rate == pytest.approx(LR * (number + 1) / 3)
            continue
        x = min((number - config.warmup) / (UPDATES - config.warmup), 1)
        expected = {
            "constant": 1.0,
            "linear": 1 - 0.75 * x,
            "cosine": 0.25 + 0.75 * 0.5 * (1 + math.cos(x * math.pi)),
            "exponential": math.exp(x * math.log(0.25)),
            "step": 1.0 if x < 0.25 else 0.5 if x < 0.7 else 0.25,
        }
        assert rate == pytest.approx(LR * expected[config.name])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("linear", lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.25, UPDATES)),
        ("cosine", lambda opt: lr_scheduler.CosineAnnealingLR(opt, UPDATES, eta_min=LR / 4)),
        ("exponential", lambda opt: lr_scheduler.ExponentialLR(opt, 0.25 ** (1 / UPDATES))),
        ("step", lambda opt: lr_scheduler.MultiStepLR(opt, [2, 6], gamma=0.5)),  # 6: the first update past 0.7
    ],
)
def test_rates_are_those_of_torchs_schedulers(
    name: str, theirs: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
) -> None:
    config = next(one for one in EVERY if one.name == name and not one.warmup)
    _, optimizer, schedule = start("sgd", config)
    other = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=LR)
    scheduler = theirs(other)
    for _ in range(UPDATES):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
        optimizer.step()
        other.step()
        schedule.step()
        scheduler.step()


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{config.name}-{config.warmup}")
@pytest.mark.parametrize("stop", [2, 5, UPDATES + 1])
def test_every_schedule_resumes_bit_for_bit(config: LRScheduleConfig, stop: int) -> None:
    weight, optimizer, schedule = start("asgc", config)
    for number in range(stop):
        update(weight, optimizer, schedule, number)
    states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    again, resumed, its_schedule = start("asgc", config)
    resumed.load_state_dict(states[0])
    its_schedule.load_state_dict(states[1])
    for number in range(stop, UPDATES + 2):
        assert update(weight, optimizer, schedule, number) == update(again, resumed, its_schedule, number)


def test_a_linear_schedule_of_an_earlier_version_goes_on() -> None:
    """Its state was LinearLR's."""
    weight, optimizer, schedule = start("adam", LINEAR)
    before = torch.optim.Adam([torch.ones(1, requires_grad=True)], lr=LR)
    theirs = lr_scheduler.LinearLR(before, 1.0, 0.25, UPDATES)
    for number in range(3):
        update(weight, optimizer, schedule, number)
        before.step()
        theirs.step()
    again, resumed, its_schedule = start("adam", LINEAR)
    resumed.load_state_dict(optimizer.state_dict())
    its_schedule.load_state_dict(theirs.state_dict())
    for number in range(3, UPDATES):
        assert update(weight, optimizer, schedule, number) == update(again, resumed, its_schedule, number)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (LRScheduleConfig(name="exponential"), "--lr-schedule.end-factor 0: must be above 0"),
        (LRScheduleConfig(name="step", milestones=[0.7, 0.2]), "--lr-schedule.milestones 0.7,0.2: must rise"),
        (LRScheduleConfig(name="step", milestones=[0.5, 0.5]), "--lr-schedule.milestones 0.5,0.5: must rise"),
    ],
)
def test_what_makes_no_schedule_is_named(config: LRScheduleConfig, fault: str) -> None:
    assert fault in next(config.faults())
    assert not any(list(one.faults()) for one in (*EVERY, LRScheduleConfig()))


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
