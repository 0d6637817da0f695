"""The games that are shown are the evaluator's, and the picture is of the moment that the network sees."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rl import TrainConfig, tasks
from rl.agent import Agent
from rl.evaluate import evaluate
from rl.networks import build_network
from rl.tasks import atari
from rl.tasks.action_names import action_names
from rl.tasks.protocols import CLASSIC
from rl.view.film import Film, Moment
from rl.view.screens import AtariScreens, Frames, fitted, make_screens, resized

EPSILON = 0.7  # the games of an untrained network are short, and random actions count


def agent_of(game: str, **env: Any) -> Agent:
    """A network that has learned nothing."""
    config = TrainConfig.preset(None, game=game, env=env, precision="fp32", seed=5)
    config.validate()
    torch.manual_seed(5)
    task = tasks.find(config.game)
    envs = task.make(config.env, num_envs=1, seed=1, training=False)
    network = build_network(task.observation(config.env), envs.num_actions, config.network)
    envs.close()
    return Agent(network, config, network.layers[-1].out_features, torch.device("cpu"))


@pytest.fixture(scope="module")
def breakout() -> tuple[Agent, Film, list[Moment]]:
    """An agent, and two games of it side by side."""
    agent = agent_of("Breakout", threads=1)
    film = Film(agent, "Breakout", agent.config.env, games=2, seed=4, epsilon=EPSILON)
    moments: list[Moment] = []
    film.play(moments.append)
    return agent, film, moments


def test_scores_are_the_evaluators(breakout: tuple[Agent, Film, list[Moment]]) -> None:
    agent, film, _ = breakout
    how: dict[str, Any] = {"episodes": 2, "seed": 4, "epsilon": EPSILON}
    scores = evaluate(agent.act, "Breakout", agent.config.env, **how)
    assert sorted(film.scores) == sorted(scores)  # type: ignore[type-var]
    assert len(set(scores)) == 2, "two games that tell each other apart"


def test_games_come_one_after_another_whole(breakout: tuple[Agent, Film, list[Moment]]) -> None:
    _, film, moments = breakout
    for number in (1, 2):
        own = [moment for moment in moments if moment.game == number]
        assert [moment.step for moment in own] == list(range(len(own)))
        assert [moment.action is None for moment in own] == [False] * (len(own) - 1) + [True]
        assert own[0].score == 0
        assert own[-1].score == film.scores[number - 1]
        assert np.all(np.diff([moment.score for moment in own]) >= 0)
        assert len(own) > 50
    assert [moment.game for moment in moments] == sorted(moment.game for moment in moments)


def test_values_and_the_random_mark_belong_to_the_observation(breakout: tuple[Agent, Film, list[Moment]]) -> None:
    agent, _, moments = breakout
    random = 0
    for moment in moments[:60]:
        np.testing.assert_allclose(agent.values(moment.observation[None])[0], moment.values, rtol=1e-5, atol=1e-6)
        greedy = int(moment.values.argmax())
        assert moment.is_random == (moment.action not in (None, greedy))
        random += moment.is_random
    assert 60 * EPSILON * 0.3 < random < 60


def test_the_picture_is_of_the_moment(breakout: tuple[Agent, Film, list[Moment]]) -> None:
    """Grey and small, it is the newest frame that the network sees, and not the one before."""
    _, _, moments = breakout
    own = [moment for moment in moments if moment.game == 2][20:120]
    grey = [(moment.picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8) for moment in own]
    small = np.stack([resized(picture, 42, 42) for picture in grey]).astype(int)
    seen = np.stack([moment.observation[-1] for moment in own]).astype(int)
    moved, seen_moved = np.diff(small, axis=0), np.diff(seen, axis=0)  # ALE has greys of its own

    def likeness(a: Any, b: Any) -> float:
        return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])

    assert likeness(moved, seen_moved) > 0.95
    assert likeness(moved[1:], seen_moved[:-1]) < 0.5
    assert own[0].picture.shape == (210, 160, 3)
    assert len(np.unique(own[0].picture.reshape(-1, 3), axis=0)) > 5, "in colour"


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_both_pools_play_the_same_game_to_the_last_byte_of_memory(game: str) -> None:
    """With no-ops, FIRE, lost lives and resets: 400 random steps."""
    env = agent_of(game, threads=1).config.env
    how: dict[str, Any] = {"num_envs": 2, "seed": 9, "training": False}
    picture = {"img_height": 210, "img_width": 160, "stack_num": 1, "gray_scale": False}
    pools = [atari.make_pool(game, CLASSIC, env, **how), atari.make_pool(game, CLASSIC, env, **how, **picture)]
    for pool in pools:
        pool.reset()
    rng = np.random.default_rng(0)
    for _ in range(400):
        actions = rng.integers(pools[0].action_space.n, size=2).astype(np.int32)
        small, large = (pool.step(actions)[4]["ram"] for pool in pools)
        np.testing.assert_array_equal(small, large)


def test_a_screen_of_another_game_is_refused() -> None:
    task, env = tasks.find("Breakout"), agent_of("Breakout", threads=1).config.env
    envs = task.make(env, num_envs=1, seed=1, training=False)
    screens = make_screens(task, env, num_envs=1, seed=2)
    assert isinstance(screens, AtariScreens)
    screens.reset(envs.reset())
    rng = np.random.default_rng(0)

    def play() -> None:
        for _ in range(600):
            actions = rng.integers(envs.num_actions, size=1)
            screens.step(actions, envs.step(actions))

    with pytest.raises(RuntimeError, match="not the one that is played"):
        play()


@pytest.mark.parametrize("game", ["CartPole", "Acrobot", "MountainCar", "LunarLander"])
def test_control_tasks_are_drawn_from_their_observations(game: str) -> None:
    agent = agent_of(game)
    moments: list[Moment] = []
    film = Film(agent, game, agent.config.env, seed=2, epsilon=0.0)
    film.play(moments.append)
    assert film.scores == list(evaluate(agent.act, game, agent.config.env, episodes=1, seed=2, epsilon=0.0))
    assert moments[0].picture.shape == (300, 400, 3)
    assert not np.array_equal(moments[0].picture, moments[-1].picture)


def test_environments_without_a_screen_show_what_the_network_sees() -> None:
    observation = np.random.default_rng(0).integers(256, size=(2, 4, 6, 5), dtype=np.uint8)
    picture = Frames().reset(observation)
    assert picture.shape == (2, 6, 5, 3)
    np.testing.assert_array_equal(picture[..., 1], observation[:, -1])
    colour = observation[:, :3, None].repeat(3, axis=2)  # (2, 3 in the stack, 3 channels, 6, 5)
    colour[:, :, 1] = 0
    np.testing.assert_array_equal(Frames().reset(colour), np.moveaxis(colour[:, -1], 1, -1))


def test_actions_have_ales_names() -> None:
    assert action_names(tasks.find("Pong"), 6) == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert action_names(tasks.find("Breakout"), 4) == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert action_names(tasks.find("Breakout"), 18)[-1] == "DOWNLEFTFIRE"
    assert action_names(tasks.find("Breakout"), 5) == tuple(f"ACTION {i}" for i in range(5)), "not known"
    assert action_names(tasks.find("CartPole"), 2) == ("LEFT", "RIGHT")


@pytest.mark.parametrize("game", ["Freeway", "Seaquest", "Tutankham"])
def test_there_are_as_many_names_as_envpool_has_actions(game: str) -> None:
    envs = tasks.find(game).make(agent_of("Pong").config.env, num_envs=1, seed=1, training=False)
    assert "ACTION 0" not in action_names(tasks.find(game), envs.num_actions)


def test_names_follow_what_the_actions_do() -> None:
    """Pong's game of 18 actions, played with the ones that the six are said to be, is the game of six."""
    env = agent_of("Pong", threads=1).config.env
    own = tasks.find("Pong").make(env, num_envs=1, seed=3, training=False)
    full = tasks.find("Pong").make(dataclasses.replace(env, full_actions=True), num_envs=1, seed=3, training=False)
    assert (own.num_actions, full.num_actions) == (6, 18)
    names, every = action_names(tasks.find("Pong"), 6), action_names(tasks.find("Pong"), 18)
    np.testing.assert_array_equal(own.reset(), full.reset())
    for action in np.random.default_rng(0).integers(6, size=150):
        one, other = own.step(np.array([action])), full.step(np.array([every.index(names[action])]))
        np.testing.assert_array_equal(one.observation, other.observation)


def test_pictures_keep_their_means_and_proportions() -> None:
    picture = np.random.default_rng(0).integers(256, size=(210, 160, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resized(picture, 42, 32), np.rint(picture.reshape(42, 5, 32, 5, 3).mean((1, 3))))
    np.testing.assert_array_equal(resized(picture, 420, 320), picture.repeat(2, 0).repeat(2, 1))
    assert fitted(picture, 448, 360).shape == (420, 320, 3)
    assert fitted(picture, 46, 200).shape == (46, 35, 3)
