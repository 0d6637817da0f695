"""What scripted environments play, worked out from their scripts, and a run of a backend on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

import rl.tasks.atari
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers
from rl import TrainConfig
from rl.backends.base import LibraryTrainer
from rl.tasks.atari import AtariEnvs
from tests.rl.tasks.scripted_env import Event, Game, ScriptedPool, game

FRAME = (8, 8)
STACK = 4
# Lost lives, games that end and games that are cut, of different lengths; a life whose reset loses the last one.
DIES = [Event(1.0), Event(2.0, life_lost=True, dies_in_reset=True)]
GAMES: Sequence[Sequence[Game]] = (
    [game([1, 2, 3, 4, 5], lives_lost=[1, 2]), game([6, 7], limit=True)],
    [game([0, 1, 0, 2, 0, 3, 4], limit=True), game([5])],
    [DIES, game([3, 4, 5], lives_lost=[0])],
)


@dataclass(frozen=True)
class Transition:
    """One of an environment: frames are (run, game, number within the game), oldest first."""

    before: list[tuple[int, int, int]]
    reward: float
    terminated: bool
    truncated: bool
    after: list[tuple[int, int, int]]


def transitions(games: Sequence[Game], count: int, run: int = 0) -> list[Transition]:
    """The first `count` transitions of an environment with episodic life that plays these games over and over."""

    def stack(number: int, newest: int) -> list[tuple[int, int, int]]:
        """Frames of a game up to one of them; before its first frame, copies of that."""
        return [(run, number, max(0, newest - back)) for back in reversed(range(STACK))]

    found: list[Transition] = []
    number = 0
    while True:
        newest = 0
        for event in games[number % len(games)]:
            over = event.game_over or event.limit
            ended = event.game_over or (event.life_lost and not event.limit)
            before, after = stack(number, newest), stack(number, newest + 1)
            found.append(Transition(before, event.reward, ended, event.limit and not event.game_over, after))
            if len(found) == count:
                return found
            newest += 1
            if event.life_lost and not over:
                if event.dies_in_reset:
                    break
                newest += 1  # the frame that the reset shows
        number += 1


def read(stack: NDArray[Any]) -> list[tuple[int, int, int]]:
    """The frames (run, game, number) of an observation (stack, H, W) of a scripted environment."""
    return [tuple(int(pixel) for pixel in frame.ravel()[1:4]) for frame in stack]  # type: ignore[misc]


def play_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Atari games be `GAMES`; every pool that is made has a number, its run, of its own."""
    made: list[ScriptedPool] = []

    def make(game: str, protocol: object, env: object, *, num_envs: int, **_: Any) -> AtariEnvs:
        pool = ScriptedPool(GAMES[:num_envs], num_actions=5, episodic_life=True, run=len(made), shape=FRAME)
        made.append(pool)
        return AtariEnvs(pool, num_envs, episodic_life=True)

    monkeypatch.setattr(rl.tasks.atari, "make_envs", make)


def scripted_trainer(folder: Path, backend: str, **options: Any) -> LibraryTrainer:
    """A backend's trainer on the scripted environments, at their start."""
    config = TrainConfig.preset(
        "quick",
        backend=backend,
        replay_size=600,
        learning_starts=90_000,
        n_step=options.pop("n_step", 1),
        total_steps=100_000,
        tensorboard=False,
        env={"num_envs": len(GAMES), "height": FRAME[0], "width": FRAME[1], "reward_clip": False},
        network={"channels": [2], "kernels": [2], "strides": [2], "hidden": 4, "standardize": False},
        optimizer={"name": "adam"},
        **options,
    )
    config.validate()
    run = RunFolder(folder, config.to_dict(), seeds={"seed": 1}, device="cpu", tensorboard=False)
    trainer = LibraryTrainer(config, run, torch.device("cpu"), Watchers())
    trainer.start()
    return trainer
