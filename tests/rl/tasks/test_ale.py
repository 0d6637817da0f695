"""ale-py's vector environment beside EnvPool, frame by frame."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest

from evaluation.cli.errors import UserError
from rl import TrainConfig, tasks
from rl.tasks import ale, atari
from rl.tasks.atari import make_envs
from rl.tasks.protocols import STICKY
from rl.tasks.task import EnvConfig
from rl.view.screens import AtariScreens, make_screens

pytest.importorskip("ale_py.vector_env")
# Without no-ops and sticky actions, which both draw by generators of their own: FIRE begins each game.
SAME_START = dataclasses.replace(STICKY, noop_max=1, fire_reset=True, repeat_action_probability=0.0)
FLAGS = ("reward", "score", "terminated", "truncated", "game_over", "ignored", "new_game", "lives")


@pytest.mark.parametrize(("game", "size"), [("Breakout", (84, 84)), ("SpaceInvaders", (42, 50))])
def test_frames_rewards_and_ends_are_envpools_to_the_bit(game: str, size: tuple[int, int]) -> None:
    made = []
    for source in ("envpool", "ale"):
        env = EnvConfig(source=source, threads=1, height=size[0], width=size[1])  # type: ignore[arg-type]
        made.append(make_envs(game, SAME_START, env, num_envs=3, seed=1, training=True))
    one, other = made
    assert one.num_actions == other.num_actions
    rng, games = np.random.default_rng(0), 0
    assert np.array_equal(one.reset(), other.reset())
    for _ in range(450):
        actions = rng.integers(one.num_actions, size=3)
        a, b = one.step(actions), other.step(actions)
        assert np.array_equal(a.observation, b.observation)
        for flag in FLAGS:
            assert np.array_equal(getattr(a, flag), getattr(b, flag)), flag
        games += int(a.game_over.sum())
    assert games  # over the boundary between games, too
    assert int(a.lives.sum()) > 0


def test_the_same_seed_and_actions_give_the_same_games_and_others_other_ones() -> None:
    env = EnvConfig(source="ale", protocol="sticky", threads=1, height=20, width=20)
    protocol = dataclasses.replace(STICKY, noop_max=30)

    def play(seed: int) -> Any:
        envs = make_envs("Pong", protocol, env, num_envs=4, seed=seed, training=True)
        observation = [envs.reset()]
        return np.array(observation + [envs.step([0, 2, 3, t % 6]).observation for t in range(40)])

    assert np.array_equal(play(1), play(1))
    assert not np.array_equal(play(1), play(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "classic"}, "--env.source ale: protocol classic ends episodes at lost lives"),
        ({"protocol": "sticky", "mode": 1}, "--env.mode: ale-py's vector environment plays the default only"),
    ],
)
def test_what_it_cannot_do_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.preset(game="Pong", env={"source": "ale", **options}).validate()


def test_it_has_all_actions_where_they_are_asked_for() -> None:
    for full, count in ((False, 6), (True, 18)):
        env = EnvConfig(source="ale", protocol="sticky", threads=1, full_actions=full)
        assert make_envs("Pong", STICKY, env, num_envs=1, seed=1, training=True).num_actions == count


def test_the_signature_names_the_source() -> None:
    task = tasks.find("Pong")
    assert set(task.source(EnvConfig())) == {"envpool"}
    assert task.source(EnvConfig(source="ale"))["source"] == "ale"


def test_the_whole_screen_in_colour_is_envpools_to_the_bit() -> None:
    env, how = EnvConfig(threads=1, height=210, width=160, stack=1), {"num_envs": 2, "seed": 1}
    one = AtariScreens(atari.make_pool("Breakout", SAME_START, env, **how, training=False, gray_scale=False))  # type: ignore[arg-type]
    other = AtariScreens(ale.make_pool("Breakout", SAME_START, env, **how, colour=True))  # type: ignore[arg-type]
    envs = make_envs("Breakout", SAME_START, env, **how, training=False)  # type: ignore[arg-type]
    observation = envs.reset()
    assert np.array_equal(one.reset(observation), other.reset(observation))
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(envs.num_actions, size=2)
        result = envs.step(actions)
        picture = other.step(actions, result)
        assert picture.shape == (2, 210, 160, 3)
        assert np.array_equal(one.step(actions, result), picture)
    assert (picture.max(axis=-1) > picture.min(axis=-1)).any(), "colours"


def test_the_screen_is_that_of_the_game_that_is_played() -> None:
    """With sticky actions, which each pool draws itself: rewards and lives are compared in every step."""
    task, env = tasks.find("Breakout"), EnvConfig(source="ale", protocol="sticky", threads=1)
    for seed in (4, 5):
        envs, rng = task.make(env, num_envs=3, seed=4, training=False), np.random.default_rng(0)
        screens, games = make_screens(task, env, num_envs=3, seed=seed), 0
        screens.reset(envs.reset())
        with contextlib.nullcontext() if seed == 4 else pytest.raises(RuntimeError, match="not the one that is played"):
            for _ in range(300):
                actions = rng.integers(envs.num_actions, size=3)
                result = envs.step(actions)
                screens.step(actions, result)
                games += int(result.game_over.sum())
            assert games
