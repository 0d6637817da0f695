"""Control tasks: their boundaries on real EnvPool, their facts against it, and whole runs through the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl import TrainConfig
from rl.algorithms.dqn import QLearner
from rl.evaluate import play_games
from rl.networks import VectorQNetwork
from rl.option_groups import NetworkConfig
from rl.replay.ring import FrameReplay, Layout
from rl.step import EpisodeTracker, Step, environment_seeds
from rl.tasks import EnvConfig, ObservationSpec
from rl.tasks.atari import make_envs
from rl.tasks.control import ControlEnvs
from rl.tasks.families import CONTROL_TASKS
from rl.tasks.protocols import CLASSIC

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = {task.name: task for task in CONTROL_TASKS}
Policy = Callable[[NDArray[np.float32]], int]
# Each ends its episodes within some hundred steps: leaning over, swinging up, falling down, rocking up the hill.
POLICIES: dict[str, Policy] = {
    "CartPole": lambda x: 1,
    "Acrobot": lambda x: 0 if x[4] >= 0 else 2,
    "LunarLander": lambda x: 0,
    "MountainCar": lambda x: 2 if x[1] >= 0 else 0,
}


def make(name: str, **options: Any) -> ControlEnvs:
    defaults = {"threads": 1, "reward_clip": False}
    how = {name: options.pop(name) for name in ("num_envs", "seed")}
    task = dataclasses.replace(TASKS[name], max_episode_steps=options.pop("max_episode_steps", None))
    return task.make(EnvConfig(**(defaults | options)), **how, training=True)


def episode(name: str, limit: int | None = None, seed: int = 3) -> list[Step]:
    """The steps of one episode and of the automatic reset after it."""
    envs = make(name, num_envs=1, seed=seed, threads=1, max_episode_steps=limit)
    observation, steps = envs.reset(), []
    while not (steps and steps[-1].ignored[0]):
        steps.append(envs.step([POLICIES[name](observation[0, 0])]))
        observation = steps[-1].observation
    return steps


def flags(step: Step) -> dict[str, bool]:
    names = ("terminated", "truncated", "game_over", "ignored", "new_game")
    return {name: True for name in names if getattr(step, name)[0]}


@pytest.mark.parametrize("name", TASKS)
def test_an_end_a_cut_and_an_end_at_the_very_limit(name: str) -> None:
    whole = episode(name, limit=1000)
    length = len(whole) - 1
    assert 5 < length < 1000
    assert flags(whole[-2]) == {"terminated": True, "game_over": True}
    assert not any(flags(step) for step in whole[:-2])

    cut = episode(name, limit=length - 1)
    assert len(cut) == length
    assert flags(cut[-2]) == {"truncated": True, "game_over": True}

    at_the_limit = episode(name, limit=length)
    assert len(at_the_limit) == length + 1
    assert flags(at_the_limit[-2]) == {"terminated": True, "game_over": True}
    for one, other in zip(whole[:-1], at_the_limit[:-1], strict=True):
        np.testing.assert_array_equal(one.observation, other.observation)


@pytest.mark.parametrize("name", TASKS)
def test_the_automatic_reset_is_no_transition_and_its_action_plays_no_role(name: str) -> None:
    last, reset = episode(name, limit=20)[-2:]
    assert flags(reset) == {"ignored": True, "new_game": True}
    assert (reset.reward[0], reset.score[0]) == (0, 0)
    assert not np.array_equal(last.observation, reset.observation)
    after = []
    for action in (0, 1):
        envs = make(name, num_envs=1, seed=3, threads=1, max_episode_steps=20)
        observation = envs.reset()
        for _ in range(20):
            observation = envs.step([POLICIES[name](observation[0, 0])]).observation
        after.append(envs.step([action]).observation)
    np.testing.assert_array_equal(*after)


@pytest.mark.parametrize("name", TASKS)
def test_the_rule_for_ends_agrees_with_envpool_where_envpool_says_so(name: str) -> None:
    """Thousands of steps of near-random play, no step limit: the rule holds exactly where EnvPool terminates."""
    n, rng = 32, np.random.default_rng(0)
    envs = make(name, num_envs=n, seed=1, threads=1, max_episode_steps=100_000)
    said: list[NDArray[np.bool_]] = []
    envs._pool = Recorder(envs._pool, said)
    observation, ends = envs.reset(), 0
    for _ in range(1_500):
        policy = np.array([POLICIES[name](row[0]) for row in observation])
        step = envs.step(np.where(rng.random(n) < 0.3, rng.integers(envs.num_actions, size=n), policy))
        observation = step.observation
        rule = TASKS[name].ended(observation[:, 0], step.score) & ~step.ignored
        np.testing.assert_array_equal(rule, said[-1] & ~step.ignored)
        ends += int(step.terminated.sum())
    assert ends > 50


class Recorder:
    """A pool that keeps what EnvPool said of ends."""

    def __init__(self, pool: Any, said: list[NDArray[np.bool_]]) -> None:
        self.pool, self.said = pool, said

    def reset(self) -> Any:
        return self.pool.reset()

    def send(self, actions: Any) -> None:
        self.pool.send(actions)

    def recv(self) -> Any:
        result = self.pool.recv()
        self.said.append(result[2])
        return result


@pytest.mark.parametrize("name", TASKS)
def test_shapes_types_and_facts_are_envpools(name: str) -> None:
    import envpool

    envs = make(name, num_envs=3, seed=1, threads=1)
    spec = envpool.make_spec(TASKS[name].env_id)
    observation = envs.reset()
    spaces = TASKS[name].observation(TrainConfig().env)
    assert spaces.shape == observation.shape[1:]
    assert observation.dtype == np.dtype(spaces.dtype) == np.float32
    assert TASKS[name].target == spec.config.reward_threshold
    step = envs.step([0, 1, envs.num_actions - 1])
    assert step.observation.shape == observation.shape
    assert {array.shape for key, array in vars(step).items() if key != "observation"} == {(3,)}
    assert step.reward.dtype == step.score.dtype == np.float32
    with pytest.raises(ValueError, match="actions must be in"):
        envs.step([0, 1, envs.num_actions])
    with pytest.raises(RuntimeError, match="reset"):
        ControlEnvs(envs._pool, 3, TASKS[name].ended).step([0, 0, 0])


def test_observations_stay_what_they_were() -> None:
    """The replay and the test rely on it: a later step does not write over what an earlier one returned."""
    envs = make("CartPole", num_envs=2, seed=1, threads=1)
    observation = envs.reset()
    before = observation.copy()
    first = envs.step([0, 1])
    kept = first.observation.copy()
    for _ in range(50):
        envs.step([1, 0])
    np.testing.assert_array_equal(observation, before)
    np.testing.assert_array_equal(first.observation, kept)


def test_the_same_seed_is_the_same_whatever_the_threads_and_neighbours_share_nothing() -> None:
    first = make("Acrobot", num_envs=4, seed=7, threads=1).reset()
    np.testing.assert_array_equal(first, make("Acrobot", num_envs=4, seed=7, threads=2).reset())
    other = make("Acrobot", num_envs=4, seed=8, threads=1).reset()
    assert len(np.unique(np.concatenate([first, other])[:, 0, 0])) == 8
    assert len({*environment_seeds(7, 4).tolist(), *environment_seeds(8, 4).tolist()}) == 8


def test_clipped_and_scaled_rewards_are_learned_from_and_scores_stay_true() -> None:
    options: dict[str, Any] = {"num_envs": 1, "seed": 3, "threads": 1}
    true, scaled, both = (
        make("LunarLander", **options, **more)
        for more in ({}, {"reward_scale": 0.25}, {"reward_clip": True, "reward_scale": 0.25})
    )
    for envs in (true, scaled, both):
        envs.reset()
    for _ in range(60):
        a, b, c = (envs.step([0]) for envs in (true, scaled, both))
        np.testing.assert_array_equal(a.score, a.reward)
        np.testing.assert_array_equal([b.score, c.score], [a.score, a.score])
        np.testing.assert_array_equal(b.reward, a.score * np.float32(0.25))
        np.testing.assert_array_equal(c.reward, np.sign(a.score) * np.float32(0.25))


def test_atari_rewards_are_scaled_after_the_clip() -> None:
    how = {"num_envs": 2, "seed": 1, "training": True}
    plain, scaled = (
        make_envs("Breakout", CLASSIC, EnvConfig(height=42, width=42, threads=1, **more), **how)
        for more in ({}, {"reward_scale": 0.1})
    )
    plain.reset(), scaled.reset()
    rng, seen = np.random.default_rng(0), 0
    for _ in range(300):
        actions = rng.integers(plain.num_actions, size=2)
        a, b = plain.step(actions), scaled.step(actions)
        np.testing.assert_array_equal(b.reward, a.reward * np.float32(0.1))
        np.testing.assert_array_equal(b.score, a.score)
        seen += int((a.reward != 0).sum())
    assert seen > 0


@pytest.mark.parametrize(("limit", "terminal"), [(6, False), (500, True)])
def test_replay_stores_vectors_and_cuts_returns_at_ends(limit: int, terminal: bool) -> None:
    """Every sampled 3-step transition is rebuilt from what the actor saw, over cuts and ends."""
    gamma, n_step = 0.9, 3
    envs = make("CartPole", num_envs=2, seed=5, threads=1, max_episode_steps=limit)
    replay = FrameReplay(Layout(1000, 2, (4,), 1, n_step, gamma, "float32"))
    log: list[tuple[NDArray[np.float32], Step]] = []
    observation = envs.reset()
    replay.start(observation)
    for t in range(60):
        step = envs.step([1, 1])
        replay.add([2 * t, 2 * t + 1], step)  # an action of its own for every transition
        log.append((observation, step))
        observation = step.observation
    batch = replay.sample(2000, np.random.default_rng(0))
    assert batch.observation.shape == (2000, 1, 4)
    ends = 0
    for k, action in enumerate(batch.action.tolist()):
        t, env = divmod(action, 2)
        assert not log[t][1].ignored[env]
        total, m, over = 0.0, 0, False
        while m < n_step and not over:
            now = log[t + m][1]
            total += gamma**m * float(now.reward[env])
            m += 1
            over = bool(now.terminated[env] or now.truncated[env])
        last = log[t + m - 1][1]
        ends += over
        np.testing.assert_array_equal(batch.observation[k].numpy(), log[t][0][env])
        np.testing.assert_array_equal(batch.next_observation[k].numpy(), last.observation[env])
        assert batch.reward[k].item() == pytest.approx(total, rel=1e-6)
        assert batch.discount[k].item() == pytest.approx(0.0 if last.terminated[env] else gamma**m, rel=1e-6)
    assert ends > 100
    assert bool((batch.discount == 0).any()) == terminal


def test_replay_files_keep_vectors_exactly(tmp_path: Path) -> None:
    envs = make("LunarLander", num_envs=2, seed=5, threads=1)
    layout = Layout(100, 2, (8,), 1, 1, 0.9, "float32")
    one, other = FrameReplay(layout), FrameReplay(layout)
    one.start(envs.reset())
    for _ in range(70):
        one.add([0, 1], envs.step([0, 1]))
    one.save(tmp_path)
    other.load(tmp_path)
    a, b = (replay.sample(64, np.random.default_rng(1)) for replay in (one, other))
    assert torch.equal(a.observation, b.observation)
    assert torch.equal(a.next_observation, b.next_observation)
    assert layout.nbytes == 100 * (8 * 4 + 11)
    with pytest.raises(ValueError, match="dtype"):
        FrameReplay(dataclasses.replace(layout, dtype="uint8")).load(tmp_path)
    (tmp_path / "replay-frames.npy").write_bytes((tmp_path / "replay-frames.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off"):
        other.load(tmp_path)


def test_scores_are_the_true_rewards_of_whole_episodes() -> None:
    """Always pushing right in CartPole: the score is the number of steps until the pole has fallen."""

    def policy(observation: Any, epsilon: float, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.ones(len(observation), np.int64)

    scores = play_games(
        policy,
        lambda n: make("CartPole", num_envs=n, seed=3, threads=1, reward_scale=0.1),
        6,
        0.0,
        np.random.default_rng(0),
        max_envs=2,
    )
    expected = []
    envs = make("CartPole", num_envs=2, seed=3, threads=1)
    tracker = EpisodeTracker(2)
    envs.reset()
    while tracker.finished < 8:
        expected += tracker.add(envs.step([1, 1]))
    assert set(scores) <= set(expected)
    assert 8 <= scores.min() <= scores.max() <= 11


# The network ----------------------------------------------------------------------------------------------------------


def test_the_network_is_an_mlp_of_scaled_inputs() -> None:
    torch.manual_seed(0)
    network = VectorQNetwork(
        ObservationSpec((1, 2), "float32", (1.0, -2.0), (2.0, 0.5)), 3, NetworkConfig(units=[5, 7])
    )
    x = torch.randn(11, 1, 2)
    hidden = (x[:, 0].double() - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    linear = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [5, 7, 3]
    for layer in linear[:-1]:
        hidden = (hidden @ layer.weight.double().T + layer.bias.double()).clamp(min=0)
    hidden = hidden @ linear[-1].weight.double().T + linear[-1].bias.double()
    torch.testing.assert_close(network(x).double(), hidden, rtol=1e-5, atol=1e-6)


def test_layer_norm_and_the_tasks_scales_reach_the_network() -> None:
    config = TrainConfig.preset(game="MountainCar", network={"units": [8], "layer_norm": True})
    config.validate()
    learner = QLearner(config, 3, TASKS["MountainCar"].observation(config.env), torch.device("cpu"))
    assert [type(layer).__name__ for layer in learner.network.layers] == ["Linear", "LayerNorm", "ReLU", "Output"]
    task = TASKS["MountainCar"]
    for network in (learner.network, learner.target_network):
        seen: list[torch.Tensor] = []
        network.layers[0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        network(torch.tensor([[task.center]]) + torch.tensor([[task.scale]]))
        torch.testing.assert_close(seen[0], torch.ones(1, 2))


# Configurations -------------------------------------------------------------------------------------------------------


def test_a_control_game_takes_its_preset_and_leaves_out_what_only_atari_has(tmp_path: Path) -> None:
    config = TrainConfig.preset(game="cart_pole", seed=3)
    config.validate()
    assert (config.game, config.env.protocol, config.precision) == ("CartPole", "control", "fp32")
    values = config.to_dict()
    assert {"height", "width", "stack", "mode", "difficulty"}.isdisjoint(values["env"])
    every_family = {"cls", "layer_norm", "dueling", "noisy", "noisy_sigma", "spectral_norm"}
    assert set(values["network"]) == {"units"} | every_family
    assert TrainConfig.from_dict(values) == config
    assert TrainConfig.preset(game="Pong") == TrainConfig.preset("quick", game="Pong")


@pytest.mark.parametrize(
    ("preset", "options", "expected"),
    [
        (
            None,
            {"game": "CartPole", "env": {"height": 42}},
            "--env.height 42: CartPole is a control task and has no such option",
        ),
        (None, {"game": "Acrobot", "env": {"mode": 1}}, "--env.mode 1: Acrobot is a control task and has no such"),
        (None, {"game": "Acrobot", "env": {"protocol": "sticky"}}, "its protocol is control (--preset control)"),
        ("quick", {"game": "CartPole"}, "--env.protocol classic: CartPole is a control task: its protocol is control"),
        ("control", {"game": "Pong"}, "--env.protocol control: Pong is an Atari game: its protocol is nature or class"),
        ("quick", {"network": {"units": [8]}}, "--network.units 8: Pong is an Atari game and has no such option"),
        (None, {"game": "CartPole", "network": {"standardize": True}}, "--network.standardize true: CartPole is a"),
        (None, {"game": "CartPoole"}, "unknown game 'CartPoole': did you mean CartPole"),
    ],
)
def test_options_of_the_other_kind_of_games_are_refused(
    preset: str | None, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.preset(preset, **options).validate()
    assert expected in str(caught.value)


def test_atari_environments_of_a_control_task_are_refused() -> None:
    with pytest.raises(ValueError, match="'CartPole' is not the name of an Atari game"):
        make_envs("CartPole", CLASSIC, EnvConfig(), num_envs=1, seed=1, training=True)
