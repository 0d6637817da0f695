import copy
from typing import Any

import numpy as np
import pytest
import torch

from rl import tasks
from rl.networks import QNetwork, VectorQNetwork, build_network
from rl.option_groups import NetworkConfig
from rl.tasks import EnvConfig, ObservationSpec


def q_network(shape: tuple[int, ...], **options: Any) -> QNetwork:
    return QNetwork(ObservationSpec(shape, "uint8"), 3, NetworkConfig(**options))


def test_default_sizes_are_natures() -> None:
    network = QNetwork(ObservationSpec((4, 84, 84), "uint8"), 6, NetworkConfig())
    assert sum(p.numel() for p in network.parameters()) == 1_687_206  # Mnih et al. (2015) with 6 actions
    observation = torch.zeros(3, 4, 84, 84, dtype=torch.uint8)
    assert network(observation).shape == (3, 6)


def test_forward_is_the_layers_on_scaled_pixels_and_leaves_the_observation_alone() -> None:
    torch.manual_seed(0)
    network = QNetwork(
        ObservationSpec((2, 20, 20), "uint8"), 3, NetworkConfig(channels=[4], kernels=[4], strides=[4], hidden=8)
    )
    observation = torch.randint(0, 256, (5, 2, 20, 20), dtype=torch.uint8)
    before = observation.clone()
    torch.testing.assert_close(network(observation), network.layers(observation.double().float() / 255))
    assert torch.equal(observation, before)


def test_standardize_removes_what_never_moves_and_scales_the_rest() -> None:
    rng = np.random.default_rng(0)
    background = rng.integers(0, 200, (16, 16))
    frames = np.repeat(background[None], 500, 0)
    frames[np.arange(500), rng.integers(0, 16, 500), rng.integers(0, 16, 500)] += 50  # a faint moving pixel
    frames = torch.from_numpy(frames.astype(np.uint8))
    network = QNetwork(
        ObservationSpec((1, 16, 16), "uint8"), 3, NetworkConfig(channels=[2], kernels=[4], strides=[4], hidden=4)
    )
    network.standardize(frames)
    seen: list[torch.Tensor] = []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(frames[:, None])
    assert seen[0].std().item() == pytest.approx(1.0, abs=0.05)
    assert seen[0].amax().item() > 10  # 50 grey levels: 0.2 if scaled by 1/255
    # bfloat16 sees the same pixels to its own precision although the offsets are as large as 200
    with torch.autocast("cpu", torch.bfloat16):
        network(frames[:, None])
    torch.testing.assert_close(seen[1].float(), seen[0], rtol=1e-2, atol=1e-6)
    assert "offset" in network.state_dict()
    assert "scale" in network.state_dict()


def test_standardize_of_a_still_picture_stays_finite() -> None:
    network = QNetwork(
        ObservationSpec((1, 16, 16), "uint8"), 3, NetworkConfig(channels=[2], kernels=[4], strides=[4], hidden=4)
    )
    network.standardize(torch.full((10, 16, 16), 87, dtype=torch.uint8))
    assert torch.isfinite(network(torch.full((1, 1, 16, 16), 90, dtype=torch.uint8))).all()


def test_layer_norm_makes_values_independent_of_the_contrast() -> None:
    torch.manual_seed(0)
    network = QNetwork(
        ObservationSpec((4, 20, 20), "uint8"),
        3,
        NetworkConfig(channels=[8], kernels=[4], strides=[2], hidden=16, layer_norm=True),
    )
    for module in network.layers:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.bias)
    faint = torch.randint(0, 60, (2, 4, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(network(faint), network(faint * 4), rtol=1e-2, atol=1e-2)


def test_too_small_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        q_network((4, 20, 20))


# Places in what `model.pt` and checkpoints hold: those of all runs so far.
SAVED = {
    ("Pong", False): "offset scale layers.0 layers.2 layers.4 layers.7 layers.9",
    ("Pong", True): "offset scale layers.0 layers.1 layers.3 layers.4 layers.6 layers.7 layers.10 layers.11 layers.13",
    ("CartPole", False): "factor offset layers.0 layers.2 layers.4",
    ("CartPole", True): "factor offset layers.0 layers.1 layers.3 layers.4 layers.6",
}


@pytest.mark.parametrize(("game", "layer_norm"), SAVED)
def test_saved_names_and_the_order_of_initialization(game: str, layer_norm: bool) -> None:
    spec = tasks.find(game).observation(EnvConfig())
    torch.manual_seed(0)
    network = build_network(spec, 3, NetworkConfig(layer_norm=layer_norm))
    places = dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in network.state_dict())
    assert list(places) == SAVED[game, layer_norm].split()
    torch.manual_seed(0)
    for layer in network.layers:  # each drew its numbers after the one before it
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            again = copy.deepcopy(layer)
            again.reset_parameters()
            assert torch.equal(again.weight, layer.weight)
            assert torch.equal(again.bias, layer.bias)


@pytest.mark.parametrize("network", [QNetwork, VectorQNetwork])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_close_actions_are_told_apart_under_autocast(network: type[Any], layer_norm: bool) -> None:
    """Near 8 bfloat16's numbers lie 0.06 apart: both actions would be worth 8, and the first one be taken."""
    torch.manual_seed(0)
    spec = tasks.find("Pong" if network is QNetwork else "CartPole").observation(EnvConfig(stack=2))
    made = network(spec, 2, NetworkConfig(layer_norm=layer_norm))
    observation = torch.randint(0, 256, (64, *spec.shape)).to(getattr(torch, spec.dtype))
    with torch.no_grad():
        made.layers[-1].weight[1] = made.layers[-1].weight[0]
        made.layers[-1].bias.copy_(torch.tensor([8.0, 8.01]))
    with torch.autocast("cpu", torch.bfloat16):
        values = made(observation)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[:, 1] - values[:, 0], torch.full((64,), 0.01), rtol=0, atol=1e-4)
    values.sum().backward()
    assert all(param.grad is not None and param.grad.dtype == torch.float32 for param in made.parameters())
