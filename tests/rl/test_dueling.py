"""Dueling networks against equation 9 of the paper, written out."""

from __future__ import annotations

import itertools

import pytest
import torch

from rl import tasks
from rl.networks import build_network
from rl.option_groups import NetworkConfig
from rl.tasks import EnvConfig, ObservationSpec


@pytest.mark.parametrize("game", ["Pong", "CartPole"])
@pytest.mark.parametrize("per_action", [(), (5,)], ids=["values", "distributions"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_values_are_the_states_and_the_advantages_without_their_mean(
    game: str, per_action: tuple[int, ...], layer_norm: bool
) -> None:
    """Both streams on the same features, with a hidden layer each; with distributions for each atom alone."""
    torch.manual_seed(0)
    spec = tasks.find(game).observation(EnvConfig(stack=2))
    config = NetworkConfig(hidden=16, units=[8, 16], dueling=True, layer_norm=layer_norm)
    network = build_network(spec, 3, config, per_action)
    observation = torch.randint(0, 256, (4, *spec.shape)).to(getattr(torch, spec.dtype))
    state = dict(network.named_parameters())
    x = network.scaled(observation)
    layers = list(network.layers)
    for layer in layers[:-3]:
        x = layer(x)

    def stream(name: str) -> torch.Tensor:
        hidden, output = len(layers) - 3, len(layers) - 1
        y = x @ state[f"layers.{hidden}.{name}.0.weight"].T + state[f"layers.{hidden}.{name}.0.bias"]
        if layer_norm:  # each stream's features by themselves; the initial weight is 1 and the bias 0
            y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return y.relu() @ state[f"layers.{output}.{name}.0.weight"].T + state[f"layers.{output}.{name}.0.bias"]

    value, advantage = stream("value"), stream("advantage")
    outputs = network(observation)
    assert outputs.shape == (4, 3, *per_action)
    for sample, action, atom in itertools.product(range(4), range(3), range(5 if per_action else 1)):
        of_atom = advantage[sample].reshape(3, -1)[:, atom]
        expected = value[sample, atom] + of_atom[action] - of_atom.sum() / 3
        assert outputs[sample, action].reshape(-1)[atom].item() == pytest.approx(expected.item(), abs=1e-5)


def test_sizes_are_the_papers() -> None:
    """Nature's convolutions, then two streams of 512 units (Wang et al., section 4.2): 6 actions."""
    network = build_network(ObservationSpec((4, 84, 84), "uint8"), 6, NetworkConfig(dueling=True))
    streams = 2 * (7 * 7 * 64 * 512 + 512) + (512 + 1) + (6 * 512 + 6)
    convolutions = (8 * 8 * 4 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)
    assert sum(p.numel() for p in network.parameters()) == convolutions + streams == 3_293_863


def test_close_actions_are_told_apart_under_autocast() -> None:
    """Near 8 bfloat16's numbers lie 0.06 apart: the streams' last layers compute in float32."""
    torch.manual_seed(0)
    network = build_network(
        ObservationSpec((2, 20, 20), "uint8"),
        2,
        NetworkConfig(channels=[4], kernels=[4], strides=[4], hidden=16, dueling=True),
    )
    with torch.no_grad():
        value, advantage = network.layers[-1].value[0], network.layers[-1].advantage[0]
        advantage.weight[1] = advantage.weight[0]
        advantage.bias.copy_(torch.tensor([0.0, 0.01]))
        value.weight.zero_()
        value.bias.fill_(8.0)
    with torch.autocast("cpu", torch.bfloat16):
        values = network(torch.randint(0, 256, (64, 2, 20, 20), dtype=torch.uint8))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[:, 1] - values[:, 0], torch.full((64,), 0.01), rtol=0, atol=1e-5)
    values.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
