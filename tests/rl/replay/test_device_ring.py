"""The replay on a device beside the one on the host, transition by transition, with the device "cpu"."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.replay.device_ring import DeviceReplay
from rl.replay.ring import FrameReplay, Layout
from rl.tasks.atari import AtariEnvs
from tests.rl.replay.replay_oracle import GAMMA, Actor, check, same
from tests.rl.replay.test_replay import draw_games
from tests.rl.tasks.scripted_env import FRAME_SHAPE, ScriptedPool, game


def beside(actor: Actor) -> None:
    """Everything that the device has is what the host has, and what the actor saw."""
    replay = actor.replay
    assert isinstance(replay, DeviceReplay)
    for name, mirror in replay._mirror.items():
        np.testing.assert_array_equal(mirror.numpy(), getattr(replay, f"_{name}"), err_msg=name)
    np.testing.assert_array_equal(replay.newest_observations().numpy(), actor.observation)
    rows = np.flatnonzero(replay._valid.reshape(-1))
    assert len(rows) == len(replay)
    if len(rows) == 0:
        return
    batch = replay.gather(torch.from_numpy(rows))
    same(batch, replay.transitions(rows))
    layout = replay.layout
    check(batch, actor.expected(layout.n_step, layout.gamma, layout.slots, layout.stack))
    drawn = replay.draw(40 * len(rows), torch.Generator().manual_seed(1))
    assert set(drawn.tolist()) == set(rows.tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_the_device_draws_is_what_the_actor_saw(data: st.DataObject) -> None:
    """Over terminations, lives, truncations, automatic resets, cuts and the ring's end."""
    num_envs = data.draw(st.integers(1, 3), "environments")
    stack, n_step = data.draw(st.integers(1, 4), "stack"), data.draw(st.integers(1, 4), "n-step")
    slots = data.draw(st.integers(stack + n_step + 1, 20), "slots")
    episodic_life = data.draw(st.booleans(), "episodic life")
    replay = DeviceReplay(Layout(slots * num_envs, num_envs, FRAME_SHAPE, stack, n_step, GAMMA))
    actor = Actor(replay, num_envs)
    for run in range(data.draw(st.integers(1, 3), "runs")):
        games = draw_games(data, num_envs, resets=episodic_life)
        actor.start(AtariEnvs(ScriptedPool(games, stack=stack, episodic_life=episodic_life, run=run), num_envs,
                              episodic_life=episodic_life))  # fmt: skip
        for _ in range(data.draw(st.integers(0, 30), "steps")):
            actor.step()
        beside(actor)
        actor.cut()
        beside(actor)


def filled(steps: int = 30, capacity: int = 40) -> Actor:
    games = [[game([1, 2, 3, 4], lives_lost=[1]), game([5, 6], limit=True)], [game([1] * 9)]]
    actor = Actor(DeviceReplay(Layout(capacity, 2, FRAME_SHAPE, 3, 2, GAMMA)), 2)
    actor.start(AtariEnvs(ScriptedPool(games, stack=3), 2, episodic_life=True))
    for _ in range(steps):
        actor.step()
    return actor


def test_draws_are_uniform_and_the_generators() -> None:
    replay = filled().replay
    assert isinstance(replay, DeviceReplay)
    draws = 200 * len(replay)
    rows = replay.draw(draws, torch.Generator().manual_seed(5))
    counts = torch.bincount(rows, minlength=40)[torch.from_numpy(replay._valid.reshape(-1))]
    assert int(counts.sum()) == draws
    assert len(counts) == len(replay)
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    assert chi_square < len(counts) + 4 * np.sqrt(2 * len(counts))
    assert torch.equal(rows, replay.draw(draws, torch.Generator().manual_seed(5)))


def test_batches_have_the_same_types_as_the_hosts() -> None:
    replay = filled().replay
    assert isinstance(replay, DeviceReplay)
    one, other = replay.gather(torch.tensor([4, 5])), replay.transitions(np.array([4, 5]))
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a.dtype, a.shape, a.is_contiguous()) == (b.dtype, b.shape, b.is_contiguous()), field.name


def test_vectors_are_stacked_alike() -> None:
    """Frames of control tasks: float32, one at a time."""
    replay = DeviceReplay(Layout(20, 2, (3,), 1, 3, GAMMA, dtype="float32"))
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(2, 1, 3)).astype(np.float32)
    replay.start(observation)
    np.testing.assert_array_equal(replay.newest_observations().numpy(), observation)


@pytest.mark.parametrize("steps", [0, 7, 60], ids=["started", "filling", "full"])
def test_files_are_those_of_the_host(tmp_path: Path, steps: int) -> None:
    """A run that moves from one kind of device to the other takes its replay with it."""
    actor = filled(steps)
    actor.replay.save(tmp_path)
    host, again = FrameReplay(actor.replay.layout), filled(33).replay
    for replay in (host, again):
        replay.load(tmp_path)
    beside_again = Actor(again, 2)
    beside_again.log, beside_again.time, beside_again.observation = actor.log, actor.time, actor.observation
    beside(beside_again)
    for k in range(12):
        step = actor.envs.step(np.array([1000 + k, 2000 + k]))
        for replay in (host, again, actor.replay):
            replay.add(np.array([1000 + k, 2000 + k]), step)
        rows = np.flatnonzero(host._valid.reshape(-1))
        assert isinstance(again, DeviceReplay)
        if len(rows):
            same(again.gather(torch.from_numpy(rows)), host.transitions(rows))


def test_the_device_holds_what_preflight_counts() -> None:
    layout = Layout(1000, 7, (84, 84), 4, 3, 0.99)
    replay = DeviceReplay(layout)
    assert sum(mirror.nbytes for mirror in replay._mirror.values()) + replay._frames.nbytes == layout.nbytes
