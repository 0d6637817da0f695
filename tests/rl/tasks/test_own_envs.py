"""The user's own environments: what really happened, in every autoreset mode, is in the replay and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rl.replay.ring import Batch, FrameReplay, Layout
from rl.step import EpisodeTracker
from rl.tasks.own import OwnEnvs
from tests.rl.tasks.scripted_gymnasium import Happened, Scripted, vector

# Ends and cuts of all sorts: at different times, at the same time, after a single step, one after the other.
SCRIPTS = ((3, -4, 1, 5, -1, -1), (-5, 2, -4, 1), (7, -2), (-3,), (-3,))
GAMMA = 0.9


class All:
    """Draws each valid row once."""

    def draw(self, valid: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.flatnonzero(valid)


def play(mode: AutoresetMode, n_step: int, steps: int = 60) -> tuple[list[list[Happened]], Batch, list[float]]:
    """What happened in each environment, what is in the replay, and the scores of the games in order."""
    pool = vector(mode, SCRIPTS)
    envs = OwnEnvs(pool, len(SCRIPTS), name="test", seed=3)
    n = len(SCRIPTS)
    replay = FrameReplay(Layout(n * (steps + 5), n, (3,), 1, n_step, GAMMA, "float32"), drawing=All())
    tracker = EpisodeTracker(n, window=10_000)
    observation = envs.reset()
    replay.start(observation)
    numbers = itertools.count()
    for _ in range(steps):
        actions = np.array([next(numbers) for _ in range(n)])
        step = envs.step(actions)
        assert (step.reward[step.ignored] == 0).all()
        assert not (step.terminated & step.truncated).any()
        assert not (step.ignored & step.game_over).any()
        assert step.observation.shape == (n, 1, 3)
        assert step.observation.dtype == np.float32
        replay.add(actions, step)
        tracker.add(step)
    scripted = [env for env in pool.envs if isinstance(env, Scripted)]
    return [env.happened for env in scripted], replay.sample(1, np.random.default_rng(0)), list(tracker.scores)


def true_n_steps(happened: Sequence[Happened], n: int) -> dict[int, tuple[Any, ...]]:
    """By the action that begins it: observation, n-step return, the observation to bootstrap from, its discount.

    Written from the definition: R = sum of gamma^k r_k up to the episode's end, its cut or n steps; discount gamma^m
    of the m steps, 0 after an end.
    """
    found: dict[int, tuple[Any, ...]] = {}
    for t, first in enumerate(happened):
        total, m = 0.0, 0
        for one in happened[t : t + n]:
            total += GAMMA**m * one.reward
            m += 1
            if one.terminated or one.truncated:
                break
        if m < n and not (one.terminated or one.truncated):
            continue  # the rest is not known yet
        found[first.action] = (first.observation, total, one.next_observation, 0.0 if one.terminated else GAMMA**m)
    return found


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_replay_holds_what_happened(mode: AutoresetMode, n_step: int) -> None:
    happened, batch, _ = play(mode, n_step)
    true: dict[int, tuple[Any, ...]] = {}
    for one in happened:
        true |= true_n_steps(one, n_step)
    actions = batch.action.tolist()
    assert len(actions) == len(set(actions)), "a transition is there twice"
    for row, action in enumerate(actions):
        observation, total, following, discount = true[action]
        assert tuple(batch.observation[row, 0].tolist()) == observation
        assert batch.reward[row].item() == pytest.approx(total, rel=1e-6)
        assert batch.discount[row].item() == pytest.approx(discount)
        if discount:
            assert tuple(batch.next_observation[row, 0].tolist()) == following
    missing = set(true) - set(actions)
    if n_step == 1 or mode is AutoresetMode.NEXT_STEP:
        assert not missing  # the ring is large enough for everything
    else:  # those that a pause of the others interrupts
        assert len(missing) < 0.5 * len(true)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_scores_are_those_of_whole_games(mode: AutoresetMode) -> None:
    happened, _, scores = play(mode, 1)
    true = []
    for one in happened:
        score = 0.0
        for each in one:
            score += each.reward
            if each.terminated or each.truncated:
                true.append(score)
                score = 0.0
    assert sorted(scores) == pytest.approx(sorted(true))


def test_same_step_pauses_for_cuts_only() -> None:
    """Ends alone cost no step: the next game goes on at once."""
    pool = vector(AutoresetMode.SAME_STEP, ((2, 1, 3), (4,)))
    envs = OwnEnvs(pool, 2, name="test")
    envs.reset()
    steps = [envs.step(np.zeros(2, np.int64)) for _ in range(30)]
    assert not any(step.ignored.any() for step in steps)
    assert [step.terminated[0] for step in steps[:6]] == [False, True, True, False, False, True]
    assert [step.new_game[0] for step in steps[:6]] == [False, True, True, False, False, True]
    assert steps[1].observation[0, 0].tolist() == [0, 1, 0]  # the first of the next game
    assert all(len(env.happened) == 30 for env in pool.envs)  # type: ignore[attr-defined]


def test_the_learned_reward_is_clipped_and_scaled_but_the_score_is_true() -> None:
    envs = OwnEnvs(vector(AutoresetMode.NEXT_STEP, ((3,),)), 1, name="test", reward_clip=True, reward_scale=0.5)
    envs.reset()
    rewards = [envs.step([0]) for _ in range(4)]
    assert [float(step.reward[0]) for step in rewards] == [0.5, 0.5, 0.5, 0.0]
    assert [float(step.score[0]) for step in rewards] == [0.5, 1.5, 2.5, 0.0]


def test_seeds_come_with_the_first_reset() -> None:
    pool = vector(AutoresetMode.NEXT_STEP, ((3,), (3,)))
    envs = OwnEnvs(pool, 2, name="test", seed=[11, 12])
    envs.reset()
    for _ in range(5):
        envs.step([0, 0])
    assert [env.seeds for env in pool.envs] == [[11, None], [12, None]]  # type: ignore[attr-defined]


def test_observations_are_fresh_although_the_pool_uses_its_own_again() -> None:
    pool = vector(AutoresetMode.NEXT_STEP, ((9,),))
    pool.copy = False
    envs = OwnEnvs(pool, 1, name="test")
    first = envs.reset()
    envs.step([0])
    assert first[0, 0].tolist() == [0, 0, 0]
