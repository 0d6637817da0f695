"""Environment steps per second of training, alone or beside Stable-Baselines3 in the same run.

The setting is Nature's (Mnih et al., 2015): frames of 84 x 84, batches of 32, one update per 4 environment steps. The
contestants take turns in short rounds, so that a machine whose speed drifts slows them alike; a round's time starts
after the replay has been filled and the first updates are done.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from evaluation.cli.errors import UserError
from evaluation.runs.hardware import select_device, select_precision
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers
from rl import tasks
from rl.config import TrainConfig
from rl.trainer import Trainer

BURN_IN = 2_000  # environment steps before the clock starts, half of them without updates
REPLAY = 20_000


class Ours:
    """This toolkit's trainer, through the same `advance` that `asgc-rl train` calls."""

    def __init__(self, game: str, optimizer: str, precision: str, device: torch.device, folder: Path) -> None:
        self.config = TrainConfig.preset(
            "dqn",
            game=game,
            precision=precision,
            device=str(device),
            replay_size=REPLAY,
            learning_starts=BURN_IN // 2,
            tensorboard=False,
            double=False,  # as in Stable-Baselines3
            optimizer={"name": optimizer},
            exploration={"steps": 1},  # act greedily from the start: an action costs what it costs late in a run
        )
        self.config.validate()
        self.name = f"asgc-rl, {optimizer}, {select_precision(precision, device)}"
        self._run = RunFolder(
            folder, self.config.to_dict(), seeds={"seed": self.config.seed}, device=str(device), tensorboard=False
        )
        self._trainer = Trainer(self.config, self._run, device, Watchers())
        self._trainer.start()

    def advance(self, steps: int) -> int:
        """Train for at least `steps` environment steps."""
        start = self._trainer.step
        while self._trainer.step - start < steps:
            self._trainer.advance()
        if self._trainer.algorithm.learner.device.type == "cuda":
            torch.cuda.synchronize()
        return self._trainer.step - start

    def close(self) -> None:
        """Close the environments and the temporary run folder."""
        self._trainer.close()
        self._run.close()


class StableBaselines3:
    """DQN of Stable-Baselines3 (fp32, Adam) on its own Atari wrappers, one environment as in its zoo."""

    name = "stable-baselines3, adam, fp32"

    def __init__(self, game: str, device: torch.device) -> None:
        try:
            import ale_py
            import gymnasium
            from stable_baselines3 import DQN
            from stable_baselines3.common.env_util import make_atari_env
            from stable_baselines3.common.vec_env import VecFrameStack
        except ImportError as error:
            raise UserError(
                f"--against sb3: {error.name} is not installed; pip install 'asgc[sb3]' brings it"
            ) from error
        gymnasium.register_envs(ale_py)
        self._envs = VecFrameStack(make_atari_env(f"ALE/{game}-v5", n_envs=1, seed=1, env_kwargs=ATARI), n_stack=4)
        self._model = DQN(
            "CnnPolicy",
            self._envs,
            learning_rate=1e-4,
            buffer_size=REPLAY // 2,  # it stores every stack twice
            learning_starts=BURN_IN // 2,
            batch_size=32,
            train_freq=4,
            gradient_steps=1,
            target_update_interval=1_000,
            exploration_fraction=1e-9,
            exploration_final_eps=0.01,
            device=device,
            seed=1,
        )

    def advance(self, steps: int) -> int:
        """Train for `steps` environment steps."""
        start = self._model.num_timesteps
        self._model.learn(steps, reset_num_timesteps=False)
        return int(self._model.num_timesteps - start)

    def close(self) -> None:
        """Close its environments."""
        self._envs.close()


# AtariWrapper skips the frames and makes no action sticky, as the protocol `classic` does; ALE's v5 would do both.
ATARI = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}


Contestant = Ours | StableBaselines3


def measure(contestants: Sequence[Contestant], steps: int, rounds: int) -> list[list[float]]:
    """Environment steps per second, one list of `rounds` numbers per contestant, measured in turns."""
    for contestant in contestants:
        contestant.advance(BURN_IN)
    rates: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, row in zip(contestants, rates, strict=True):
            start = time.perf_counter()
            done = contestant.advance(steps)
            row.append(done / (time.perf_counter() - start))
    return rates


def compare(game: str, optimizer: str, device_name: str, precision: str, steps: int, rounds: int, *, sb3: bool) -> None:
    """Measure and print; the last line with `sb3` is `ratio: N.NNx`, the median over the rounds."""
    device = select_device(device_name)
    game = tasks.find(game).name
    names = dict.fromkeys(("fp32", select_precision(precision, device)))
    with tempfile.TemporaryDirectory() as folder:
        contestants: list[Contestant] = [Ours(game, optimizer, name, device, Path(folder) / name) for name in names]
        try:
            if sb3:
                contestants.append(StableBaselines3(game, device))
            print(describe(game, device, steps, rounds), flush=True)
            rates = measure(contestants, steps, rounds)
        finally:
            for contestant in contestants:
                contestant.close()
    print(report([contestant.name for contestant in contestants], rates, against=sb3))


def describe(game: str, device: torch.device, steps: int, rounds: int) -> str:
    """What is measured, in one line."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (
        f"{game}, 84x84, batch 32, one update per 4 environment steps; torch {torch.__version__}, {where}; "
        f"{rounds} rounds of {steps} environment steps in turns; asgc-rl with the preset dqn's 16 "
        "environments (4 updates in a row), stable-baselines3 with the 1 of its zoo"
    )


def report(names: Sequence[str], rates: Sequence[Sequence[float]], *, against: bool) -> str:
    """The table of medians and, with a peer in the last row, the ratios to it round by round."""
    width = max(len(name) for name in names)
    lines = [
        f"{name:{width}}  {statistics.median(row):8.1f} env steps/s  (min {min(row):.1f}, max {max(row):.1f})"
        for name, row in zip(names, rates, strict=True)
    ]
    if against:
        *ours, peer = rates
        ratios = [statistics.median(a / b for a, b in zip(row, peer, strict=True)) for row in ours]
        lines.append(f"fp32 against fp32: {ratios[0]:.2f}x")
        lines.append(f"ratio: {ratios[-1]:.2f}x")
    return "\n".join(lines)
