"""Evaluations and models with a moving average of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.cli.errors import UserError
from evaluation.runs.weight_average import WeightAverage
from rl import load_agent, train
from rl.algorithms.algorithm import Learner
from rl.evaluate import evaluate
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
    network: Any = nn.BatchNorm1d(3)
    generator = torch.Generator().manual_seed(0)
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
    ("make", "options"),
    [(catch_config, {}), (catch_config, {"cuda_graphs": "always"}), (test_pqn.catch_config, {"overlap": True})],
    ids=["dqn", "graphs", "pqn"],
)
def test_it_is_what_evaluations_play_and_models_hold(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, options: dict[str, Any]
) -> None:
    options = options | {"network": {"standardize": True}}
    seen = np.random.default_rng(0).integers(0, 256, (256, 2, SIZE, SIZE), np.uint8)
    played = []

    def looked_at(policy: Any, *args: Any, **kwargs: Any) -> Any:
        learner = policy.__self__._learner  # the audit's, which every policy goes through while gradients are recorded
        played.append(learner.act(seen, 0.0, np.random.default_rng(0)))
        assert not learner.network.training
        return evaluate(policy, *args, **kwargs)

    monkeypatch.setattr("rl.trainer.evaluate", looked_at)
    train(make(tmp_path / "plain", ema_decay=None, **options))
    history: list[list[Tensor]] = []  # the parameters after each update, as far as they can be seen
    updated = Learner.updated

    def note(self: Learner, count: int) -> None:
        weights = [parameter.detach().clone() for parameter in self.network.parameters()]
        history.extend([weights] * count)
        updated(self, count)

    monkeypatch.setattr(Learner, "updated", note)
    config = make(tmp_path / "averaged", ema_decay=0.98, **options)
    train(config)

    def losses(name: str) -> list[Any]:
        return [row for row in numbers(tmp_path / name) if row[2] == "train" and row[3] in ("loss", "q")]

    assert losses("plain") == losses("averaged") != []  # learning is the same
    online, model = weights(tmp_path / "plain"), weights(tmp_path / "averaged")
    parameters = [name for name in model if name not in ("offset", "scale")]
    last = numbers(tmp_path / "averaged")[-1]
    batch = config.batch_size if config.algorithm == "dqn" else config.rollout // config.pqn.minibatches
    assert len(history) * batch == last[1]  # samples
    for k, name in enumerate(parameters):
        assert torch.equal(history[-1][k], online[name])
        expected = averaged([weights[k] for weights in history], torch.zeros_like(history[0][k]), 0.98)
        assert torch.allclose(model[name].double(), expected, rtol=1e-4, atol=1e-5), name
    assert torch.equal(model["scale"], online["scale"])
    assert model["scale"] != 1 / 255
    agent, unaveraged = load_agent(tmp_path / "averaged"), load_agent(tmp_path / "plain")
    assert (agent.act(seen) == played[-1]).all()
    assert (unaveraged.act(seen) != played[-1]).any()


def test_it_begins_anew_with_another_game(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    average = WeightAverage(network, decay=0.9)
    average.update(50)
    with torch.no_grad():
        network.weight.fill_(7.0)
    average.restart()
    assert torch.equal(average.network.weight, network.weight)
    start = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.fill_(8.0)
    average.update()
    assert torch.allclose(average.network.weight.double(), averaged([network.weight.detach()], start, 0.9))


class Uncopied(nn.Module):
    """Cannot be copied: torch's older weight norm keeps a tensor that is no parameter."""

    def __init__(self, observation: Any, num_actions: int, config: Any) -> None:
        super().__init__()
        layer = nn.Linear(2 * SIZE * SIZE, num_actions)
        self.layers = nn.Sequential(nn.Flatten(), layer)
        self.kept = layer.weight * 1.0

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


def test_a_network_of_ones_own_that_cannot_be_copied_is_refused_before_the_run(catch: None, tmp_path: Path) -> None:
    own = {"cls": f"{__name__}:Uncopied", "standardize": False}
    with pytest.raises(UserError, match=r"--ema-decay: copying the network of --network\.cls .*deepcopy"):
        train(catch_config(tmp_path / "run", network=own, ema_decay=0.9))
    assert not (tmp_path / "run").exists()
