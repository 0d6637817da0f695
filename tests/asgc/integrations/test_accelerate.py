"""ASGC under Hugging Face Accelerate: small real runs on one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from tests.asgc.implementations.small_run import OPTIMIZERS, assert_falls, assert_same_bits, batch, build, model


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerator settings are shared by the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Training:
    def __init__(self, name: str, accelerator: Accelerator, lr: float = 2.0**-6) -> None:
        net = model()
        opt = build(name, net.parameters(), lr=lr)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.99)
        self.accelerator, self.time = accelerator, 0
        self.losses: list[float] = []
        self.net, self.opt, self.scheduler = accelerator.prepare(net, opt, scheduler)

    def steps(self, count: int) -> None:
        for _ in range(count):
            x, y = batch(self.time)
            with self.accelerator.accumulate(self.net), self.accelerator.autocast():
                loss = nn.functional.mse_loss(self.net(x), y)
                self.accelerator.backward(loss)
                self.opt.step()
                self.scheduler.step()
                self.opt.zero_grad()
            self.time += 1
            self.losses.append(loss.item())

    def state(self) -> list[Any]:
        return [self.net.state_dict(), self.opt.state_dict()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulation_is_the_same_as_in_a_plain_loop(name: str) -> None:
    training = Training(name, Accelerator(cpu=True, gradient_accumulation_steps=2))
    training.steps(12)
    net = model()
    opt = build(name, net.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.99)
    for t in range(12):
        x, y = batch(t)
        (nn.functional.mse_loss(net(x), y) / 2).backward()
        if t % 2:
            opt.step()
            scheduler.step()
            opt.zero_grad()
    assert_same_bits(training.state(), [net.state_dict(), opt.state_dict()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_save_state_and_load_state_to_the_last_bit(name: str, tmp_path: Path) -> None:
    training = Training(name, Accelerator(cpu=True))
    training.steps(4)
    training.accelerator.save_state(str(tmp_path))
    training.steps(4)
    after = training.state()
    AcceleratorState._reset_state(reset_partial_state=True)
    other = Training(name, Accelerator(cpu=True))
    other.accelerator.load_state(str(tmp_path))
    other.time = 4
    other.steps(4)
    assert_same_bits(other.state(), after)


def test_bf16() -> None:
    training = Training("cpu", Accelerator(cpu=True, mixed_precision="bf16"), lr=0.02)
    training.steps(100)
    assert_falls(training.losses)
