"""`python -m benchmarks.overlap`: what PQN gains where the environments step while it learns (`--overlap`).

Trainings of `pqn-quick` take turns, a rollout each, in one process: in turn and overlapping, with EnvPool on one or two
threads and torch on one or two. The ratio is that of the medians of wall time, to the fastest one in turn. Wall time
means something on idle cores only; the processor time beside it says how much there is to be shared out.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from benchmarks.started import started
from evaluation.cli.errors import main_guard
from evaluation.cli.parser import Flags
from rl.config import TrainConfig


class Contestant:
    """One training, and the times of its rollouts in seconds."""

    def __init__(self, game: str, overlap: bool, env_threads: int, threads: int, stack: ExitStack) -> None:
        self.name = f"{'overlapping' if overlap else 'in turn'}, EnvPool {env_threads}, torch {threads}"
        self.overlap, self._threads = overlap, threads
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.config = TrainConfig.preset(
            "pqn-quick",
            game=game,
            device="cpu",
            tensorboard=False,
            overlap=overlap,
            env={"threads": env_threads},
            exploration={"steps": 1},  # act greedily from the start, as for most of a run
            gradients={"enabled": False},
        )
        self._trainer = stack.enter_context(started(self.config))

    def rollout(self) -> None:
        """Play one rollout, and learn from it or from the last one."""
        torch.set_num_threads(self._threads)
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(self.config.pqn.rollout_steps):
            self._trainer.advance()
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each training."""
    flags = Flags("python -m benchmarks.overlap", "[options]", "Environment steps per second of PQN on two cores.")
    flags.option("general", "--game", str, "Pong", "ALE game")
    flags.option("general", "--rounds", int, 10, "rollouts of each", allowed="[1, 10000]")
    options, _ = flags.read(list(sys.argv[1:] if argv is None else argv))
    with ExitStack() as stack:
        each = itertools.product((False, True), (1, 2), (1, 2))
        contestants = [Contestant(options.game, *settings, stack) for settings in each]
        for _ in range(options.rounds + 2):  # of the first two, one standardizes, one is the first to be learned from
            for one in contestants:
                one.rollout()
    medians = {one.name: statistics.median(one.wall[2:]) for one in contestants}
    fastest = min(medians[one.name] for one in contestants if not one.overlap)
    for one in contestants:
        wall, processor = medians[one.name], statistics.median(one.processor[2:])
        print(
            f"{one.name:36} {one.config.rollout / wall:6.0f} steps/s, {fastest / wall:.2f}x; "
            f"{1e6 * processor / one.config.rollout:.0f} us of processor time a step"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
