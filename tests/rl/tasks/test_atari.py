"""What EnvPool's Atari games do, on the real ones: the facts that `atari.py` and the scripted environments build on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.step import EpisodeTracker, Step
from rl.tasks import EnvConfig
from rl.tasks.atari import AtariEnvs, make_envs
from rl.tasks.protocols import CLASSIC, NATURE, STICKY, AtariProtocol

BREAKOUT_LIVES = 5
Played = tuple[list[NDArray[np.uint8]], list[Step]]


def make(game: str = "Breakout", protocol: AtariProtocol = NATURE, **options: Any) -> AtariEnvs:
    how = {name: options.pop(name, default) for name, default in (("num_envs", 1), ("seed", 3), ("training", True))}
    return make_envs(game, protocol, EnvConfig(**{"height": 42, "width": 42, "threads": 1, **options}), **how)


def play(envs: AtariEnvs, steps: int, seed: int = 0) -> Played:
    """Observations (steps + 1) and steps of a random policy; all environments get the same actions."""
    rng = np.random.default_rng(seed)
    observations, results = [envs.reset()], []
    for _ in range(steps):
        results.append(envs.step(np.full(envs.num_envs, rng.integers(envs.num_actions))))
        observations.append(results[-1].observation)
    return observations, results


def is_refilled(observation: NDArray[np.uint8]) -> bool:
    return bool((observation == observation[-1]).all())


@pytest.fixture(scope="module")
def one_breakout() -> Played:
    return play(make(), 400)


def test_breakout_loses_lives_and_games() -> None:
    observations, steps = play(make(num_envs=3), 500)
    assert is_refilled(observations[0][0]), "the first stack holds copies of one frame"
    lost = over = 0
    for t in range(1, len(steps)):
        before, now = steps[t - 1], steps[t]
        for i in range(3):
            assert now.ignored[i] == (before.terminated[i] or before.truncated[i])
            shifted = np.array_equal(observations[t + 1][i, :-1], observations[t][i, 1:])
            assert shifted or now.new_game[i]
            if before.game_over[i]:
                over += 1
                assert before.terminated[i]
                assert before.lives[i] == 0
                assert now.new_game[i]
                assert is_refilled(observations[t + 1][i])
                assert not shifted
                assert now.lives[i] == BREAKOUT_LIVES
            elif before.terminated[i]:
                lost += 1
                assert now.ignored[i]
                assert not now.new_game[i]
                assert now.lives[i] == before.lives[i] < BREAKOUT_LIVES
            if now.ignored[i]:
                assert now.reward[i] == now.score[i] == 0
    assert lost > 20
    assert over > 4


def test_the_action_of_an_ignored_step_changes_nothing() -> None:
    one, other = make(), make()
    np.testing.assert_array_equal(one.reset(), other.reset())
    rng = np.random.default_rng(1)
    ignored = False
    count = 0
    for _ in range(300):
        action = int(rng.integers(4))
        first, second = one.step([action]), other.step([(action + 1) % 4 if ignored else action])
        np.testing.assert_array_equal(first.observation, second.observation)
        count += ignored
        ignored = bool(first.terminated[0] or first.truncated[0])
    assert count >= 6


def test_evaluation_plays_whole_games() -> None:
    _, steps = play(make(training=False), 400)
    assert sum(bool(step.game_over[0]) for step in steps) >= 1
    assert all(step.terminated[0] == step.game_over[0] for step in steps)
    assert min(int(step.lives[0]) for step in steps if not step.terminated[0]) == 1


def test_the_step_limit_truncates_and_refills_the_stack() -> None:
    protocol = dataclasses.replace(NATURE, max_episode_steps=20)
    observations, steps = play(make("Pong", protocol), 64)
    for name, expected in {
        "truncated": [19, 40, 61],
        "game_over": [19, 40, 61],
        "ignored": [20, 41, 62],
        "new_game": [20, 41, 62],
        "terminated": [],
    }.items():
        assert np.flatnonzero([getattr(step, name)[0] for step in steps]).tolist() == expected, name
    assert all(is_refilled(observations[t + 1][0]) for t in (20, 41, 62))


def test_nature_cuts_a_game_at_4500_steps() -> None:
    envs = make(training=False, height=8, width=8)  # Breakout waits for FIRE: nobody presses it
    envs.reset()
    steps = [envs.step([0]) for _ in range(4_501)]
    assert np.flatnonzero([step.truncated[0] for step in steps]).tolist() == [4_499]
    assert not any(step.terminated[0] for step in steps)
    assert steps[4_500].new_game[0]


@pytest.mark.parametrize("what", ["life", "game"])
def test_an_end_at_the_very_limit_is_no_truncation(what: str, one_breakout: Played) -> None:
    """EnvPool calls it truncated only."""
    _, steps = one_breakout
    ended = [step.terminated[0] and (step.game_over[0] or what == "life") for step in steps]
    first = int(np.flatnonzero(ended)[0])
    elapsed = sum(not step.ignored[0] for step in steps[: first + 1])
    _, cut = play(make(protocol=dataclasses.replace(NATURE, max_episode_steps=elapsed)), first + 2)
    assert cut[first].terminated[0]
    assert not cut[first].truncated[0]
    assert cut[first].game_over[0]
    assert cut[first + 1].new_game[0]


def test_rewards_are_clipped_and_scores_are_not() -> None:
    _, steps = play(make("SpaceInvaders", num_envs=2), 400)
    scores = np.concatenate([step.score for step in steps])
    np.testing.assert_array_equal(np.concatenate([step.reward for step in steps]), np.sign(scores))
    assert scores.max() >= 5
    _, steps = play(make("SpaceInvaders", num_envs=2, reward_clip=False), 400)
    np.testing.assert_array_equal(np.concatenate([step.reward for step in steps]), scores)


def test_true_returns_over_lives_and_truncations() -> None:
    """Against a sum made from EnvPool itself, with its own flags."""
    protocol = dataclasses.replace(NATURE, max_episode_steps=150)
    tracker, expected, running, over = EpisodeTracker(1), [], 0.0, False
    _, steps = play(make("SpaceInvaders", protocol), 700)
    pool = make("SpaceInvaders", protocol)._pool
    pool.reset()
    rng = np.random.default_rng(0)
    truncations = 0
    for step in steps:
        _, _, _, truncated, info = pool.step(np.array([rng.integers(6)]))
        if over:
            running = 0.0
        running += float(info["reward"][0])
        over = bool(info["terminated"][0] or truncated[0])
        truncations += int(truncated[0])
        expected += [running] if over else []
        tracker.add(step)
    assert list(tracker.scores) == expected
    assert len(expected) >= 4
    assert truncations >= 2
    assert len(set(expected)) > 1


@pytest.mark.parametrize("protocol", [NATURE, STICKY], ids=lambda protocol: protocol.name)
def test_the_same_seed_gives_the_same_frames_whatever_the_threads(protocol: AtariProtocol) -> None:
    runs = [play(make("Pong", protocol, num_envs=4, threads=threads), 250) for threads in (1, 3)]
    np.testing.assert_array_equal(np.stack(runs[0][0]), np.stack(runs[1][0]))
    for name in ("reward", "score", "terminated", "ignored", "lives"):
        np.testing.assert_array_equal(*(np.stack([getattr(step, name) for step in steps]) for _, steps in runs))


def test_seeds_and_environments_differ() -> None:
    runs = [np.stack(play(make("Pong", num_envs=4, seed=seed), 60)[0]) for seed in (3, 4)]
    streams = [run[:, i] for run in runs for i in range(4)]
    same = [np.array_equal(a, b) for k, a in enumerate(streams) for b in streams[:k]]
    # 30 numbers of no-ops are all there is, so a pair may start alike; neighbouring seeds must not share most of them.
    assert sum(same) <= 2


def test_a_game_starts_with_noops_unless_actions_are_sticky() -> None:
    def trajectory(protocol: AtariProtocol, seed: int) -> bytes:
        envs = make("Pong", protocol, seed=seed, height=21, width=21)
        envs.reset()  # Pong's first frames look alike, so let the ball come into play
        return b"".join(envs.step([0]).observation.tobytes() for _ in range(30))

    assert len({trajectory(NATURE, seed) for seed in range(4)}) >= 3
    assert len({trajectory(STICKY, seed) for seed in range(4)}) == 1


def test_sticky_actions_act() -> None:
    runs = [
        [np.stack(play(make("Pong", protocol, seed=seed), 60)[0]) for seed in (0, 1)]
        for protocol in (STICKY, dataclasses.replace(STICKY, repeat_action_probability=0.0))
    ]
    assert not np.array_equal(*runs[0])
    np.testing.assert_array_equal(*runs[1])


def test_fire_reset_starts_breakout_and_only_classic_has_it() -> None:
    for protocol, plays in ((CLASSIC, True), (NATURE, False), (STICKY, False)):
        envs = make(protocol=protocol)
        envs.reset()
        lives = [int(envs.step([0]).lives[0]) for _ in range(100)]
        assert (min(lives) < BREAKOUT_LIVES) == plays, protocol.name


def test_action_sets_and_frame_shapes() -> None:
    envs = make("Pong", height=50, width=36, stack=3)
    assert envs.num_actions == 6
    assert envs.reset().shape == (1, 3, 50, 36)
    full = make("Pong", dataclasses.replace(NATURE, full_action_space=True))
    assert full.num_actions == 18
    full.reset()
    full.step([17])
    with pytest.raises(ValueError, match=r"\[0, 6\)"):
        envs.step([17])


@pytest.mark.parametrize("flavour", [{"mode": 9}, {"difficulty": 1}])
def test_flavours_change_the_game(flavour: dict[str, int]) -> None:
    plain, default, flavoured = (
        np.stack(play(make("SpaceInvaders", **options), 80)[0])
        for options in ({}, {"mode": 0, "difficulty": 0}, flavour)
    )
    np.testing.assert_array_equal(plain, default)
    assert not np.array_equal(plain, flavoured)


def test_what_the_game_does_not_have_is_the_users_error() -> None:
    with pytest.raises(UserError, match="Breakout has no mode 3"):
        make(mode=3)
    with pytest.raises(UserError, match="Breakout has no difficulty 2"):
        make(difficulty=2)
    with pytest.raises(ValueError, match="'brekout' is not the name of an Atari game"):
        make("brekout")


def test_a_step_is_four_frames_and_a_lost_life_is_followed_by_noops() -> None:
    """Breakout counts frames in byte 90 of its memory."""
    pool = make()._pool
    _, info = pool.reset()
    rng = np.random.default_rng(0)
    played, reset, over = set(), set(), False
    for _ in range(150):
        clock, lives = int(info["ram"][0, 90]), int(info["lives"][0])
        _, _, terminated, _, info = pool.step(np.array([rng.integers(4)]))
        frames = (int(info["ram"][0, 90]) - clock) % 256
        if min(lives, int(info["lives"][0])) > 0:  # a game's end stops the clock
            (reset if over else played).add(frames)
        over = bool(terminated[0])
    assert played == {4}
    assert len(reset) >= 3
    assert reset <= set(range(1, 31))


def test_steps_return_fresh_arrays_and_close_ends_the_threads() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    alive = []
    for count in (1, 3):
        envs = make("Pong", num_envs=4, threads=count)
        observations, _ = play(envs, 20)
        assert len({array.ctypes.data for array in observations}) == 21
        alive.append(threads())
        envs.close()
        assert threads() == before
    assert alive[1] == alive[0] + 2 > before
