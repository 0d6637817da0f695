"""IMPALA's residual network against figure 3 of the paper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rl.networks import QNetwork, build_network
from rl.option_groups import NetworkConfig
from rl.tasks import ObservationSpec


@pytest.mark.parametrize(("width", "channels"), [(1, (16, 32, 32)), (2, (32, 64, 64))])
def test_sizes_are_the_papers(width: int, channels: tuple[int, ...]) -> None:
    """Five convolutions of 3 x 3 a section, frames halved by each: 84, 42, 21, 11."""
    config = NetworkConfig(kind="impala", width=width, hidden=256)
    network = build_network(ObservationSpec((4, 84, 84), "uint8"), 6, config)
    expected, inputs = 0, 4
    for outputs in channels:
        expected += 9 * inputs * outputs + outputs + 4 * (9 * outputs * outputs + outputs)
        inputs = outputs
    expected += 11 * 11 * inputs * 256 + 256 + 256 * 6 + 6
    assert sum(p.numel() for p in network.parameters()) == expected
    assert width != 1 or expected == 1_090_774
    assert network(torch.zeros(3, 4, 84, 84, dtype=torch.uint8)).shape == (3, 6)


@pytest.mark.parametrize("size", [(42, 42), (17, 30), (8, 8), (1, 1)])
def test_forward_is_the_figure_written_out(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network(ObservationSpec((2, *size), "uint8"), 3, NetworkConfig(kind="impala", hidden=8))
    parameters = iter(network.parameters())

    def convolve(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, next(parameters), next(parameters), padding=1)

    observation = torch.randint(0, 256, (2, 2, *size), dtype=torch.uint8)
    x = observation / 255
    for _ in range(3):
        x = F.max_pool2d(F.pad(convolve(x), (1, 1, 1, 1), value=-torch.inf), 3, 2)
        for _ in range(2):
            x = x + convolve(F.relu(convolve(F.relu(x))))
    x = F.relu(x).flatten(1)
    x = F.relu(F.linear(x, next(parameters), next(parameters)))
    torch.testing.assert_close(network(observation), F.linear(x, next(parameters), next(parameters)))
    assert next(parameters, None) is None


def test_it_takes_every_option_of_the_other_network() -> None:
    config = NetworkConfig(kind="impala", hidden=8, dueling=True, layer_norm=True, spectral_norm=[2])
    network = build_network(ObservationSpec((2, 20, 20), "uint8"), 3, config, (5,))
    assert isinstance(network, QNetwork)
    network.standardize(torch.randint(0, 256, (10, 20, 20), dtype=torch.uint8))
    observation = torch.randint(0, 256, (6, 2, 20, 20), dtype=torch.uint8)
    exact = network.to(memory_format=torch.channels_last)(observation)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(observation)
    assert exact.shape == rough.shape == (6, 3, 5)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
    rough.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
