"""Boundaries of episodes, exactly, on scripted environments; `test_atari.py` has the real ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rl.step import EpisodeTracker, Step
from rl.tasks.atari import AtariEnvs
from rl.tasks.protocols import PROTOCOLS
from tests.rl.tasks.scripted_env import FRAME_SHAPE, Event, ScriptedPool, game


def play(pool: ScriptedPool, steps: int, *, episodic_life: bool = False) -> list[Step]:
    envs = AtariEnvs(pool, len(pool.envs), episodic_life=episodic_life)
    envs.reset()
    return [envs.step(np.zeros(envs.num_envs, np.int64)) for _ in range(steps)]


def flags(steps: list[Step], name: str) -> list[bool]:
    return [bool(getattr(step, name)[0]) for step in steps]


def where(steps: list[Step], name: str) -> list[int]:
    """The steps at which a flag of environment 0 is set."""
    return np.flatnonzero(flags(steps, name)).tolist()


def test_shapes_and_types() -> None:
    envs = AtariEnvs(ScriptedPool([[game([1.0])]] * 3, num_actions=6), 3, episodic_life=False)
    assert (envs.num_envs, envs.num_actions) == (3, 6)
    assert envs.reset().shape == (3, 4, *FRAME_SHAPE)
    observation = envs.reset()
    assert observation.shape == (3, 4, *FRAME_SHAPE)
    step = envs.step(np.zeros(3, np.int64))
    assert step.observation.shape == (3, 4, *FRAME_SHAPE)
    kinds = {name: (array.shape, array.dtype) for name, array in vars(step).items() if name != "observation"}
    assert kinds == {
        "reward": ((3,), np.float32),
        "score": ((3,), np.float32),
        "terminated": ((3,), np.bool_),
        "truncated": ((3,), np.bool_),
        "game_over": ((3,), np.bool_),
        "ignored": ((3,), np.bool_),
        "new_game": ((3,), np.bool_),
        "lives": ((3,), np.int32),
    }


def test_a_game_ends_then_one_ignored_step_starts_the_next() -> None:
    steps = play(ScriptedPool([[game([1, 2, 3]), game([4, 5])]]), 8)
    assert [float(step.reward[0]) for step in steps] == [1, 2, 3, 0, 4, 5, 0, 1]
    assert where(steps, "terminated") == [2, 5]
    assert where(steps, "game_over") == [2, 5]
    assert where(steps, "ignored") == [3, 6]
    assert where(steps, "new_game") == [3, 6]
    assert where(steps, "truncated") == []
    refilled = steps[3].observation[0]
    assert (refilled == refilled[-1]).all()


def test_a_step_limit_truncates_and_the_score_is_complete() -> None:
    steps = play(ScriptedPool([[game([1, 2], limit=True)]]), 5)
    assert where(steps, "truncated") == [1, 4]
    assert where(steps, "terminated") == []
    assert where(steps, "game_over") == [1, 4]
    assert where(steps, "ignored") == where(steps, "new_game") == [2]


def test_a_lost_life_ends_the_episode_but_not_the_game() -> None:
    steps = play(ScriptedPool([[game([0] * 6, lives_lost=[1, 3])]], episodic_life=True), 9, episodic_life=True)
    assert where(steps, "terminated") == [1, 4, 7]
    assert where(steps, "ignored") == [2, 5, 8]
    assert where(steps, "game_over") == [7]
    assert where(steps, "new_game") == [8]
    assert [int(step.lives[0]) for step in steps] == [5, 4, 4, 4, 3, 3, 3, 0, 5]
    for before, after in ((1, 2), (4, 5)):  # the stack goes on
        np.testing.assert_array_equal(steps[after].observation[0, :-1], steps[before].observation[0, 1:])


def test_lives_do_not_end_evaluation_episodes() -> None:
    steps = play(ScriptedPool([[game([0] * 6, lives_lost=[1, 3])]]), 7)
    assert where(steps, "terminated") == [5]
    assert where(steps, "ignored") == [6]


def test_an_end_at_the_very_limit_is_no_truncation() -> None:
    over = [Event(1.0), Event(1.0, game_over=True, limit=True)]
    steps = play(ScriptedPool([[over]]), 3)
    assert (where(steps, "terminated"), where(steps, "truncated"), where(steps, "game_over")) == ([1], [], [1])

    dead = [Event(1.0), Event(1.0, life_lost=True, limit=True)]
    steps = play(ScriptedPool([[dead]], episodic_life=True), 3, episodic_life=True)
    assert (where(steps, "terminated"), where(steps, "truncated"), where(steps, "game_over")) == ([1], [], [1])
    assert where(steps, "new_game") == [2]

    steps = play(ScriptedPool([[dead]]), 3)  # whole games: a lost life is nothing to the cut
    assert (where(steps, "terminated"), where(steps, "truncated"), where(steps, "game_over")) == ([], [1], [1])


def test_a_game_that_ends_in_the_reset_after_a_lost_life_is_seen() -> None:
    pool = ScriptedPool([[[Event(3.0), Event(life_lost=True, dies_in_reset=True)]]], episodic_life=True)
    steps = play(pool, 5, episodic_life=True)
    assert where(steps, "terminated") == [1, 4]
    assert where(steps, "ignored") == where(steps, "new_game") == where(steps, "game_over") == [2]
    assert (steps[2].observation[0] == steps[2].observation[0, -1]).all()
    tracker = EpisodeTracker(1)
    assert [tracker.add(step) for step in steps] == [[], [], [3.0], [], []]


def test_the_pools_word_counts_for_an_end() -> None:
    class SilentPool(ScriptedPool):
        def step(self, actions: Any) -> tuple[Any, ...]:
            *rest, info = super().step(actions)
            return *rest, info | {"lives": np.zeros(1, np.int32)}

    steps = play(SilentPool([[game([0] * 3, lives_lost=[1])]], episodic_life=True), 3, episodic_life=True)
    assert where(steps, "terminated") == [1]


def test_environments_are_independent() -> None:
    games = [[game([1, 1])], [game([1, 1, 1, 1], limit=True)], [game([2] * 50)]]
    steps = play(ScriptedPool(games), 6)
    ends = [np.flatnonzero([step.game_over[i] for step in steps]).tolist() for i in range(3)]
    assert ends == [[1, 4], [3], []]
    ignored = [np.flatnonzero([step.ignored[i] for step in steps]).tolist() for i in range(3)]
    assert ignored == [[2, 5], [4], []]


def test_clipped_and_true_rewards() -> None:
    steps = play(ScriptedPool([[game([7, -3, 0, 0.5])]], reward_clip=True), 4)
    assert [float(step.reward[0]) for step in steps] == [1, -1, 0, 1]
    assert [float(step.score[0]) for step in steps] == [7, -3, 0, 0.5]


def test_what_an_ignored_step_returns_never_counts() -> None:
    class NoisyPool(ScriptedPool):
        def step(self, actions: Any) -> tuple[Any, ...]:
            resetting = self.done.copy()
            observation, reward, terminated, truncated, info = super().step(actions)
            reward[resetting] = info["reward"][resetting] = 99.0
            return observation, reward, terminated, truncated, info

    steps = play(NoisyPool([[game([1, 2])]]), 6)
    assert [float(step.reward[0]) for step in steps] == [1, 2, 0, 1, 2, 0]
    tracker = EpisodeTracker(1)
    assert [score for step in steps for score in tracker.add(step)] == [3.0, 3.0]


def test_reset_starts_over() -> None:
    envs = AtariEnvs(ScriptedPool([[game([1, 1])]]), 1, episodic_life=False)
    envs.reset()
    envs.step([0])
    assert envs.step([0]).terminated.all()
    envs.reset()
    assert not envs.step([0]).ignored.any()


@pytest.mark.parametrize(
    "actions",
    [[0, 6], [-1, 0], [0], [0, 0, 0], [[0, 0]], [0.0, 1.0], [True, False], 0, ["0", "1"]],
    ids=str,
)
def test_bad_actions_are_refused(actions: Any) -> None:
    pool = ScriptedPool([[game([0] * 9)]] * 2, num_actions=6)
    envs = AtariEnvs(pool, 2, episodic_life=False)
    envs.reset()
    with pytest.raises(ValueError, match="actions must be"):
        envs.step(actions)
    assert pool.received == []


@pytest.mark.parametrize("kind", [list, np.array, lambda a: np.array(a, np.int32), lambda a: np.array(a, np.uint8)])
def test_good_actions_arrive(kind: Any) -> None:
    pool = ScriptedPool([[game([0] * 9)]] * 2, num_actions=6)
    envs = AtariEnvs(pool, 2, episodic_life=False)
    envs.reset()
    envs.step(kind([0, 5]))
    assert pool.received[0].tolist() == [0, 5]


def test_step_before_reset() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        AtariEnvs(ScriptedPool([[game([0])]]), 1, episodic_life=False).step([0])


def track(pool: ScriptedPool, steps: int, *, episodic_life: bool = False) -> tuple[list[float], EpisodeTracker]:
    tracker = EpisodeTracker(len(pool.envs))
    return [s for step in play(pool, steps, episodic_life=episodic_life) for s in tracker.add(step)], tracker


def test_scores_run_over_lost_lives_to_the_games_end() -> None:
    pool = ScriptedPool([[game([1, 2, 4, 8], lives_lost=[0, 2])]], episodic_life=True, reward_clip=True)
    scores, tracker = track(pool, 14, episodic_life=True)
    assert scores == [15.0, 15.0]
    assert tracker.finished == 2
    assert tracker.recent_mean() == 15.0


def test_scores_do_not_leak_over_a_truncation() -> None:
    scores, _ = track(ScriptedPool([[game([1, 2], limit=True), game([10]), game([100], limit=True)]]), 7)
    assert scores == [3.0, 10.0, 100.0]


def test_cut_forgets_games_in_flight() -> None:
    steps = play(ScriptedPool([[game([1, 2, 4])], [game([8])]]), 3)
    tracker = EpisodeTracker(2)
    assert tracker.add(steps[0]) == [8.0]
    tracker.cut()
    assert tracker.add(steps[1]) == []
    assert tracker.add(steps[2]) == [6.0, 8.0], "environment 0 counts from the cut on"
    assert list(tracker.scores) == [8.0, 6.0, 8.0]


def test_tracker_state_and_window() -> None:
    steps = play(ScriptedPool([[game([1, 2]), game([3]), game([4])]]), 8)
    whole, first = EpisodeTracker(1, window=2), EpisodeTracker(1, window=2)
    assert math.isnan(whole.recent_mean())
    for step in steps:
        whole.add(step)
    for step in steps[:5]:
        first.add(step)
    second = EpisodeTracker(1, window=2)
    second.load_state_dict(first.state_dict())
    for step in steps[5:]:
        second.add(step)
    assert second.state_dict() == whole.state_dict()
    assert list(whole.scores) == [3.0, 4.0]
    assert whole.finished == 3
    assert whole.recent_mean() == 3.5


def test_protocol_numbers() -> None:
    nature, classic, sticky = (PROTOCOLS[name] for name in ("nature", "classic", "sticky"))
    assert [p.max_episode_steps for p in (nature, classic, sticky)] == [4_500, 27_000, 27_000]
    assert [p.eval_epsilon for p in (nature, classic, sticky)] == [0.05, 0.01, 0.001]
    assert [p.episodic_life for p in (nature, classic, sticky)] == [True, True, False]
    assert [p.repeat_action_probability for p in (nature, classic, sticky)] == [0.0, 0.0, 0.25]
    assert [p.noop_max for p in (nature, classic, sticky)] == [30, 30, 1]
    assert [p.fire_reset for p in (nature, classic, sticky)] == [False, True, False]
    assert not any(p.full_action_space for p in PROTOCOLS.values())
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
