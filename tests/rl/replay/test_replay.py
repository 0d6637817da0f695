"""The replay against a slow list of what the actor saw, on scripted games and on real Breakout."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.replay.ring import FrameReplay, Layout
from rl.tasks import EnvConfig
from rl.tasks.atari import AtariEnvs, make_envs
from rl.tasks.protocols import NATURE
from tests.rl.replay.replay_oracle import GAMMA, Actor, check, check_all, fields, same, scripted
from tests.rl.tasks.scripted_env import FRAME_SHAPE, Event, Game, ScriptedPool, game


def table(actor: Actor) -> dict[int, tuple[float, float, list[int], list[int]]]:
    """action -> n-step reward, discount, frame numbers of observation and next observation; all valid transitions."""
    batch = actor.replay.sample(2000, np.random.default_rng(0))
    rows = zip(
        batch.action.tolist(),
        batch.reward.tolist(),
        batch.discount.tolist(),
        batch.observation[:, :, 1, 1].tolist(),
        batch.next_observation[:, :, 1, 1].tolist(),
        strict=True,
    )
    return {action: (round(reward, 5), round(discount, 5), *frames) for action, reward, discount, *frames in rows}


# By hand: with one environment the action is the time step -----------------------------------------------------------


def test_three_step_returns_up_to_a_terminal() -> None:
    actor = scripted([[game([1, 10, 100, 1000])]], n_step=3, steps=4)
    assert table(actor) == {
        0: (1 + 9 + 81, 0.729, [0, 0, 0], [1, 2, 3]),
        1: (10 + 90 + 810, 0, [0, 0, 1], [2, 3, 4]),
        2: (100 + 900, 0, [0, 1, 2], [2, 3, 4]),
        3: (1000, 0, [1, 2, 3], [2, 3, 4]),
    }


def test_three_step_returns_up_to_a_truncation_bootstrap_with_fewer_steps() -> None:
    actor = scripted([[game([1, 10, 100, 1000], limit=True)]], n_step=3, steps=4)
    assert table(actor) == {
        0: (91, 0.729, [0, 0, 0], [1, 2, 3]),
        1: (910, 0.729, [0, 0, 1], [2, 3, 4]),
        2: (1000, 0.81, [0, 1, 2], [2, 3, 4]),
        3: (1000, 0.9, [1, 2, 3], [2, 3, 4]),
    }


def test_no_transition_across_an_automatic_reset() -> None:
    """Game 0 is two steps long: time 2 is ignored, and the next game's frames start over."""
    actor = scripted([[game([1, 10]), game([100, 100, 100])]], n_step=2, steps=5)
    assert table(actor) == {
        0: (10, 0, [0, 0, 0], [0, 1, 2]),
        1: (10, 0, [0, 0, 1], [0, 1, 2]),
        3: (190, 0.81, [0, 0, 0], [0, 1, 2]),
    }


def test_a_lost_life_ends_returns_but_not_the_stack() -> None:
    actor = scripted([[game([1, 10, 100, 1000, 0, 0], lives_lost=[1])]], n_step=2, steps=5)
    assert table(actor) == {
        0: (10, 0, [0, 0, 0], [0, 1, 2]),
        1: (10, 0, [0, 0, 1], [0, 1, 2]),
        3: (1000, 0.81, [1, 2, 3], [3, 4, 5]),  # time 2 is ignored and pushes frame 3
    }


def test_unfinished_returns_are_not_sampled() -> None:
    actor = scripted([[game([1] * 20)]], n_step=3)
    counts = []
    for _ in range(5):
        counts.append(len(actor.replay))
        actor.step()
    assert counts == [0, 0, 0, 1, 2]


def test_cut_bootstraps_from_the_newest_frame() -> None:
    actor = scripted([[game([1, 10, 100, 1000])]], n_step=3, steps=2)
    assert len(actor.replay) == 0
    actor.cut()
    assert table(actor) == {0: (10, 0.81, [0, 0, 0], [0, 1, 2]), 1: (10, 0.9, [0, 0, 1], [0, 1, 2])}
    actor.start(AtariEnvs(ScriptedPool([[game([5, 5])]], stack=3, run=1), 1, episodic_life=True))
    actor.step()
    actor.step()
    rows = table(actor)
    assert rows.pop(2) == (9.5, 0, [0, 0, 0], [0, 1, 2]), "the stack does not reach back over the cut"
    assert rows.pop(3) == (5, 0, [0, 0, 1], [0, 1, 2])
    assert set(rows) == {0, 1}
    check_all(actor)


def test_cut_right_after_an_end_adds_nothing() -> None:
    for steps in (2, 3):  # after the terminal step, after the ignored one
        actor = scripted([[game([1, 10])]], n_step=2, steps=steps)
        before = table(actor)
        actor.cut()
        assert table(actor) == before
        assert len(actor.replay) == 2


def test_the_ring_wraps() -> None:
    actor = scripted([[game(list(range(300)))]], capacity=10, stack=3, n_step=2, steps=25)
    assert len(actor.replay) == 10 - 2 - 2  # without the oldest stack - 1 slots and the newest n
    assert sorted(table(actor)) == [18, 19, 20, 21, 22, 23]
    check_all(actor)


# Against the list of what the actor saw -------------------------------------------------------------------------------

events = st.lists(
    st.builds(
        Event,
        reward=st.integers(-3, 3).map(float),
        life_lost=st.sampled_from([False, False, False, True]),
        dies_in_reset=st.sampled_from([False, False, True]),
    ),
    max_size=7,
)
endings = st.sampled_from(
    [
        Event(1.0, game_over=True),
        Event(2.0, limit=True),
        Event(3.0, game_over=True, limit=True),
        Event(4.0, True, limit=True),
    ]
)


@st.composite
def scripts(draw: st.DrawFn) -> Game:
    game = [*draw(events), draw(endings)]
    dies = next((t for t, event in enumerate(game) if event.dies_in_reset and event.life_lost), None)
    return game if dies is None else game[: dies + 1]


def draw_games(data: st.DataObject, num_envs: int, *, resets: bool) -> list[list[Game]]:
    """Scripts of `num_envs` environments; without `resets` at lost lives no game ends in one."""
    one_life = st.lists(scripts(), min_size=1, max_size=3)
    games = data.draw(st.lists(one_life, min_size=num_envs, max_size=num_envs), "games")
    if resets:
        return games
    games = [[[dataclasses.replace(e, dies_in_reset=False) for e in g] for g in script] for script in games]
    return [[g if g[-1].game_over or g[-1].limit else [*g, Event(game_over=True)] for g in s] for s in games]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_sampled_transition_is_what_the_actor_saw(data: st.DataObject) -> None:
    num_envs = data.draw(st.integers(1, 3), "environments")
    stack, n_step = data.draw(st.integers(1, 4), "stack"), data.draw(st.integers(1, 4), "n-step")
    slots = data.draw(st.integers(stack + n_step + 1, 24), "slots")
    episodic_life = data.draw(st.booleans(), "episodic life")
    replay = FrameReplay(Layout(slots * num_envs, num_envs, FRAME_SHAPE, stack, n_step, GAMMA))
    actor = Actor(replay, num_envs)
    for run in range(data.draw(st.integers(1, 3), "runs")):
        games = draw_games(data, num_envs, resets=episodic_life)
        pool = ScriptedPool(games, stack=stack, episodic_life=episodic_life, run=run)
        actor.start(AtariEnvs(pool, num_envs, episodic_life=episodic_life))
        for _ in range(data.draw(st.integers(0, 40), "steps")):
            actor.step()
        if data.draw(st.booleans(), "look before the cut"):
            check_all(actor)
        actor.cut()
        check_all(actor)


def test_breakout_is_rebuilt_exactly() -> None:
    """Random policy, episodic life: over lost lives, games and the ring's end, stacks equal EnvPool's own."""
    num_envs, steps, slots = 2, 700, 300
    replay = FrameReplay(Layout(slots * num_envs, num_envs, (42, 42), 4, 3, 0.99))
    actor = Actor(replay, num_envs)
    small = EnvConfig(height=42, width=42, threads=1)
    envs = make_envs("Breakout", NATURE, small, num_envs=num_envs, seed=7, training=True)
    actor.start(envs)
    rng = np.random.default_rng(7)
    sampled = lost = over = 0
    for t in range(steps):
        actor.step(rng.integers(envs.num_actions, size=num_envs))
        if t in (250, 350, 500, steps - 1):  # before the ring is full, just after, and later
            expected = actor.expected(3, 0.99, slots, 4)
            assert len(replay) == len(expected)
            sampled += len(check(replay.sample(2000, np.random.default_rng(t)), expected))
    assert sampled > 1700, "nearly every valid transition was drawn"
    for log in actor.log:
        ignored = [seen for seen in log if seen.ignored]
        refilled = [bool((seen.next_observation == seen.next_observation[-1]).all()) for seen in ignored]
        over, lost = over + sum(refilled), lost + len(refilled) - sum(refilled)
    assert over >= 3
    assert lost >= 20


# Sampling -------------------------------------------------------------------------------------------------------------


def test_sampling_is_uniform_and_deterministic() -> None:
    actor = scripted([[game([0, 1, 2], limit=True)], [game([0] * 40)]], n_step=2, steps=30)
    draws = 200 * len(actor.replay)
    batch = actor.replay.sample(draws, np.random.default_rng(5))
    counts = np.unique(batch.action.numpy(), return_counts=True)[1]
    assert len(counts) == len(actor.replay)
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < len(counts) + 4 * np.sqrt(2 * len(counts))
    same(batch, actor.replay.sample(draws, np.random.default_rng(5)))


def test_batch_types() -> None:
    batch = scripted([[game([1] * 9)]] * 2, steps=5).replay.sample(7, np.random.default_rng(0))
    kinds = {
        field.name: (getattr(batch, field.name).dtype, tuple(getattr(batch, field.name).shape)) for field in fields()
    }
    assert kinds == {
        "observation": (torch.uint8, (7, 3, *FRAME_SHAPE)),
        "action": (torch.int64, (7,)),
        "reward": (torch.float32, (7,)),
        "next_observation": (torch.uint8, (7, 3, *FRAME_SHAPE)),
        "discount": (torch.float32, (7,)),
    }
    assert all(getattr(batch, field.name).is_contiguous() for field in fields())


def test_misuse_is_refused() -> None:
    actor = scripted([[game([1] * 9)]])
    with pytest.raises(ValueError, match="no transition"):
        actor.replay.sample(1, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="cut"):
        actor.replay.start(actor.observation)
    actor.replay.cut()
    with pytest.raises(RuntimeError, match="start"):
        actor.step()
