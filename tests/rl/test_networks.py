import numpy as np
import pytest
import torch

from rl.networks import QNetwork


def test_default_sizes_are_natures() -> None:
    network = QNetwork(6, (4, 84, 84))
    assert sum(p.numel() for p in network.parameters()) == 1_687_206  # Mnih et al. (2015) with 6 actions
    observation = torch.zeros(3, 4, 84, 84, dtype=torch.uint8)
    assert network(observation).shape == (3, 6)


def test_forward_is_the_layers_on_scaled_pixels_and_leaves_the_observation_alone() -> None:
    torch.manual_seed(0)
    network = QNetwork(3, (2, 20, 20), channels=[4], kernels=[4], strides=[4], hidden=8)
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
    network = QNetwork(3, (1, 16, 16), channels=[2], kernels=[4], strides=[4], hidden=4)
    network.standardize(frames)
    seen: list[torch.Tensor] = []
    network.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
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
    network = QNetwork(3, (1, 16, 16), channels=[2], kernels=[4], strides=[4], hidden=4)
    network.standardize(torch.full((10, 16, 16), 87, dtype=torch.uint8))
    assert torch.isfinite(network(torch.full((1, 1, 16, 16), 90, dtype=torch.uint8))).all()


def test_layer_norm_makes_values_independent_of_the_contrast() -> None:
    torch.manual_seed(0)
    network = QNetwork(3, (4, 20, 20), channels=[8], kernels=[4], strides=[2], hidden=16, layer_norm=True)
    for module in network.layers:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.bias)
    faint = torch.randint(0, 60, (2, 4, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(network(faint), network(faint * 4), rtol=1e-2, atol=1e-2)


def test_too_small_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        QNetwork(3, (4, 20, 20))
