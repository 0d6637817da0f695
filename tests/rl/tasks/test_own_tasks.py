"""Environments by Gymnasium's ids and by the user's functions: found, made, refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from evaluation.cli.errors import UserError
from rl import TrainConfig, tasks
from rl.evaluate import evaluate, signature
from rl.tasks import EnvConfig
from rl.tasks.own_tasks import OwnTask

HERE = "tests.rl.tasks.scripted_gymnasium"
ENV = EnvConfig(protocol="gymnasium")


def played(name: str, seed: int, **options: Any) -> np.ndarray:
    envs = tasks.find(name).make(EnvConfig(protocol="gymnasium", **options), num_envs=3, seed=seed, training=True)
    seen = [envs.reset(), *(envs.step([0, 1, t % 2]).observation for t in range(60))]
    envs.close()
    return np.array(seen)


def test_an_id_of_the_registry() -> None:
    task = tasks.find("gym:CartPole-v1")
    assert (task.family.name, task.observation(ENV).shape) == ("gymnasium", (1, 4))
    assert np.array_equal(played(task.name, 1), played(task.name, 1))
    assert not np.array_equal(played(task.name, 1), played(task.name, 2))
    first = played(task.name, 1)[0]
    assert len(np.unique(first, axis=0)) == 3, "each environment has a seed of its own"


def test_a_process_for_each_environment_changes_nothing() -> None:
    assert np.array_equal(played("gym:CartPole-v1", 1), played("gym:CartPole-v1", 1, processes=True))


def test_the_one_that_is_made_to_be_looked_at_is_made_as_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = OwnTask.make, []

    def make(self: OwnTask, env: EnvConfig, **how: Any) -> Any:
        made.append((env.patience, env.processes))
        return real(self, env, **how)

    monkeypatch.setattr(OwnTask, "make", make)
    options: dict[str, Any] = {"patience": 7.5, "processes": True}
    TrainConfig.preset("gymnasium", game=f"make:{HERE}:Countdown", precision="fp32", env=options).validate()
    assert made == [(7.5, True)]


@pytest.mark.parametrize("name", ["make_vector", "Countdown", "make_picture"])
def test_a_function_or_class_of_the_users(name: str) -> None:
    task = tasks.find(f"make:{HERE}:{name}")
    for training in (True, False):
        envs = task.make(ENV, num_envs=2, seed=3, training=training)
        assert envs.num_actions == 2
        assert envs.reset().shape == (2, *task.observation(ENV).shape)
        assert envs.step([1, 1]).score.tolist() == [0, 0]
        envs.close()
    assert task.make(ENV, num_envs=1, seed=0, training=True).mode is (  # type: ignore[attr-defined]
        AutoresetMode.SAME_STEP if name == "make_vector" else AutoresetMode.NEXT_STEP
    )
    assert task.observation(ENV).shape == ((1, 3, 8, 8) if name == "make_picture" else (1, 3))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gym:CartPol-v1", "--game gym:CartPol-v1: Environment `CartPol` doesn't exist.*CartPole"),
        ("CartPol2-v1", "an environment of Gymnasium's is --game gym:CartPol2-v1"),
        ("no_module:Env-v0", "--game no_module:Env-v0: there is no module 'no_module'"),
        ("make:no_module:f", "--env.make no_module:f: there is no module 'no_module'"),
        (f"make:{HERE}:make_vectr", "has no 'make_vectr'; did you mean 'make_vector'"),
        ("make:spaces here", "must be package.module:name"),
        (f"make:{HERE}:make_silent", "metadata.'autoreset_mode'. does not say.*SAME_STEP"),
        (f"make:{HERE}:make_dict", "its observations are Dict"),
        (f"make:{HERE}:make_continuous", "its actions are Box"),
        (f"make:{HERE}:make_number", "it made a int, where a gymnasium.Env was expected"),
    ],
)
def test_what_cannot_be_played_is_one_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tasks.find(name).make(ENV, num_envs=1, seed=0, training=True)
    faults = list(TrainConfig.preset("gymnasium", game=name, precision="fp32").faults())
    assert len(faults) == 1
    assert "\n" not in faults[0]


def test_the_flag_takes_the_place_of_the_game() -> None:
    made = f"{HERE}:Countdown"
    config = TrainConfig.preset(env={"make": made})
    config.validate()
    assert (config.game, config.env.protocol, config.env.make) == (f"make:{made}", "gymnasium", made)
    again = TrainConfig.from_dict(config.to_dict())
    assert again == config
    config.update({"game": "gym:CartPole-v1"}, "later layer")
    assert (config.game, config.env.make) == ("gym:CartPole-v1", None)
    with pytest.raises(UserError, match=r"--env.stack 2: gym:CartPole-v1 is a Gymnasium environment and has no"):
        TrainConfig.preset(game="gym:CartPole-v1", env={"stack": 2}).validate()


def test_evaluation_has_environments_of_its_own_and_plays_whole_games() -> None:
    def right(observation: Any, epsilon: float, rng: Any) -> Any:
        assert epsilon == 0  # the protocol's
        return np.ones(len(observation), np.int64)

    for name in ("make_vector", "Countdown"):
        scores = evaluate(right, f"make:{HERE}:{name}", ENV, episodes=5, seed=1)
        assert scores.tolist() == [1.0] * 5
    signed = signature("gym:CartPole-v1", ENV, episodes=5, seed=1, epsilon=None)
    assert {"gymnasium", "game", "protocol"} <= set(signed)
    assert "envpool" not in signed
