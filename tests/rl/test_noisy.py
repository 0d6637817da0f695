"""Noisy layers against the paper's formulas, and what their noise depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl.networks import build_network
from rl.noisy import Noise, NoisyLinear
from rl.option_groups import NetworkConfig
from rl.tasks import ObservationSpec


def test_output_is_the_papers_formula_with_each_samples_noise() -> None:
    """Equations 9 to 11, element by element."""
    torch.manual_seed(0)
    layer = NoisyLinear(3, 2)
    noise, x = Noise(layer, seed=5, samples=4).draw(), torch.randn(4, 3)
    gaussian = torch.zeros(4, 5).normal_(generator=torch.Generator().manual_seed(5))
    with noise.applied():
        y = layer(x)
    for n in range(4):
        f = [math.copysign(math.sqrt(abs(e)), e) for e in gaussian[n].tolist()]
        for j in range(2):
            expected = layer.bias[j] + layer.bias_sigma[j] * f[3 + j]
            for i in range(3):
                expected = expected + (layer.weight[j, i] + layer.weight_sigma[j, i] * f[i] * f[3 + j]) * x[n, i]
            assert y[n, j].item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)  # outside


def test_initial_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(400, 50, sigma=0.4)
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max().item() <= 1 / 20
    assert layer.weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        torch.testing.assert_close(sigma.detach(), torch.full_like(sigma, 0.4 / 20))


def test_noise_has_mean_zero_and_the_variance_of_its_formula() -> None:
    """f(e) has mean 0 and E f(e)^2 = E |e| = sqrt(2 / pi); factors of two layers and samples are independent."""
    network = torch.nn.Sequential(NoisyLinear(2, 1), NoisyLinear(1, 2))
    noise = Noise(network, seed=1, samples=100_000).draw()
    first, second = network[0], network[1]
    with noise.applied():
        columns = torch.cat([*first.noise, *second.noise], dim=1).double().numpy()
    assert columns.shape == (100_000, 6)
    assert columns.mean(axis=0) == pytest.approx(np.zeros(6), abs=0.01)
    assert np.cov(columns.T) == pytest.approx(math.sqrt(2 / math.pi) * np.eye(6), abs=0.012)
    assert np.cov(columns[:-1, 0], columns[1:, 0])[0, 1] == pytest.approx(0, abs=0.012)


def test_same_seed_same_noise_and_a_state_goes_on() -> None:
    layer = NoisyLinear(6, 4)
    x = torch.ones(1, 6)

    def outputs(noise: Noise, count: int) -> list[torch.Tensor]:
        made = []
        for _ in range(count):
            with noise.draw().applied():
                made.append(layer(x))
        return made

    first, again, other = (outputs(Noise(layer, seed), 4) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[1])  # each draw is new
    noise, resumed = Noise(layer, 1), Noise(layer, 3)
    outputs(noise, 2)
    torch.rand(5)  # nobody else's numbers are used
    resumed.load_state_dict(noise.state_dict())
    assert all(map(torch.equal, outputs(resumed, 2), first[2:]))
    resumed.load_state_dict({"device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8)})  # not of this machine
    assert not torch.equal(outputs(resumed, 1)[0], first[2])


def test_noise_is_drawn_where_it_lies_and_held_until_the_next_draw() -> None:
    """What a CUDA graph and a second look at the same update need."""
    layer = NoisyLinear(6, 4)
    noise = Noise(layer, seed=1).draw()
    with noise.applied():
        first, place = layer(torch.ones(1, 6)), layer.noise[0].data_ptr()
    with noise.applied():
        assert torch.equal(layer(torch.ones(1, 6)), first)
    with noise.draw().applied():
        assert layer.noise[0].data_ptr() == place
        assert not torch.equal(layer(torch.ones(1, 6)), first)


def test_a_network_without_noisy_layers_draws_nothing() -> None:
    noise = Noise(torch.nn.Linear(2, 2), seed=1)
    with noise.draw().applied():
        assert noise.state_dict() == {}
    noise.load_state_dict({})


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("per_action", [(), (5,)])
def test_all_fully_connected_layers_are_noisy_and_the_last_ones_exact_under_autocast(
    dueling: bool, per_action: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(channels=[4], kernels=[4], strides=[4], hidden=16, noisy=True, dueling=dueling)
    network = build_network(ObservationSpec((2, 20, 20), "uint8"), 3, config, per_action)
    assert not any(isinstance(module, torch.nn.Linear) for module in network.modules())
    assert sum(isinstance(module, NoisyLinear) for module in network.modules()) == (4 if dueling else 2)
    observation = torch.randint(0, 256, (64, 2, 20, 20), dtype=torch.uint8)
    with Noise(network, seed=1).draw().applied():
        exact = network(observation)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(observation)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    assert not torch.equal(network(observation), exact)
    rough.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
