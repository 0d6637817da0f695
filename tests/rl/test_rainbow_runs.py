"""Whole runs with Rainbow's parts: resume, recording, the trained agent, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl import load_agent, train
from rl.networks import build_network
from tests.rl.catch import SIZE
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config, weights

pytestmark = pytest.mark.usefixtures("one_thread")

GREEDY = {"start": 0.0, "end": 0.0}  # noisy layers explore by themselves
C51 = {"name": "c51", "v_min": -1, "v_max": 1, "atoms": 21}
RAINBOW = {"network": {"noisy": True, "dueling": True}, "head": C51, "exploration": GREEDY, "n_step": 3}
NORMALIZED = {"network": {"spectral_norm": [2], "layer_norm": True}, "head": {"name": "qr", "quantiles": 8}}


@pytest.mark.parametrize("options", [RAINBOW, NORMALIZED], ids=["rainbow", "normalized"])
def test_resumed_and_recorded_runs_are_the_uninterrupted_one(
    catch: None, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Bit for bit; the gradients that are recorded change nothing."""
    options = options | {
        "total_steps": 1_200,
        "optimizer": {"name": "asgc"},
        "lr_schedule": {"name": "cosine", "warmup": 20, "end_factor": 0.1},
        "gradients": {"interval": 7},
        "evaluation": {"interval": 600, "episodes": 2, "final_episodes": 2},
    }
    train(catch_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", **options), watchers=[StopAt(1_000)])
    train(catch_config(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    train(catch_config(tmp_path / "blind", **options | {"gradients": {"enabled": False}}))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "blind")[name]), name

    agent = load_agent(tmp_path / "whole", device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (4, 2, SIZE, SIZE), dtype=np.uint8)
    values = agent.values(frames)
    assert values.shape == (4, 3)
    assert np.array_equal(values, agent.values(frames))  # played without noise
    network = build_network(
        agent._spec, 3, agent.config.network, (21,) if options["head"]["name"] == "c51" else (8,)
    ).eval()
    network.load_state_dict(weights(tmp_path / "whole"))
    outputs = network(torch.from_numpy(frames)).detach()
    if options["head"]["name"] == "c51":
        expected = (torch.softmax(outputs, 2) * (torch.arange(21) / 10 - 1)).sum(2)
    else:
        expected = outputs.sum(2) / 8
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)


LEARNING = {
    "dueling": {"network": {"dueling": True}},
    "c51": {"head": C51},
    "qr": {"head": {"name": "qr", "quantiles": 20}},
    "noisy": {"network": {"noisy": True}, "exploration": GREEDY},
    "spectral norm": {"network": {"spectral_norm": [2]}},
    "rainbow": {key: value for key, value in RAINBOW.items() if key != "n_step"},
    "impala": {"network": {"kind": "impala", "hidden": 32}},
}
