"""Whole runs with Rainbow's parts: resume, recording, the trained agent, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from rl import TrainConfig, load_agent, train
from rl.networks import Network, build_network
from rl.preflight import FLOAT, STATES, check_resources
from rl.tasks import ObservationSpec
from tests.rl.catch import SIZE
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config, weights

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = {"start": 0.0, "end": 0.0}  # noisy layers explore by themselves
C51 = {"name": "c51", "v_min": -1, "v_max": 1, "atoms": 21}
RAINBOW = {"network": {"noisy": True, "dueling": True}, "head": C51, "exploration": GREEDY, "n_step": 3}
NORMALIZED = {"network": {"spectral_norm": [2], "layer_norm": True}, "head": {"name": "qr", "quantiles": 8}}


def made_of(options: dict[str, Any]) -> Network:
    """The network of a run with these options, made anew."""
    config = catch_config(Path("unused"), **options)
    spec = ObservationSpec((2, SIZE, SIZE), "uint8")
    return build_network(spec, 3, config.network, config.head.per_action)


@pytest.mark.parametrize("options", [RAINBOW, NORMALIZED], ids=["rainbow", "normalized"])
def test_resumed_and_recorded_runs_are_the_uninterrupted_one(
    catch: None, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bit for bit; the gradients that are recorded change nothing."""
    options = options | {
        "total_steps": 900,
        "optimizer": {"name": "asgc"},
        "lr_schedule": {"name": "cosine", "warmup": 30, "end_factor": 0.1},
        "checkpoint_interval": 500,
        "gradients": {"interval": 25, "offsets": None},
        "evaluation": {"interval": 700, "episodes": 2, "final_episodes": 2},
    }
    train(catch_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", **options), watchers=[StopAt(800)])
    train(catch_config(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    train(catch_config(tmp_path / "blind", **options | {"gradients": {"enabled": False}}))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "blind")[name]), name

    recorded = pyarrow.parquet.read_table(tmp_path / "whole" / "gradients")["layer"].to_pylist()
    parameters = [name for name, _ in made_of(options).named_parameters()]
    assert set(recorded) == set(parameters)  # sigmas and weights behind a norm are layers as others

    agent = load_agent(tmp_path / "whole", device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (4, 2, SIZE, SIZE), dtype=np.uint8)
    values = agent.values(frames)
    assert values.shape == (4, 3)
    assert np.array_equal(values, agent.values(frames))  # played without noise
    network = made_of(options).eval()
    network.load_state_dict(weights(tmp_path / "whole"))
    outputs = network(torch.from_numpy(frames)).detach()
    if options["head"]["name"] == "c51":
        expected = (torch.softmax(outputs, 2) * (torch.arange(21) / 10 - 1)).sum(2)
    else:
        expected = outputs.sum(2) / 8
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)


def test_preflight_measures_the_network_that_will_be_made(tmp_path: Path) -> None:
    """On Nature's convolutions: a hidden layer for each stream, a sigma for each weight, 51 outputs for each value."""
    device, sizes = torch.device("cpu"), []
    for network, head in ((False, "expected"), (True, "c51")):
        options = {"dueling": network, "noisy": network}
        config = TrainConfig.preset("dqn", replay_size=1_000, network=options, head=head)
        sizes.append(check_resources(config, device, tmp_path / "run"))
    inputs, actions = 7 * 7 * 64, 18
    plain = (inputs + 1) * 512 + (512 + 1) * actions
    rainbow = 2 * (2 * (inputs + 1) * 512 + (512 + 1) * 51 * (1 + actions))
    assert sizes[1] - sizes[0] == STATES * FLOAT * (rainbow - plain)


LEARNING = {
    "dueling": {"network": {"dueling": True}},
    "c51": {"head": C51},
    "qr": {"head": {"name": "qr", "quantiles": 20}},
    "noisy": {"network": {"noisy": True}, "exploration": GREEDY},
    "spectral norm": {"network": {"spectral_norm": [2]}},
    "rainbow": {key: value for key, value in RAINBOW.items() if key != "n_step"},
    "impala": {"network": {"kind": "impala", "hidden": 32}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_learns_catch(catch: None, tmp_path: Path, name: str) -> None:
    """A random player scores about -0.7; seen, two seeds each: 1.0 of all but the noisy network (0.5 and 0.8)."""
    config = catch_config(
        tmp_path / "run",
        **LEARNING[name],
        total_steps=6_400,
        checkpoint_interval=100_000,
        evaluation={"interval": 100_000, "final_episodes": 100},
    )
    assert train(config)["mean_score"] > 0.3
