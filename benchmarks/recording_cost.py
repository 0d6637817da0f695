"""`asgc-rl bench --gradients`: what recording gradients costs, in percent of the updates' time.

At its default interval the cost drowns in the noise of a shared machine. So three trainings take turns in short rounds:
one that records nothing, one that makes every update a regular record (with noise scale and churn), one that makes
every update a record around a target update. The differences are the costs of a record; one interval holds one of the
first kind and at most as many of the second as there are offsets.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from evaluation.runs.hardware import select_device
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers
from rl import tasks
from rl.algorithms.dqn import DQN
from rl.config import TrainConfig
from rl.trainer import Trainer

LEARNING_STARTS = 8_192  # environment steps
TARGET_INTERVAL = 8_448  # so that one target update comes soon after, and the next one a thousand updates later
UPDATES = {"control": 40, "atari-small": 20, "quick": 12, "dqn": 6}  # by preset, in a round


class Learning:
    """One training of a preset with options of the group `gradients`, for its time per update."""

    def __init__(self, preset: str, game: str, optimizer: str, device: str, folder: Path, **gradients: Any) -> None:
        config = TrainConfig.preset(
            preset,
            game=game,
            device=device,
            replay_size=20_000,
            learning_starts=LEARNING_STARTS,
            target_interval=TARGET_INTERVAL,
            exploration={"steps": 1},
            tensorboard=False,
            optimizer={"name": optimizer},
            gradients=gradients,
        )
        config.validate()
        self._run = RunFolder(folder, config.to_dict(), seeds={"seed": 1}, device=device, tensorboard=False)
        self._trainer = Trainer(config, self._run, select_device(device), Watchers())
        algorithm = self._trainer.algorithm
        assert isinstance(algorithm, DQN)
        self._learn, algorithm.learn = algorithm.learn, self._timed_learn  # type: ignore[method-assign]
        self._seconds = 0.0
        self._trainer.start()

    def _timed_learn(self, due: int) -> None:
        """Count the seconds of the updates, sampling and recording included, the environments not."""
        start = self._now()
        self._learn(due)
        self._seconds += self._now() - start

    def _now(self) -> float:
        """On a CPU the seconds of the processor, which other programs on the machine hardly touch."""
        if self._trainer.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def warm_up(self) -> None:
        """Fill the replay and train past the first target update."""
        while self._trainer.step <= TARGET_INTERVAL:
            self._trainer.advance()

    def seconds_per_update(self, updates: int) -> float:
        """Train for at least so many updates."""
        algorithm = self._trainer.algorithm
        done, self._seconds = algorithm.updates, 0.0
        while algorithm.updates - done < updates:
            self._trainer.advance()
        return self._seconds / (algorithm.updates - done)

    def close(self) -> None:
        """Free it."""
        self._trainer.close()
        self._run.close()


def measure(preset: str, game: str, optimizer: str, device: str, updates: int, rounds: int) -> tuple[float, ...]:
    """Seconds: of a plain update, and what a regular record and one around a target update add (medians of rounds)."""
    groups: list[dict[str, Any]] = [
        {"enabled": False},
        {"interval": 1, "offsets": None},
        {"interval": 10**9, "offsets": list(range(10_000))},
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainings = [
            Learning(preset, game, optimizer, device, Path(folder) / str(i), **group) for i, group in enumerate(groups)
        ]
        try:
            for training in trainings:
                training.warm_up()
            turns = [[training.seconds_per_update(updates) for training in trainings] for _ in range(rounds)]
        finally:
            for training in trainings:
                training.close()
    plain = statistics.median(turn[0] for turn in turns)
    return plain, *(statistics.median(turn[i] - turn[0] for turn in turns) for i in (1, 2))


def report(game: str, optimizer: str, device: str, rounds: int) -> None:
    """Measure each preset and print a line; `game` is for the Atari presets."""
    for preset, updates in UPDATES.items():
        own = "CartPole" if preset == "control" else tasks.find(game).name
        device_name = str(select_device(device))
        plain, regular, shift = measure(preset, own, optimizer, device_name, updates, rounds)
        settings = TrainConfig.preset(preset).gradients
        offsets = len(settings.offsets or ())
        percent = 100 * overhead(plain, regular, shift, settings.interval, offsets)
        print(
            f"{preset:8} {own}, {optimizer}: update {1e3 * plain:.2f} ms; a regular record adds {1e3 * regular:.2f}, "
            f"one around a target update {1e3 * shift:.2f} ms; every {settings.interval} updates, {offsets} offsets: "
            f"{percent:.2f} %",
            flush=True,
        )


def overhead(plain: float, regular: float, shift: float, interval: int, offsets: int) -> float:
    """Share of the updates' time that recording adds, at most."""
    return (regular + offsets * shift) / (interval * plain)
