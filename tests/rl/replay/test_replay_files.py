"""The replay's memory and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from rl.replay.ring import FrameReplay, Layout
from rl.tasks.atari import AtariEnvs
from tests.rl.replay.replay_oracle import GAMMA, same, scripted
from tests.rl.tasks.scripted_env import FRAME_SHAPE, ScriptedPool, game


def test_a_million_transitions_take_the_promised_memory() -> None:
    assert 7.05e9 < Layout(1_000_000, 8, (84, 84), 4, 3, 0.99).nbytes < 7.1e9
    layout = Layout(1000, 7, (84, 84), 4, 3, 0.99)
    replay = FrameReplay(layout)
    held = [value for value in vars(replay).values() if isinstance(value, np.ndarray)]
    frames = [value for value in vars(replay).values() if isinstance(value, torch.Tensor)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in frames}) == 1, "the views share one storage"
    total = sum(array.nbytes for array in held) + frames[0].untyped_storage().nbytes()
    assert total == layout.nbytes
    assert layout.slots * layout.num_envs == 1001


def test_an_empty_ring_takes_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    replay = FrameReplay(Layout(200_000, 8, (84, 84), 4, 3, 0.99))
    assert resident() - before < 50e6
    assert replay.layout.slots * 8 == 200_000


def test_too_small_a_ring_names_the_flag() -> None:
    with pytest.raises(UserError, match=r"--replay-size 70 is too small: .* at least 80"):
        Layout(70, 10, (84, 84), 4, 3, 0.99)


@pytest.mark.parametrize("steps", [0, 7, 60], ids=["started", "filling", "full"])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "running"])
def test_saved_and_loaded_replays_go_on_alike(tmp_path: Path, steps: int, cut: bool) -> None:
    games = [[game([1, 2, 3, 4], lives_lost=[1]), game([5, 6], limit=True)], [game([1] * 9)]]
    actor = scripted(games, capacity=40, n_step=2, steps=steps)
    if cut:
        actor.cut()
    actor.replay.save(tmp_path)
    other = [[game([7] * 50)], [game([8, 8], limit=True)]]
    loaded = scripted(other, capacity=40, n_step=2, steps=33).replay  # what it held is forgotten
    loaded.load(tmp_path)
    assert len(loaded) == len(actor.replay)
    if steps > 0:
        same(loaded.sample(500, np.random.default_rng(1)), actor.replay.sample(500, np.random.default_rng(1)))

    envs = actor.envs
    if cut:
        envs = AtariEnvs(ScriptedPool(games, stack=3, episodic_life=True, run=1), 2, episodic_life=True)
        observation = envs.reset()
        for replay in (loaded, actor.replay):
            replay.start(observation)
    for k in range(30):
        actions = 1000 + 2 * k + np.arange(2)
        step = envs.step(actions)
        for replay in (loaded, actor.replay):
            replay.add(actions, step)
        assert len(loaded) == len(actor.replay)
        if len(loaded):
            same(loaded.sample(50, np.random.default_rng(k)), actor.replay.sample(50, np.random.default_rng(k)))


def test_only_the_filled_part_is_saved(tmp_path: Path) -> None:
    scripted([[game([1] * 9)]], capacity=100_000, steps=4).replay.save(tmp_path / "new")
    assert sum(file.stat().st_size for file in (tmp_path / "new").iterdir()) < 5_000
    frames = np.load(tmp_path / "new" / "replay-frames.npy")
    assert frames.shape == (5, 1, *FRAME_SHAPE)
    assert frames[:, 0, 1, 1].tolist() == [0, 1, 2, 3, 4]


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    actor = scripted([[game([1] * 9)]], capacity=40, steps=4)
    actor.replay.save(tmp_path)
    frames = tmp_path / "replay-frames.npy"
    frames.write_bytes(frames.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off"):
        FrameReplay(Layout(40, 1, FRAME_SHAPE, 3, 1, GAMMA)).load(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"capacity": 44},
        {"num_envs": 1},
        {"stack": 2},
        {"n_step": 3},
        {"gamma": 0.8},
        {"frame_shape": (2, 3)},
    ],
    ids=str,
)
def test_a_replay_of_another_kind_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    actor = scripted([[game([1] * 9)]] * 2, capacity=40, steps=4)
    actor.replay.save(tmp_path)
    options = {"capacity": 40, "num_envs": 2, "frame_shape": FRAME_SHAPE, "stack": 3, "n_step": 1, "gamma": GAMMA}
    with pytest.raises(ValueError, match="expected"):
        FrameReplay(Layout(**(options | other))).load(tmp_path)
