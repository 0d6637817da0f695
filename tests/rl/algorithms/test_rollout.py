"""Lambda returns and what PQN learns from, against the sum over n-step returns, on scripted games."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.random_steps import random_steps
from rl import TrainConfig
from rl.algorithms.algorithm import Part, Setup
from rl.algorithms.pqn import PQN
from rl.algorithms.rollout import Rollout, lambda_returns
from rl.step import Step
from rl.tasks import ObservationSpec
from rl.tasks.atari import AtariEnvs
from rl.trainer import schedule_of
from tests.rl.replay.test_replay import draw_games
from tests.rl.tasks.scripted_env import FRAME_SHAPE, Game, ScriptedPool, game

GAMMA, ACTIONS, STACK = 0.9, 3, 2


def value_of(frame: NDArray[Any]) -> float:
    """The value of an observation by its newest frame: (environment, run, game, frame number)."""
    env, run, number, frame_number = (int(pixel) for pixel in frame.reshape(-1))
    return 1.0 + env * 0.37 + run * 5.0 + number * 1.7 + frame_number * 0.11


def forward_view(rewards: list[float], values: list[float], ends: bool, gamma: float, td_lambda: float) -> float:
    """The return of a step by its definition: (1 - lambda) sum over n of lambda^(n-1) G^(n), the rest on the longest.

    Args:
        rewards: of this step and all after it in the same episode and rollout.
        values: of the observations that these led to.
        ends: the last of them was terminal.
    """
    horizon, total = len(rewards), 0.0
    for n in range(1, horizon + 1):
        bootstrap = 0.0 if ends and n == horizon else gamma**n * values[n - 1]
        n_step = sum(gamma**k * rewards[k] for k in range(n)) + bootstrap
        weight = td_lambda ** (n - 1) * (1.0 if n == horizon else 1 - td_lambda)
        total += weight * n_step
    return total


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_lambda_returns_are_the_forward_view(data: st.DataObject) -> None:
    steps, td_lambda = data.draw(st.integers(1, 9), "steps"), data.draw(st.sampled_from([0.0, 0.3, 0.65, 1.0]))
    numbers = st.lists(st.floats(-5, 5), min_size=steps, max_size=steps)
    rewards, values = data.draw(numbers, "rewards"), data.draw(numbers, "values")
    ends = data.draw(st.lists(st.sampled_from("...TCI"), min_size=steps, max_size=steps), "ends")
    column = [np.array(one, np.float32)[:, None] for one in (rewards, values)]
    discount = np.array([0.0 if end == "T" else GAMMA for end in ends], np.float32)[:, None]
    found = lambda_returns(*column, discount, np.array([end == "." for end in ends])[:, None], td_lambda)
    for t in range(steps):
        last = next((k for k in range(t, steps) if ends[k] != "."), steps - 1)
        part = slice(t, last + 1)
        expected = forward_view(rewards[part], values[part], ends[last] == "T", GAMMA, td_lambda)
        assert found[t, 0] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_lambda_one_sums_the_rewards_and_lambda_zero_looks_one_step_ahead() -> None:
    reward = np.array([[1], [10], [100]], np.float32)
    value, discount = np.array([[7], [8], [9]], np.float32), np.full((3, 1), 0.5, np.float32)
    goes_on = np.ones((3, 1), np.bool_)
    assert lambda_returns(reward, value, discount, goes_on, 1.0)[:, 0].tolist() == [32.125, 62.25, 104.5]
    assert lambda_returns(reward, value, discount, goes_on, 0.0)[:, 0].tolist() == [4.5, 14.0, 104.5]


def test_nothing_leaks_from_behind_an_end() -> None:
    """Not even what is not finite, as values of a new game may be once a network has diverged."""
    reward, value = np.ones((3, 1), np.float32), np.array([[2], [np.inf], [np.nan]], np.float32)
    goes_on = np.array([[False], [True], [True]])
    returns = lambda_returns(reward, value, np.full((3, 1), 0.5, np.float32), goes_on, 0.65)
    assert returns[0, 0] == 2.0


# The whole algorithm on scripted games -------------------------------------------------------------------------------


@dataclass
class Seen:
    """One step of one environment as the actor saw it."""

    frame: NDArray[np.uint8]  # the newest of the observation
    action: int
    reward: float
    terminated: bool
    ends: bool  # terminated, truncated or cut
    ignored: bool
    next_frame: NDArray[np.uint8]


def make(num_envs: int, **pqn: Any) -> PQN:
    """PQN whose values are `value_of`, and which notes what it would learn from in `parts`."""
    config = TrainConfig.preset(
        "pqn-quick",
        gamma=GAMMA,
        precision="fp32",
        total_steps=100_000,
        overlap=False,
        pqn=pqn,
        env={"num_envs": num_envs},
        network={"channels": [2], "kernels": [1], "strides": [1], "hidden": 4, "standardize": False},
        optimizer="adam",
    )
    spec = ObservationSpec((STACK, *FRAME_SHAPE), np.uint8)
    shifts: list[int] = []
    algorithm = PQN(Setup(config, spec, ACTIONS, torch.device("cpu"), schedule_of(config), shifts.append))
    parts: list[Part] = []

    def values(observation: Tensor) -> Tensor:
        best = torch.tensor([value_of(one[-1].numpy()) for one in observation])
        return torch.stack([best - 1, best, best - 2], 1)

    def update(part: Part) -> dict[str, Tensor]:
        parts.append(part)
        return {"loss": torch.zeros(())}

    algorithm.learner.values = values  # type: ignore[method-assign]
    algorithm.learner.update = update  # type: ignore[method-assign]
    algorithm.parts, algorithm.shifts = parts, shifts  # type: ignore[attr-defined]
    return algorithm


class Player:
    """Does as the trainer does, and writes down what the present rollout must hold."""

    def __init__(self, algorithm: PQN, num_envs: int) -> None:
        self.algorithm, self.step_number = algorithm, 0
        self.rows: list[list[Seen]] = [[] for _ in range(num_envs)]

    def start(self, games: list[list[Game]], *, run: int = 0, episodic_life: bool = True) -> None:
        pool = ScriptedPool(games, stack=STACK, episodic_life=episodic_life, run=run)
        self.envs = AtariEnvs(pool, len(games), episodic_life=episodic_life)
        self.observation = self.envs.reset()
        self.algorithm.start(self.observation)

    def step(self) -> None:
        actions = self.algorithm.act(self.observation, self.step_number)
        step = self.envs.step(actions)
        for i, rows in enumerate(self.rows):
            ends = bool(step.terminated[i]), bool(step.terminated[i] or step.truncated[i]), bool(step.ignored[i])
            before, after = self.observation[i, -1], step.observation[i, -1]
            rows.append(Seen(before, int(actions[i]), float(step.reward[i]), *ends, after))
        self.observation = step.observation
        self.step_number += self.envs.num_envs
        self.algorithm.advance(actions, step, self.step_number)

    def cut(self) -> None:
        self.algorithm.cut()
        for rows in self.rows:
            if rows:
                rows[-1].ends = True

    def expected(self, td_lambda: float) -> dict[tuple[int, ...], tuple[int, float]]:
        """Observation by its newest frame -> action and return, of the rollout's transitions."""
        found = {}
        for rows in self.rows:
            for t, seen in enumerate(rows):
                if seen.ignored:
                    continue
                last = next((k for k in range(t, len(rows)) if rows[k].ends), len(rows) - 1)
                part = rows[t : last + 1]
                rewards, values = [one.reward for one in part], [value_of(one.next_frame) for one in part]
                target = forward_view(rewards, values, part[-1].terminated, GAMMA, td_lambda)
                found[tuple(seen.frame.reshape(-1).tolist())] = seen.action, target
        return found


def check(algorithm: PQN, expected: dict[tuple[int, ...], tuple[int, float]], epochs: int) -> None:
    """All parts of a rollout are equally large; its transitions come `epochs` times each or, to fill, more often."""
    parts: list[Part] = algorithm.parts  # type: ignore[attr-defined]
    assert len({len(part[0]) for part in parts}) == 1
    counts: dict[tuple[int, ...], int] = {}
    for observation, action, target in parts:
        for one, a, g in zip(observation, action.tolist(), target.tolist(), strict=True):
            key = tuple(one[-1].reshape(-1).tolist())
            assert key in expected, "a transition that is none"
            assert a == expected[key][0]
            assert g == pytest.approx(expected[key][1], rel=1e-4, abs=1e-4)
            counts[key] = counts.get(key, 0) + 1
    assert set(counts) == set(expected)
    assert min(counts.values()) >= epochs
    total = algorithm.config.rollout
    assert max(counts.values()) <= epochs * -(-total // len(expected))
    parts.clear()


def test_by_hand_at_each_kind_of_end() -> None:
    """lambda 1: plain sums up to where the chain is cut. V is 1 + 1.7 game + 0.11 frame in environment 0."""
    algorithm = make(1, rollout_steps=9, minibatches=1, epochs=1, td_lambda=1.0)
    player = Player(algorithm, 1)
    player.start([[game([1, 10, 100], lives_lost=[0]), game([1000, 0], limit=True), game([5] * 9)]])
    for _ in range(9):
        player.step()
    ((observation, _, target),) = algorithm.parts  # type: ignore[attr-defined]
    found = {tuple(one[-1].reshape(-1).tolist()[2:]): g for one, g in zip(observation, target.tolist(), strict=True)}
    assert found == {
        (0, 0): pytest.approx(1),  # the life is lost: no bootstrap
        (0, 2): pytest.approx(10 + 0.9 * 100),  # time 1 is ignored and pushes frame 2; game over
        (0, 3): pytest.approx(100),
        (1, 0): pytest.approx(1000 + 0.9 * (0 + 0.9 * (1 + 1.7 + 0.22))),  # truncated: bootstraps from frame 2
        (1, 1): pytest.approx(0 + 0.9 * (1 + 1.7 + 0.22)),
        (2, 0): pytest.approx(5 + 0.9 * (1 + 3.4 + 0.11)),  # the rollout's end, time 8
    }
    # 6 transitions of 9 rows: three come twice
    assert len(target) == 9


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_learns_from_what_the_actor_saw(data: st.DataObject) -> None:
    """Random games, lives, truncations, automatic resets, cuts in mid-rollout and between two."""
    num_envs, rollout_steps = data.draw(st.integers(1, 3), "environments"), data.draw(st.integers(2, 7), "rollout")
    td_lambda, epochs = data.draw(st.sampled_from([0.0, 0.65, 1.0]), "lambda"), data.draw(st.integers(1, 2), "epochs")
    minibatches = data.draw(st.sampled_from([1, rollout_steps]), "minibatches")
    algorithm = make(num_envs, rollout_steps=rollout_steps, minibatches=minibatches, epochs=epochs, td_lambda=td_lambda)
    player = Player(algorithm, num_envs)
    for run in range(data.draw(st.integers(1, 3), "runs")):
        games = draw_games(data, num_envs, resets=False)
        player.start(games, run=run, episodic_life=data.draw(st.booleans(), "episodic life"))
        for _ in range(data.draw(st.integers(0, 25), "steps")):
            player.step()
            if len(player.rows[0]) == rollout_steps:
                check(algorithm, player.expected(td_lambda), epochs)
                player.rows = [[] for _ in range(num_envs)]
        player.cut()
    assert algorithm.updates == player.step_number // algorithm.config.rollout * epochs * minibatches


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_remembered_in_mid_rollout_is_whole(data: st.DataObject) -> None:
    """Of the rollout that is played what has been played, of the one before it what is not overwritten."""
    num_envs, rollout_steps = data.draw(st.integers(1, 2), "environments"), data.draw(st.integers(2, 6), "rollout")
    td_lambda = data.draw(st.sampled_from([0.0, 0.65, 1.0]), "lambda")
    algorithm = make(num_envs, rollout_steps=rollout_steps, minibatches=1, epochs=1, td_lambda=td_lambda)
    player, before, rng = Player(algorithm, num_envs), [[] for _ in range(num_envs)], np.random.default_rng(0)

    def expected(rows: list[list[Seen]], part: slice) -> dict[tuple[int, ...], tuple[int, float]]:
        kept, player.rows = player.rows, [one[part] for one in rows]
        found, player.rows = player.expected(td_lambda), kept
        return found

    for run in range(data.draw(st.integers(1, 3), "runs")):
        player.start(draw_games(data, num_envs, resets=False), run=run)
        for _ in range(data.draw(st.integers(0, 14), "steps")):
            player.step()
            played = len(player.rows[0])
            if played == rollout_steps:
                before, player.rows, played = player.rows, [[] for _ in range(num_envs)], 0
            wanted = expected(player.rows, slice(0, max(0, played - 1))) | expected(before, slice(played + 1, None))
            part = algorithm.part(200, rng)
            if algorithm.updates == 0 or not wanted:
                assert part is None
                continue
            observation, action, target = part
            seen = set()
            for one, a, g in zip(observation, action.tolist(), target.tolist(), strict=True):
                key = tuple(one[-1].reshape(-1).tolist())
                assert (a, g) == (wanted[key][0], pytest.approx(wanted[key][1], rel=1e-4, abs=1e-4))
                seen.add(key)
            assert seen == set(wanted)  # 200 draws of at most 12
        player.cut()


def test_the_loss_changes_with_each_rollout_or_as_often_as_is_said() -> None:
    for every, expected in ((1, [4, 8, 12, 16]), (2, [8, 16]), (0, [])):
        algorithm = make(2, rollout_steps=2, minibatches=2, epochs=2, shift_every=every)
        player = Player(algorithm, 2)
        player.start([[game([0] * 99)]] * 2)
        for _ in range(8):
            player.step()
        assert algorithm.shifts == expected  # type: ignore[attr-defined]
        schedule = schedule_of(algorithm.config)
        follows = [update + 1 for update in range(16) if schedule.shift_follows(update)]
        assert follows == expected


def test_a_rollout_is_saved_and_read_whole(tmp_path: Path) -> None:
    spec, rng = ObservationSpec((STACK, *FRAME_SHAPE), np.uint8), np.random.default_rng(0)
    envs = AtariEnvs(
        ScriptedPool([[game([1, 2, 3], lives_lost=[1])]] * 2, stack=STACK, episodic_life=True), 2, episodic_life=True
    )
    one, other = (Rollout(4, 2, spec, GAMMA, 0.65) for _ in range(2))
    assert one.states(3, rng) is None
    one.start(envs.reset())
    for t in range(6):  # two steps into the second rollout: the rest of the first one is still there
        one.led_to(np.full(2, t, np.float32))
        if one.full:
            one.follow(one)
        one.add([0, 1], envs.step([0, 1]))
    one.save(tmp_path / "rollout.npz")
    other.load(tmp_path / "rollout.npz")
    assert (other.position, other.seen) == (2, 5)
    for rollout in (one, other):
        rollout.led_to(np.array([8, 9], np.float32))
    assert torch.equal(one.observation, other.observation)
    assert np.array_equal(one.returns(), other.returns())
    assert one.next_value[1].tolist() == [8, 9]
    drawn = [rollout.states(50, np.random.default_rng(1)) for rollout in (one, other)]
    assert torch.equal(*drawn)  # type: ignore[arg-type]
    assert (
        Rollout.nbytes(4, 2, spec)
        == sum(array.nbytes for array in (one.observation.numpy(), one.action, one.reward, one.next_value))
        + one.discount.nbytes
        + one.goes_on.nbytes
        + one.valid.nbytes
    )


def test_no_return_is_chained_over_a_pause() -> None:
    """One's own environments pause while another that was cut is reset: no transition, though no end either."""
    spec, no = ObservationSpec((1, 1), "float32", (0.0,), (1.0,)), np.zeros(2, np.bool_)
    rollout = Rollout(3, 2, spec, gamma=0.9, td_lambda=0.65)
    rollout.start(np.zeros((2, 1, 1), np.float32))
    value, zero = np.full(2, 10, np.float32), np.zeros(2, np.float32)
    for truncated, ignored in ((np.array([True, False]), no), (no, ~no), (no, no)):
        rollout.led_to(value)
        fields = {"reward": zero, "score": zero, "terminated": no, "game_over": truncated, "new_game": no}
        step = Step(np.zeros((2, 1, 1), np.float32), truncated=truncated, ignored=ignored, lives=zero, **fields)  # type: ignore[arg-type]
        rollout.add(np.zeros(2, np.int64), step)
    rollout.led_to(value)
    np.testing.assert_allclose(rollout.returns()[[0, 2]], 9.0)


def test_stacks_are_made_of_the_newest_frames_alone() -> None:
    """What a device keeps is what the environments returned, over ends of games and of lives, and rollouts."""
    spec, step = ObservationSpec((4, 3, 3), np.uint8), random_steps(np.random.default_rng(0), 6, 4, 3)
    whole, frames = (Rollout(5, 6, spec, GAMMA, 0.65, stacks=stacks) for stacks in (False, True))
    first = step().observation
    games = 0
    for rollout in (whole, frames):
        rollout.start(first)
    for _ in range(8):
        for _ in range(5):
            result = step()
            games += int(result.new_game.sum())
            whole.add(np.zeros(6, np.int64), result)
            hidden = result.observation.copy()
            hidden[:, :-1] = 0  # they do not go up
            frames.add(np.zeros(6, np.int64), dataclasses.replace(result, observation=hidden))
        assert torch.equal(whole.observation, frames.observation)
        for rollout in (whole, frames):
            rollout.follow(rollout)
    assert games > 3
