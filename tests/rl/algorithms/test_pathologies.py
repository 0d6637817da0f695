"""Diagnostics of DQN on networks and games whose answer is known."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algorithms.dqn import QLearner
from rl.algorithms.pathologies import (
    ValueAudit,
    churn,
    dormant_share,
    feature_rank,
    greedy_actions,
    hidden_outputs,
    network_health,
    unit_means,
)
from rl.evaluate import play_games
from rl.tasks import ObservationSpec
from rl.tasks.atari import AtariEnvs
from tests.rl.tasks.scripted_env import Event, ScriptedPool, game
from tests.rl.test_trainer import catch_config

GAMMA = 0.9


def learner(**options: Any) -> QLearner:
    torch.manual_seed(0)
    return QLearner(
        catch_config(Path("unused"), **options), 3, ObservationSpec((2, 16, 16), np.uint8), torch.device("cpu")
    )


def frames(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Random states."""
    return torch.from_numpy(rng.integers(0, 255, (count, 2, 16, 16), dtype=np.uint8))


# Dormant units --------------------------------------------------------------------------------------------------------


def test_dormant_share_by_hand() -> None:
    first = torch.tensor([0.0, 1.0, 1.0, 0.02])  # layer mean 0.505, so the threshold 0.025 of it is 0.0126
    second = torch.tensor([5.0, 0.13, 0.0, 0.0])  # mean 1.2825, threshold 0.0321
    assert dormant_share([first, second]) == 3 / 8
    assert dormant_share([first, second], tau=0.11) == 5 / 8
    assert dormant_share([torch.zeros(3), torch.ones(1)]) == 3 / 4  # a silent layer is dormant altogether


def test_unit_means_of_channels_and_units() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, 1] = -1.0
    maps[:, 2, 0, 0] = 8.0
    assert unit_means(maps).tolist() == [0.0, 0.5, 0.5]
    assert unit_means(torch.tensor([[1.0, -3.0], [3.0, 0.0]])).tolist() == [2.0, 1.5]


def test_units_that_never_fire_are_found_in_a_network() -> None:
    dqn = learner()  # 8 channels, 32 hidden units
    with torch.no_grad():
        for index, silent in ((0, 3), (3, 7)):
            layer: Any = dqn.network.layers[index]
            layer.weight.abs_()  # frames are positive: all units fire about alike
            layer.bias[:silent] = -1e3  # but these
    outputs = hidden_outputs(dqn, frames(50, np.random.default_rng(0)))
    assert [tuple(output.shape) for output in outputs] == [(50, 8, 7, 7), (50, 32)]
    health = network_health(dqn, frames, np.random.default_rng(0))
    assert health["dormant"] == (3 + 7) / 40
    assert 1 <= health["feature_rank"] <= 32 - 7


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_network_that_has_diverged_has_no_health(weight: float) -> None:
    """Not an error: a run at too high a learning rate goes on, and its score is what it is."""
    dqn = learner()
    with torch.no_grad():
        layer: Any = dqn.network.layers[3]
        layer.weight[0, 0] = weight
    health = network_health(dqn, frames, np.random.default_rng(0))
    assert math.isnan(health["dormant"])
    assert math.isnan(health["feature_rank"])


# Rank -----------------------------------------------------------------------------------------------------------------


def test_feature_rank_of_matrices_whose_rank_is_known() -> None:
    rng = np.random.default_rng(0)
    outer = torch.from_numpy(np.outer(rng.standard_normal(50), rng.standard_normal(20)))
    orthogonal = torch.linalg.qr(torch.from_numpy(rng.standard_normal((60, 40)))).Q
    assert feature_rank(outer) == 1
    assert feature_rank(orthogonal) == math.ceil(0.99 * 40)
    assert feature_rank(orthogonal, delta=0.5) == 20
    assert feature_rank(torch.zeros(10, 5)) == 0
    assert feature_rank(torch.diag(torch.tensor([97.0, 1.0, 1.0, 1.0]))) == 3  # 98 % with two, 99 % with three


@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_feature_rank_equals_that_of_an_svd(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for power in (0, 1, 3):
        left, right = rng.standard_normal((shape[0], 30)), rng.standard_normal((30, shape[1]))
        features = left * (1 + np.arange(30.0)) ** -power @ right
        singular = np.linalg.svd(features, compute_uv=False)
        expected = int(np.argmax(np.cumsum(singular) / singular.sum() >= 0.99)) + 1
        assert feature_rank(torch.from_numpy(features)) == expected


def test_network_health_takes_its_states_from_the_generator_given() -> None:
    dqn = learner()
    before = torch.get_rng_state(), copy.deepcopy(np.random.get_state())[2]  # noqa: NPY002
    assert network_health(dqn, frames, np.random.default_rng(0)) == network_health(
        dqn, frames, np.random.default_rng(0)
    )
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[2]  # noqa: NPY002


# Churn ----------------------------------------------------------------------------------------------------------------


def test_churn_by_hand_and_in_a_network() -> None:
    assert churn(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 0])) == 0.5
    dqn = learner()
    states = frames(64, np.random.default_rng(0))
    before = greedy_actions(dqn, states)
    assert churn(before, greedy_actions(dqn, states)) == 0
    with torch.no_grad():
        dqn.network.layers[-1].bias[1] += 1e3  # type: ignore[union-attr,operator]
    after = greedy_actions(dqn, states)
    assert after.tolist() == [1] * 64
    assert churn(before, after) == float((before != 1).double().mean())


# Overestimation -------------------------------------------------------------------------------------------------------


class Oracle:
    """In place of a learner: values are a function of the newest frame, actions do not matter."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.seen: list[tuple[int, int, int]] = []  # (environment, game, frame number)

    def values(self, observation: Tensor) -> Tensor:
        frames = [tuple(frame[-1].flatten().tolist()) for frame in observation]
        self.seen += [(env, number, frame) for env, _, number, frame in frames]
        best = torch.tensor([self.value(env, number, frame) for env, _, number, frame in frames])
        return torch.stack([best - 1, best, best - 2], dim=1)

    def act(self, observation: NDArray[Any], epsilon: float, rng: np.random.Generator, values: Tensor) -> Any:
        return values.argmax(dim=1).numpy()


def audit(games: list[list[list[Event]]], episodes: int, value: Any, *, episodic: bool, pool_episodic: bool) -> Any:
    oracle = Oracle(value)
    audited = ValueAudit(oracle, GAMMA, episodic_life=episodic)  # type: ignore[arg-type]
    pool = ScriptedPool(games, episodic_life=pool_episodic)
    play_games(
        audited.act,
        lambda n: AtariEnvs(pool, n, episodic_life=pool_episodic),
        episodes,
        0.0,
        np.random.default_rng(0),
        max_envs=len(games),
        watch=audited.watch,
    )
    return audited


def discounted(rewards: list[float]) -> float:
    return sum(reward * GAMMA**k for k, reward in enumerate(rewards))


REWARDS = [0.0, 1.0, 0.0, 0.0, 2.0, 0.0, 3.0]


@pytest.mark.parametrize("pool_episodic", [False, True])
def test_returns_are_discounted_to_the_end_of_the_learning_episode(pool_episodic: bool) -> None:
    """A life is lost in step 3, whether the evaluation's environments reset then (FIRE) or not."""
    played = game(REWARDS, lives_lost=[3])
    audited = audit([[played]], 1, lambda *_: 10.0, episodic=True, pool_episodic=pool_episodic)
    expected = [discounted(REWARDS[t:4]) for t in range(4)] + [discounted(REWARDS[t:]) for t in range(4, 7)]
    predicted, obtained = audited.returns()
    assert obtained.tolist() == pytest.approx(expected)
    assert predicted.tolist() == [10.0] * 7  # the automatic reset's observation is no state
    assert audited.figures() == pytest.approx(
        {"q_overestimation": 10.0 - np.mean(expected), "q_return": np.mean(expected)}
    )


def test_a_protocol_without_episodic_life_goes_on_over_lost_lives() -> None:
    audited = audit([[game(REWARDS, lives_lost=[3])]], 1, lambda *_: 0.0, episodic=False, pool_episodic=False)
    assert audited.returns()[1].tolist() == pytest.approx([discounted(REWARDS[t:]) for t in range(7)])


def test_values_that_are_the_returns_are_not_overestimated_and_only_games_that_count_do() -> None:
    """Two environments, three games of different lengths: those played beyond the quota are left out."""
    scripts = [[[1.0, 0.0, 1.0], [0.0, 1.0]], [[0.0] * 4 + [5.0, 1.0]]]

    def value(env: int, number: int, frame: int) -> float:
        rewards = scripts[env][number % len(scripts[env])]
        return discounted(rewards[frame:])

    audited = audit([[game(r) for r in games] for games in scripts], 3, value, episodic=False, pool_episodic=False)
    predicted, obtained = audited.returns()
    assert len(obtained) == 3 + 2 + 6
    assert predicted == pytest.approx(obtained)
    assert audited.figures()["q_overestimation"] == pytest.approx(0, abs=1e-6)


def test_states_before_a_cut_whose_rest_is_unseen_are_left_out() -> None:
    rewards = [1.0] * 60
    audited = audit([[game(rewards, limit=True)]], 1, lambda *_: 0.0, episodic=False, pool_episodic=False)
    obtained = audited.returns()[1]
    far = [t for t in range(60) if GAMMA ** (60 - t) <= 0.01]
    assert 0 < len(far) < 60
    assert obtained.tolist() == pytest.approx([discounted(rewards[t:]) for t in far])
    short = audit([[game([1.0] * 5, limit=True)]], 1, lambda *_: 0.0, episodic=False, pool_episodic=False)
    assert short.figures() == {}


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_audited_policy_acts_as_the_learner_does(epsilon: float) -> None:
    dqn = learner()
    audited = ValueAudit(dqn, GAMMA, episodic_life=False)
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):
        observation = frames(16, one).numpy()
        frames(16, other)
        assert np.array_equal(audited.act(observation, epsilon, one), dqn.act(observation, epsilon, other))
    assert one.bit_generator.state == other.bit_generator.state
