"""Rainbow's parts in DQN's update, against the update written out with the noise's seeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.runs.seeding import derive
from rl.algorithms.dqn import QLearner
from rl.algorithms.pathologies import greedy_actions, hidden_outputs
from rl.config import OptimizerConfig, TrainConfig
from rl.networks import Network
from rl.noisy import NoisyLinear
from rl.option_groups import HeadConfig, NetworkConfig
from rl.replay.ring import Batch
from rl.tasks import EnvConfig, ObservationSpec
from tests.rl.algorithms.test_dqn import ACTIONS, batch

SEED, ENVS = 5, 3
C51 = HeadConfig(name="c51", atoms=7, v_min=-2.0, v_max=4.0)


def make(network: dict[str, Any] | None = None, **options: Any) -> QLearner:
    """A learner of frames (2, 16, 16) whose target network is not the online one."""
    torch.manual_seed(0)
    config = TrainConfig(
        seed=SEED,
        env=EnvConfig(num_envs=ENVS),
        network=NetworkConfig(channels=[4], kernels=[4], strides=[4], hidden=16, **(network or {})),
        **({"optimizer": OptimizerConfig(name="sgd", lr=0.1), "precision": "fp32"} | options),
    )
    learner = QLearner(config, ACTIONS, ObservationSpec((2, 16, 16), np.uint8), torch.device("cpu"))
    for parameter in learner.target_network.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return learner


class Gaussians:
    """What the generator of one use of a network gives."""

    def __init__(self, use: str, samples: int = 1) -> None:
        self.generator, self.samples = torch.Generator().manual_seed(derive(SEED, "noise", use)), samples

    def output(self, network: Network, observation: Tensor) -> Tensor:
        """Of a network with one noisy hidden layer and a noisy output, from new weights of each sample."""
        hidden, last = (module for module in network.modules() if isinstance(module, NoisyLinear))
        sizes = [hidden.inputs, hidden.outputs, last.inputs, last.outputs]
        drawn = torch.zeros(self.samples, sum(sizes)).normal_(generator=self.generator)
        f = (drawn.sign() * drawn.abs().sqrt()).expand(len(observation), -1).split(sizes, dim=1)
        x = network.layers[:3](network.scaled(observation))

        def layer(x: Tensor, noisy: NoisyLinear, inputs: Tensor, outputs: Tensor) -> Tensor:
            weight = noisy.weight + noisy.weight_sigma * outputs[:, :, None] * inputs[:, None, :]
            return torch.einsum("bji,bi->bj", weight, x) + noisy.bias + noisy.bias_sigma * outputs

        return layer(layer(x, hidden, f[0], f[1]).relu(), last, f[2], f[3])


@pytest.mark.parametrize("double", [False, True])
def test_each_pass_of_an_update_has_noise_of_its_own(double: bool) -> None:
    """Two updates on two parts of a batch: the target network is asked once for both."""
    learner, data = make({"noisy": True}, double=double, loss="mse"), batch()
    online, choice, target = Gaussians("online"), Gaussians("choice"), Gaussians("target")
    updates = learner.updates(data, 2)
    with torch.no_grad():
        next_q = target.output(learner.target_network, data.next_observation)
    for part in (slice(0, 3), slice(3, 6)):
        with torch.no_grad():
            chooser = choice.output(learner.network, data.next_observation[part])
            best = (chooser if double else next_q[part]).argmax(1)
            q = online.output(learner.network, data.observation[part])
        q = q[torch.arange(3), data.action[part]]
        y = data.reward[part] + data.discount[part] * next_q[part][torch.arange(3), best]
        values = next(updates)  # one step on this part
        assert values["loss"].item() == pytest.approx((q - y).square().mean().item(), rel=1e-4)
        assert values["q"].item() == pytest.approx(q.mean().item(), rel=1e-4, abs=1e-6)


def test_each_environment_acts_with_noise_of_its_own_anew_at_each_step() -> None:
    learner = make({"noisy": True})
    observation = np.repeat(batch().observation[:1].numpy(), ENVS, axis=0)  # the same in all of them
    act = Gaussians("act", samples=ENVS)
    seen = []
    for _ in range(20):
        with learner.noise["act"].draw().applied():
            actions = learner.act(observation, 0.0, np.random.default_rng(0))
        assert actions.tolist() == act.output(learner.network, torch.from_numpy(observation)).argmax(1).tolist()
        seen.append(actions)
    assert any(len(set(actions)) > 1 for actions in seen)
    assert any((a != b).any() for a, b in itertools.pairwise(seen))


def test_without_being_asked_nothing_is_noisy_and_a_look_draws_nothing() -> None:
    """Evaluation, diagnostics and recorded gradients: what is learned does not depend on them."""
    quiet, watched, data = make({"noisy": True}), make({"noisy": True}), batch()
    watched.around_step = lambda part, ahead: (look(part), quiet.around_step(part, ahead))[1]
    observation = data.observation

    def look(part: tuple[Tensor, ...]) -> None:
        before = greedy_actions(watched, observation)
        assert torch.equal(before, greedy_actions(watched, observation))
        assert torch.equal(watched.values(observation), watched.values(observation))
        hidden_outputs(watched, observation)
        whole = [parameter.grad for parameter in watched.network.parameters()]
        again = watched.gradients(part, len(part[0]))  # with the noise of the update
        for one, other in zip(whole, again, strict=True):
            torch.testing.assert_close(one, other)

    for _ in range(3):
        expected, values = next(quiet.updates(data, 1)), next(watched.updates(data, 1))
        assert torch.equal(expected["loss"], values["loss"])


def test_a_spectral_norm_takes_one_step_an_update_whoever_looks() -> None:
    quiet, watched, data = make({"spectral_norm": [2]}), make({"spectral_norm": [2]}), batch()
    looks = (lambda part: watched.gradients(part, 2)), (lambda part: watched.values(part[0]))
    watched.around_step = lambda part, ahead: ([look(part) for look in looks], quiet.around_step(part, ahead))[1]
    for _ in range(3):
        expected, values = next(quiet.updates(data, 1)), next(watched.updates(data, 1))
        assert torch.equal(expected["loss"], values["loss"])
    for name, tensor in quiet.network.state_dict().items():
        assert torch.equal(tensor, watched.network.state_dict()[name]), name
    assert watched.network.training


def test_the_target_network_normalizes_as_the_online_one_did() -> None:
    learner = make({"spectral_norm": [1, 2]}, precision="bf16")
    for _ in range(3):
        next(learner.updates(batch(), 1))
    learner.sync_target()
    for name, tensor in learner.network.state_dict().items():
        copied = learner.target_network.state_dict()[name]
        assert torch.equal(tensor.to(copied.dtype), copied), name
        assert copied.dtype == torch.float32 or "parametrizations" not in name


@pytest.mark.parametrize("double", [False, True])
def test_c51s_update_is_the_papers(double: bool) -> None:
    """A part of a batch with rewards outside the range and terminal steps; expectations choose the action."""
    learner, data = make(double=double, head=C51), batch()
    z = torch.linspace(-2, 4, 7)
    with torch.no_grad():
        online, target = learner.network(data.next_observation), learner.target_network(data.next_observation)
        predicted = learner.network(data.observation)
    losses = []
    for n in range(len(data.action)):
        expectations = (online if double else target)[n].softmax(1) @ z
        probabilities = target[n, expectations.argmax()].softmax(0)
        m = [0.0] * 7
        for p, value in zip(probabilities.tolist(), z.tolist(), strict=True):
            b = (min(max(data.reward[n].item() + data.discount[n].item() * value, -2), 4) + 2) / 1.0
            for i in {math.floor(b), math.ceil(b)}:
                m[i] += p * (1 - abs(b - i))
        q = predicted[n, data.action[n]].softmax(0).tolist()
        losses.append(sum(a * math.log(a / b) for a, b in zip(m, q, strict=True) if a > 0))
    assert next(learner.updates(data, 1))["loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("head", [C51, HeadConfig(name="qr", quantiles=5)], ids=["c51", "qr"])
@pytest.mark.parametrize("network", [{"dueling": True, "noisy": True}, {"layer_norm": True, "spectral_norm": [2]}])
def test_updates_in_bf16_and_a_state_that_goes_on(head: HeadConfig, network: dict[str, Any]) -> None:
    options: dict[str, Any] = {"head": head, "optimizer": OptimizerConfig(name="asgc", lr=1e-3)}
    learner, data = make(network, **options), batch()
    rough = make(network, **options, precision="bf16")
    rough.load_state_dict(learner.state_dict())
    exact, rounded = next(learner.updates(data, 1))["loss"], next(rough.updates(data, 1))["loss"]
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)
    assert rounded.item() != exact.item()
    resumed = make(network, **options)
    torch.rand(3)
    resumed.load_state_dict(learner.state_dict())
    for _ in range(3):
        expected, loss = next(learner.updates(data, 1))["loss"], next(resumed.updates(data, 1))["loss"]
        assert torch.equal(expected, loss)
    for name, tensor in learner.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_diagnostics_see_every_hidden_layer() -> None:
    """Of a dueling network the features are both streams'."""
    frames = batch().observation
    dueling = hidden_outputs(make({"dueling": True}), frames)
    assert [tuple(one.shape) for one in dueling] == [(6, 4, 4, 4), (6, 32)]
    impala = hidden_outputs(make({"kind": "impala"}), frames)
    assert len(impala) == 3 * 2 * 2 + 1 + 1  # two a residual block, one behind them, the hidden layer's
    assert impala[-1].shape == (6, 16)


def chain(rng: np.random.Generator, size: int = 32) -> Batch:
    """Transitions from the places 0, 1 and 2 of a frame with one bright column: action k leads on from place k, from
    the last to a reward of 1 and the end; every other action ends without reward."""
    place, action = rng.integers(3, size=size), rng.integers(ACTIONS, size=size)

    def frames(places: np.ndarray) -> Tensor:
        picture = np.zeros((size, 2, 16, 16), np.uint8)
        for sample, one in enumerate(places):
            picture[sample, :, :, 4 * one : 4 * one + 4] = 255
        return torch.from_numpy(picture)

    right = place == action
    return Batch(
        observation=frames(place),
        action=torch.from_numpy(action),
        reward=torch.from_numpy((right & (place == 2)).astype(np.float32)),
        next_observation=frames(np.minimum(place + 1, 2)),
        discount=torch.from_numpy(np.where(right & (place < 2), 0.8, 0.0).astype(np.float32)),
    )


@pytest.mark.parametrize(
    ("network", "head"),
    [
        ({"dueling": True}, {}),
        ({"noisy": True}, {}),
        ({"spectral_norm": [2]}, {}),
        ({"kind": "impala"}, {}),
        ({}, {"name": "c51", "v_min": -0.5, "v_max": 1.5, "atoms": 21}),
        ({}, {"name": "qr", "quantiles": 8}),
        ({"dueling": True, "noisy": True}, {"name": "c51", "v_min": -0.5, "v_max": 1.5, "atoms": 21}),
    ],
    ids=["dueling", "noisy", "spectral norm", "impala", "c51", "qr", "rainbow"],
)
def test_learns_the_values_of_a_chain(network: dict[str, Any], head: dict[str, Any]) -> None:
    """1 at the last place, 0.8 and 0.64 before it, for the action that leads on; 0 for the others."""
    lr = 5e-4 if "kind" in network else 3e-3  # 16 layers deep
    learner = make(network, head=HeadConfig(**head), optimizer=OptimizerConfig(name="asgc", lr=lr))
    rng = np.random.default_rng(0)
    for _ in range(12):
        for _ in range(20):
            next(learner.updates(chain(rng), 1))
        learner.sync_target()
    data = chain(rng, 64)
    first = [int(np.flatnonzero((data.observation[:, 0, 0, 4 * place] > 0).numpy())[0]) for place in range(3)]
    expected = torch.zeros(3, ACTIONS)
    expected[0, 0], expected[1, 1], expected[2, 2] = 0.64, 0.8, 1.0
    torch.testing.assert_close(learner.values(data.observation[first]).cpu(), expected, rtol=0, atol=0.15)
