"""Environment steps per second of training, alone or beside other libraries in the same run: with the cores that they
keep busy, the memory that they take and, if asked for, what they have learned after so many minutes.

Every contestant has a process of its own, and they take turns in short rounds, so that a machine whose speed drifts
slows them alike; a round's time starts after the replay has been filled and the first updates are done.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from benchmarks.contestants import BURN_IN, PEERS, Setting
from benchmarks.workers import Process, Script, Turn, Worker
from evaluation.cli.errors import UserError, tell
from evaluation.runs.hardware import select_device, select_precision, select_threads
from evaluation.runs.resources import human_bytes
from rl import tasks

SCRIPT = "cleanrl"
SLICE_S = 10.0  # seconds of a turn, about, where all train for a fixed time
GAMES = 30

Make = Callable[[], Worker]


def measure(workers: Sequence[Worker], steps: int, rounds: int) -> list[list[Turn]]:
    """`rounds` turns of each, taken one after the other, behind a burn-in."""
    for worker in workers:
        worker.advance(BURN_IN)
    turns: list[list[Turn]] = [[] for _ in workers]
    for _ in range(rounds):
        for worker, row in zip(workers, turns, strict=True):
            row.append(worker.advance(steps))
    return turns


def train_for(workers: Sequence[Worker], seconds: float) -> list[tuple[int, float]]:
    """Let each train for so many seconds of its own, in turns; returns steps and seconds of each."""
    done = [(0, 0.0) for _ in workers]
    size = [100 for _ in workers]  # steps of the next turn
    while any(used < seconds for _, used in done):
        for i, worker in enumerate(workers):
            steps, used = done[i]
            if used >= seconds:
                continue
            turn = worker.advance(size[i])
            done[i] = steps + turn.steps, used + turn.seconds
            wanted = min(SLICE_S, max(0.1, seconds - done[i][1]))
            # Learning starts between two turns: then the next is slower than the last was.
            size[i] = max(1, min(4 * size[i], round(turn.steps / max(turn.seconds, 1e-9) * wanted)))
    return done


def compare(
    game: str,
    optimizer: str,
    device_name: str,
    precision: str,
    steps: int,
    rounds: int,
    *,
    against: Sequence[str] = (),
    preset: str = "dqn",
    minutes: float | None = None,
    overlap: bool = False,
    threads: int | None = None,
) -> None:
    """Measure and print. With peers the last line is `ratio: N.NNx`, to the first of them: the median over the rounds.

    Args:
        against: names of `PEERS`, or "cleanrl=PATH". Who cannot take part is named and left out.
        minutes: train each for so long afterwards, from the start, and play `GAMES` games with what it has learned.
        overlap: this toolkit's environments step while it learns.
        threads: torch's in each; None: as many as there are free cores.

    Raises:
        UserError: an unknown peer, or none of them can take part.
    """
    device = select_device(device_name)
    setting = Setting(tasks.find(game).name, str(device), select_threads(threads), preset, overlap=overlap)
    mine = {
        f"asgc-rl, {optimizer}, {name}": (optimizer, name)
        for name in dict.fromkeys(("fp32", select_precision(precision, device)))
    }

    def entries(chosen: Setting) -> list[tuple[str | None, Make]]:
        ours: list[tuple[str | None, Make]] = [
            (None, functools.partial(Process, name, chosen, "ours", *how)) for name, how in mine.items()
        ]
        return ours + [(peer, maker(peer, chosen)) for peer in against]

    checked = entries(setting)  # an unknown peer is named before anything starts
    print(describe(setting, rounds, steps), flush=True)
    with started(checked) as (workers, there):
        if against and not there:
            raise UserError("none of those that were named with --against can take part")
        turns = measure(workers, steps, rounds)
        peaks = [worker.peak() for worker in workers]
        names = [worker.name for worker in workers]
    print(report(names, turns, peaks, peers=len(there)))
    if minutes is None:
        return
    chosen = replace(setting, learns=True)
    with started([entry for entry in entries(chosen) if entry[0] in (None, *there)]) as (workers, _):
        done = train_for(workers, 60 * minutes)
        scores = [worker.score(GAMES) for worker in workers]
        print(learned([worker.name for worker in workers], done, scores, setting.game, preset))


def maker(peer: str, setting: Setting) -> Make:
    """What starts a peer. UserError: there is none of this name."""
    name, _, path = peer.partition("=")
    if name == SCRIPT:
        if not path:
            raise UserError(
                f"--against {SCRIPT}: it is a script and no package that could be installed: give your copy of its "
                f"dqn_atari.py, --against {SCRIPT}=PATH"
            )
        return functools.partial(Script, path, setting)
    if name not in PEERS or path:
        raise UserError(f"--against {peer}: there are {', '.join(PEERS)} and {SCRIPT}=PATH")
    return functools.partial(Process, PEERS[name][0], setting, name)


@contextlib.contextmanager
def started(entries: Sequence[tuple[str | None, Make]]) -> Iterator[tuple[list[Worker], list[str]]]:
    """The workers of those that can take part, and the peers among them; who cannot is named with the reason."""
    workers: list[Worker] = []
    there: list[str] = []
    with contextlib.ExitStack() as stack:
        for peer, make in entries:
            try:
                worker = make()
            except UserError as error:
                if peer is None:
                    raise
                tell(f"{peer} is left out: {error}")
                continue
            stack.callback(worker.close)
            workers.append(worker)
            there += [peer] if peer is not None else []
        yield workers, there


def describe(setting: Setting, rounds: int, steps: int) -> str:
    """What is measured, in one line."""
    config = setting.config()
    on_gpu = setting.device != "cpu"
    where = torch.cuda.get_device_name(setting.device) if on_gpu else f"CPU, {setting.threads} threads"
    ratio = f"{config.gradient_steps} update per {config.train_every} environment steps"
    return (
        f"{setting.game}, {config.env.height}x{config.env.width}, batch {config.batch_size}, {ratio}; "
        f"torch {torch.__version__}, {where}; {rounds} rounds of {steps} environment steps in turns; asgc-rl and those "
        f"on EnvPool with the preset {setting.preset}'s {config.env.num_envs} environments (updates in a row), "
        f"{'asgc-rl learns while they step, ' if setting.overlap else ''}"
        "stable-baselines3 and cleanrl with the 1 of their own"
    )


def report(
    names: Sequence[str], turns: Sequence[Sequence[Turn]], peaks: Sequence[dict[str, int]], *, peers: int
) -> str:
    """The table of medians and, with peers in the last rows, the ratios to them round by round; the first peer's last.

    "cores" is processor time by wall time, "memory" the most that the process has held.
    """
    width = max(len(name) for name in names)
    rates = [[turn.steps / turn.seconds for turn in row] for row in turns]
    lines = []
    for name, row, rate, peak in zip(names, turns, rates, peaks, strict=True):
        cores = sum(turn.cpu_seconds for turn in row) / sum(turn.seconds for turn in row)
        memory = ", ".join(f"{human_bytes(size)} {kind}" for kind, size in peak.items())
        lines.append(
            f"{name:{width}}  {statistics.median(rate):8.1f} env steps/s  (min {min(rate):.1f}, max {max(rate):.1f})  "
            f"{cores:4.1f} cores  {memory}"
        )
    ours = rates[: len(rates) - peers]
    for k in reversed(range(peers)):
        peer = rates[len(ours) + k]
        ratios = [statistics.median(a / b for a, b in zip(row, peer, strict=True)) for row in ours]
        whose = f"{names[len(ours) + k].partition(',')[0]}: " if k else ""
        lines.append(f"{whose}fp32 against fp32: {ratios[0]:.2f}x")
        lines.append(f"{whose}ratio: {ratios[-1]:.2f}x")
    return "\n".join(lines)


def learned(
    names: Sequence[str],
    done: Sequence[tuple[int, float]],
    scores: Sequence[Sequence[float] | None],
    game: str,
    preset: str,
) -> str:
    """The table of scores after a fixed time of training."""
    width = max(len(name) for name in names)
    lines = [f"score of {GAMES} games after the same time of training, {game} with the preset {preset}"]
    for name, (steps, seconds), one in zip(names, done, scores, strict=True):
        score = "not evaluated: the script keeps no model before its end"
        if one is not None:
            deviation = statistics.stdev(one) if len(one) > 1 else 0.0
            score = f"{statistics.fmean(one):7.1f} (deviation {deviation:.1f})"
        lines.append(f"{name:{width}}  {score}  {steps:,} env steps in {seconds / 60:.1f} min")
    return "\n".join(lines)
