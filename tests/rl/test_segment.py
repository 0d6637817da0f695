"""Environments brought back to where they were by playing their actions again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rl import tasks
from rl.segment import ACTIONS, OBSERVATION, Segment
from rl.step import Environments, Step
from rl.tasks import EnvConfig
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import CatchPool

ENV = EnvConfig(num_envs=3, threads=1, height=42, width=42)


def maker(game: str) -> Callable[[int], Environments]:
    if game == "Catch":
        return lambda number: AtariEnvs(CatchPool(3, seed=number), 3, episodic_life=False)
    env = dataclasses.replace(ENV, protocol="control" if game == "CartPole" else "classic")
    return lambda number: tasks.find(game).make(env, num_envs=3, seed=10 + number, training=True)


def play(segment: Segment, steps: int, seed: int) -> list[Step]:
    rng = np.random.default_rng(seed)
    return [segment.step(rng.integers(segment.envs.num_actions, size=3)) for _ in range(steps)]


@pytest.mark.parametrize(("game", "before"), [("Catch", 33), ("CartPole", 100), ("Breakout", 400)])
def test_what_follows_is_what_would_have_followed(game: str, before: int, tmp_path: Path) -> None:
    """To the bit, episodes in flight included; in Breakout lives are lost and games end on the way."""
    segment = Segment(maker(game))
    segment.renew(2)
    segment.start()
    played = play(segment, before, seed=0)
    assert any(step.game_over.any() for step in played)
    segment.save(tmp_path)
    expected = play(segment, 60, seed=1)
    segment.close()

    again = Segment(maker(game))
    assert again.load(tmp_path, 2, pytest.fail)
    assert again.number == 2
    for one, other in zip(expected, play(again, 60, seed=1), strict=True):
        for field in dataclasses.fields(Step):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name
    again.close()


def test_a_segment_saved_twice_is_the_whole_segment(tmp_path: Path) -> None:
    segment = Segment(maker("Catch"))
    segment.start()
    play(segment, 5, seed=0)
    segment.save(tmp_path)
    play(segment, 5, seed=1)
    segment.save(tmp_path)
    assert np.load(tmp_path / ACTIONS).shape == (10, 3)
    assert np.load(tmp_path / ACTIONS).dtype == np.uint8  # a byte a step
    again = Segment(maker("Catch"))
    assert again.load(tmp_path, 0, pytest.fail)


@pytest.mark.parametrize("what", ["another observation", "another segment", "no actions"])
def test_environments_that_do_not_come_back_are_noticed(what: str, tmp_path: Path) -> None:
    segment = Segment(maker("Catch"))
    segment.start()
    play(segment, 10, seed=0)
    segment.save(tmp_path)
    if what == "another observation":
        np.save(tmp_path / OBSERVATION, segment.observation ^ 1)
    elif what == "no actions":  # a checkpoint of a version that kept none
        (tmp_path / ACTIONS).unlink()
    assert not Segment(maker("Catch")).load(tmp_path, int(what == "another segment"), pytest.fail)


def test_progress_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.segment.TELL_EVERY", 12)
    segment = Segment(maker("Catch"))
    segment.start()
    play(segment, 10, seed=0)
    segment.save(tmp_path)
    said: list[str] = []
    assert Segment(maker("Catch")).load(tmp_path, 0, said.append)
    assert said == [f"playing the environments' actions again: {steps} of 30 steps" for steps in (12, 24)]
