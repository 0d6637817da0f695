"""Evaluations and models with a moving average of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import rl.trainer
from evaluation.runs.weight_average import WeightAverage
from rl import load_agent, train
from tests.rl.algorithms import test_pqn
from tests.rl.catch import SIZE
from tests.rl.test_trainer import catch_config, numbers, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def averaged(history: list[Tensor], start: Tensor, decay: float) -> Tensor:
    """The definition, update by update, in float64."""
    average = start.double()
    for t, weight in enumerate(history):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weight.double()
    return average


def test_it_is_the_average_by_its_definition() -> None:
    network, generator = nn.BatchNorm1d(3), torch.Generator().manual_seed(0)
    start, history = network.weight.detach().clone(), []
    average = WeightAverage(network, decay=0.8)  # reached at update 35
    for k in range(60):
        with torch.no_grad():
            network.weight.add_(torch.randn(3, generator=generator))
            network.running_mean += 1
        history.append(network.weight.detach().clone())
        average.update()
        assert torch.allclose(average.network.weight.double(), averaged(history, start, 0.8), rtol=0, atol=1e-5), k
    assert not average.network.training
    assert not average.network.weight.requires_grad
    assert torch.equal(average.network.running_mean, torch.zeros(3))
    average.copy_buffers()
    assert torch.equal(average.network.running_mean, torch.full((3,), 60.0))


def test_updates_that_come_together_count_one_by_one() -> None:
    network = nn.Linear(2, 1)
    start = network.weight.detach().clone()
    average = WeightAverage(network, decay=0.7)
    history = []
    for count in (3, 1, 30, 5):
        with torch.no_grad():
            network.weight.add_(1.0)
        history += [network.weight.detach().clone()] * count
        average.update(count)
    assert torch.allclose(average.network.weight.double(), averaged(history, start, 0.7))


@pytest.mark.parametrize(
    ("make", "options", "together"),
    [
        (catch_config, {}, 1),
        (catch_config, {"cuda_graphs": "always"}, 2),  # the first alone, then the two of a step
        (test_pqn.catch_config, {"overlap": True}, 1),
    ],
    ids=["dqn", "graphs", "pqn"],
)
def test_it_is_what_evaluations_play_and_models_hold(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, options: dict[str, Any], together: int
) -> None:
    options = options | {"network": {"standardize": True}, "gradients": {"enabled": False}}
    train(make(tmp_path / "plain", **options))

    seen = np.random.default_rng(0).integers(0, 256, (256, 2, SIZE, SIZE), np.uint8)
    played, evaluate = [], rl.trainer.evaluate

    def looked_at(policy: Any, *args: Any, **kwargs: Any) -> Any:
        played.append(policy(seen, 0.0, np.random.default_rng(0)))
        return evaluate(policy, *args, **kwargs)

    monkeypatch.setattr(rl.trainer, "evaluate", looked_at)
    history: list[list[Tensor]] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        history.append([p.detach().clone() for p in optimizer.param_groups[0]["params"]])

    hooks = (
        register_optimizer_step_pre_hook(lambda *args: None if history else note(*args)),
        register_optimizer_step_post_hook(note),
    )
    try:
        train(make(tmp_path / "averaged", ema_decay=0.98, **options))
    finally:
        for hook in hooks:
            hook.remove()

    def losses(name: str) -> list[Any]:
        return [row for row in numbers(tmp_path / name) if row[2] == "train" and row[3] in ("loss", "q")]

    assert losses("plain") == losses("averaged") != []  # learning is the same
    online, model = weights(tmp_path / "plain"), weights(tmp_path / "averaged")
    parameters = [name for name in model if name not in ("offset", "scale")]
    start, *steps = history
    for k, name in enumerate(parameters):
        assert torch.equal(steps[-1][k], online[name])
        seen_weights = [steps[i + i % together][k] for i in range(len(steps))]
        expected = averaged(seen_weights, start[k], 0.98)
        assert torch.allclose(model[name].double(), expected, rtol=1e-4, atol=1e-5), name
    assert torch.equal(model["scale"], online["scale"])
    assert model["scale"] != 1 / 255
    agent, unaveraged = load_agent(tmp_path / "averaged"), load_agent(tmp_path / "plain")
    assert (agent.act(seen) == played[-1]).all()
    assert (unaveraged.act(seen) != played[-1]).any()
