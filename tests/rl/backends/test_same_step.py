"""Resets within the step that ended an episode: every row is a transition, of the very games of next-step resets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rl.backends.same_step import SameStepSegment
from rl.step import EpisodeTracker, Step
from rl.tasks import EnvConfig, find
from rl.tasks.atari import AtariEnvs
from rl.tasks.own import OwnEnvs
from tests.rl.backends.truth import FRAME, GAMES, read, transitions
from tests.rl.tasks.scripted_env import ScriptedPool
from tests.rl.tasks.scripted_gymnasium import vector


def scripted(games: object = GAMES) -> AtariEnvs:
    pool = ScriptedPool(games, episodic_life=True, shape=FRAME)  # type: ignore[arg-type]
    return AtariEnvs(pool, len(pool.envs), episodic_life=True)


def test_every_row_is_a_transition_of_its_own_environment() -> None:
    told: list[Step] = []
    segment = SameStepSegment(lambda number: scripted(), told.append)
    segment.start()
    expected = [transitions(games, 40) for games in GAMES]
    before = segment.observation
    for t in range(40):
        step = segment.step(np.zeros(len(GAMES), np.int64))
        assert not step.ignored.any()
        for i, all_of_it in enumerate(expected):
            one = all_of_it[t]
            assert read(before[i]) == one.before, (i, t)
            assert read(step.observation[i]) == one.after, (i, t)
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (
                one.reward,
                one.terminated,
                one.truncated,
            )
        before = segment.observation
    # Where nothing ends at all, nothing is reset; where something is, that is told behind the step.
    ends = [any(games[t].terminated or games[t].truncated for games in expected) for t in range(40)]
    assert len(told) == 40 + sum(ends)


def test_scores_are_those_of_next_step_resets() -> None:
    """Also of the game whose last life is lost within a reset."""
    apart, within = EpisodeTracker(3), EpisodeTracker(3)
    envs, segment = scripted(), SameStepSegment(lambda number: scripted(), within.add)
    envs.reset()
    segment.start()
    for _ in range(300):
        apart.add(envs.step(np.zeros(3, np.int64)))
        segment.step(np.zeros(3, np.int64))
    for scores in ((15.0, 13.0), (10.0, 5.0), (3.0, 12.0)):
        assert set(scores) <= set(within.scores)
    assert set(within.scores) == set(apart.scores) == {15.0, 13.0, 10.0, 5.0, 3.0, 12.0}


def test_resetting_before_anything_was_played_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        scripted().reset_ended()


def test_a_resume_comes_back_to_the_same_games_and_tells_nobody(tmp_path: Path) -> None:
    told: list[Step] = []
    segment = SameStepSegment(lambda number: scripted(), told.append)
    segment.start()
    for _ in range(17):
        segment.step(np.zeros(3, np.int64))
    segment.save(tmp_path)
    other = SameStepSegment(lambda number: scripted(), told.append)
    told.clear()
    assert other.load(tmp_path, 0, print)
    assert not told
    for _ in range(10):
        a, b = (one.step(np.zeros(3, np.int64)) for one in (segment, other))
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(segment.observation, other.observation)
    assert told


@pytest.mark.parametrize("name", ["Breakout", "CartPole"])
def test_real_environments_play_on_as_with_next_step_resets(name: str) -> None:
    """The same actions at the same moments of each environment give the same observations, rewards and ends."""
    task, n, rng = find(name), 3, np.random.default_rng(0)
    env = EnvConfig(protocol="control") if name == "CartPole" else EnvConfig(height=42, width=42)

    def make(number: int = 0) -> object:
        return task.make(env, num_envs=n, seed=5, training=True)

    choices = rng.integers(2, size=(500, n)) if name == "CartPole" else rng.integers(4, size=(500, n))
    apart: list[list[tuple[bytes, ...]]] = [[] for _ in range(n)]
    envs = make()
    before, position = envs.reset(), np.zeros(n, int)  # type: ignore[attr-defined]
    while position.min() < len(choices):
        step = envs.step(choices[np.minimum(position, len(choices) - 1), range(n)])  # type: ignore[attr-defined]
        for i in np.flatnonzero(~step.ignored):
            apart[i].append(tuple(bytes(x[i]) for x in (before, step.observation, step.reward, step.terminated)))
        position += ~step.ignored
        before = step.observation
    segment = SameStepSegment(make, lambda step: None)  # type: ignore[arg-type]
    segment.start()
    before = segment.observation
    for t, actions in enumerate(choices):
        step = segment.step(actions)
        for i in range(n):
            seen = tuple(bytes(x[i]) for x in (before, step.observation, step.reward, step.terminated))
            assert seen == apart[i][t], (i, t)
        before = segment.observation
    assert sum(pair[3] == b"\x01" for pair in apart[0]) > 2  # episodes ended


@pytest.mark.parametrize("mode", AutoresetMode)
def test_ones_own_environment_gives_transitions_only(mode: AutoresetMode) -> None:
    pool = vector(mode, [[3, -2, -1, 2]])
    segment = SameStepSegment(lambda number: OwnEnvs(pool, 1, name="test", seed=3), lambda step: None)
    segment.start()
    before = segment.observation
    for t in range(30):
        step = segment.step(np.array([t]))
        (one,) = [env.happened[t] for env in pool.envs]  # type: ignore[attr-defined]
        assert (tuple(before[0, 0]), float(step.reward[0])) == (one.observation, one.reward)
        assert (bool(step.terminated[0]), bool(step.truncated[0])) == (one.terminated, one.truncated)
        if not one.terminated:  # where it ended, nothing is bootstrapped from what comes then
            assert tuple(step.observation[0, 0]) == one.next_observation
        assert not step.ignored.any()
        before = segment.observation
