"""Contestants in processes of their own, so that each one's memory and processor time are its own.

A worker waits until it is told to train: contestants take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evaluation.cli.errors import UserError

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """What a contestant did when it was its turn: environment steps, wall seconds, seconds of all its cores."""

    steps: int
    seconds: float
    cpu_seconds: float


class Worker(Protocol):
    """A contestant's process.

    Attributes:
        name: for the table.
    """

    name: str

    def advance(self, steps: int) -> Turn: ...

    def peak(self) -> dict[str, int]:
        """Most bytes that it has held so far: "memory", and "GPU" if it uses one."""
        ...

    def score(self, episodes: int) -> list[float] | None:
        """Scores of evaluation games; None: it cannot be evaluated."""
        ...

    def close(self) -> None: ...


class Process:
    """A contestant of `benchmarks.contestants` in a process of its own.

    Raises:
        UserError: it cannot take part: its library is missing, or a setting does not fit.
    """

    def __init__(self, name: str, setting: Any, who: str, *options: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setting, who, options), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def advance(self, steps: int) -> Turn:
        turn: Turn = self._ask("advance", steps)
        return turn

    def peak(self) -> dict[str, int]:
        found: dict[str, int] = self._ask("peak")
        return found

    def score(self, episodes: int) -> list[float]:
        scores: list[float] = self._ask("score", episodes)
        return scores

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, *what: Any) -> Any:
        self._pipe.send(what)
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(f"{self.name}: its process has ended ({self._process.exitcode})") from None
        if kind == "fault":
            raise UserError(value)
        return value


def _serve(pipe: Any, setting: Any, who: str, options: Sequence[str]) -> None:
    """The life of a worker: it ends when its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that started it closes the pipe
    import torch

    from benchmarks.contestants import make
    from rl.evaluate import evaluate

    torch.set_num_threads(setting.threads)
    try:
        contestant = make(who, setting, *options)
    except UserError as error:
        pipe.send(("fault", str(error)))
        return
    pipe.send(("ready", None))
    try:
        while True:
            what, *arguments = pipe.recv()
            if what == "advance":
                cpu, start = time.process_time(), time.perf_counter()
                steps = contestant.advance(*arguments)
                answer: Any = Turn(steps, time.perf_counter() - start, time.process_time() - cpu)
            elif what == "peak":
                answer = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
                if torch.cuda.is_available() and setting.device != "cpu":
                    answer["GPU"] = torch.cuda.max_memory_reserved()
            else:
                env = setting.config().env
                answer = evaluate(contestant.policy(), setting.game, env, episodes=arguments[0], seed=1).tolist()
            pipe.send(("done", answer))
    except EOFError:
        contestant.close()


# Its repository's `cleanrl_utils` are to be found, and newer Atari games register themselves when they are imported.
RUN_SCRIPT = """
import contextlib, pathlib, runpy, sys
with contextlib.suppress(ImportError):
    import ale_py
del sys.argv[0]
sys.path[:0] = map(str, pathlib.Path(sys.argv[0]).parents[:2])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _python_of(script: Path) -> str:
    """The interpreter of the script's repository, or this one."""
    clone = script.resolve().parent.parent
    own = clone / ".venv/bin/python"
    return str(own) if own.exists() and (clone / "cleanrl_utils").exists() else sys.executable


class Script:
    """CleanRL's `cleanrl/dqn_atari.py` in a clone of https://github.com/vwxyzjn/cleanrl, run as it is and stopped
    between its turns. It is timed by the line "SPS: ..." that it prints every 100 steps while it learns.

    The clone's `.venv` runs it, if there is one: it wants Gymnasium before 1.0.

    Its last model is all that it could be scored by, so it is not.

    Raises:
        UserError: it is no file, or it ends by itself (its last line is shown: versions of Gymnasium differ).
    """

    EVERY = 100

    def __init__(self, path: str, setting: Any) -> None:
        if not Path(path).is_file():
            raise UserError(
                f"{path} is no file: give cleanrl/dqn_atari.py of a clone of CleanRL, --against cleanrl=PATH"
            )
        self.name = "cleanrl, adam, fp32"
        config = setting.config()
        flags = {
            "--env-id": f"{setting.game}NoFrameskip-v4",
            "--total-timesteps": config.total_steps,
            "--buffer-size": config.replay_size,
            "--batch-size": config.batch_size,
            "--learning-starts": config.learning_starts,
            "--train-frequency": config.train_every,
            "--target-network-frequency": config.target_interval,
            "--exploration-fraction": config.exploration.steps / config.total_steps,
            "--end-e": config.exploration.end,
        }
        arguments = [str(word) for pair in flags.items() for word in pair]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if setting.device == "cpu" else {}
        self._folder = tempfile.TemporaryDirectory()  # it writes its runs where it stands
        self._errors = Path(self._folder.name) / "errors"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [_python_of(Path(path)), "-u", "-c", RUN_SCRIPT, str(Path(path).resolve()), *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self._folder.name,
                env=os.environ | {"OMP_NUM_THREADS": str(setting.threads)} | hidden,
            )
        try:
            self._lines(1)  # it has begun to learn
        except BaseException:
            self.close()
            raise

    def _lines(self, count: int) -> None:
        """Let it run until it has printed so many of its lines."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        while count:
            line = self._process.stdout.readline()
            if not line:
                last = self._errors.read_text().strip().splitlines()[-1:]
                raise UserError(f"cleanrl has ended by itself: {''.join(last) or 'without a word'}")
            count -= line.startswith("SPS:")
        self._process.send_signal(signal.SIGSTOP)

    def advance(self, steps: int) -> Turn:
        lines = -(-steps // self.EVERY)
        cpu, start = self._cpu_seconds(), time.perf_counter()
        self._lines(lines)
        return Turn(lines * self.EVERY, time.perf_counter() - start, self._cpu_seconds() - cpu)

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS  # utime, stime

    def peak(self) -> dict[str, int]:
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (line,) = (line for line in status if line.startswith("VmHWM:"))
        return {"memory": int(line.split()[1]) * 1024}

    def score(self, episodes: int) -> None:
        return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()
