"""Several seeds of one configuration in one command: `asgc-rl train --game Pong --seeds 1-5 --jobs 2`.

Each seed is a run of its own, in FOLDER/s1, FOLDER/s2 and so on, in a process of its own; FOLDER/seeds.json says what
they are, so that `--resume FOLDER` goes on with those that are missing. For anything more (optimizers, settings,
searches, claims) there are studies.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, tell
from evaluation.cli.train_command import SEEDS, TrainCommand, resumed
from evaluation.cores import usable_cores
from evaluation.files import read_json, tail, write_json
from evaluation.runs.run_folder import is_finished, load_summary
from evaluation.study.engines.base import Job, Outcome
from evaluation.study.engines.local import LocalEngine
from evaluation.study.run_id import RunId

TOLD_EVERY_S = 30.0  # between two lines of each run that goes on
PATIENCE_S = 120.0  # for runs that save when they are to stop
OWN = ("--seeds", "--jobs", "--seed", "--run-dir", "--resume")  # not handed on to the runs
MOST = 1000


def train_seeds(
    command: TrainCommand[Any],
    program: Sequence[str],
    argv: Sequence[str],
    typed: Mapping[str, Any],
    default_folder: Callable[[Any], Path],
) -> int:
    """Train all seeds that are not finished, and print a table of the scores; returns the exit code.

    Args:
        program: the command that has `train`.
        argv, typed: the arguments of `train`, and what they mean.
        default_folder: for a checked configuration, where no --run-dir is given.

    Raises:
        UserError: something about the options, before anything is started.
    """
    if "seeds" in typed and "seed" in typed:
        raise UserError("--seed: with --seeds there are several: give one of both")
    arguments = without(argv, OWN)
    resume = resumed(typed)
    known: dict[str, Any] = {}
    if resume is not None:
        file = Path(resume) / SEEDS
        if not file.is_file():
            raise UserError(f"--resume {resume}: there are no runs of several seeds (no {SEEDS} in it)")
        known = read_json(file)
        if arguments and arguments != known["arguments"]:
            raise UserError(
                f"--resume {resume}: the runs there have options of their own: give none but --jobs, --seeds"
            )
        arguments = known["arguments"]
    seeds = read_seeds(typed["seeds"]) if "seeds" in typed else known["seeds"]
    config, _ = command.read([*arguments, f"--seed={seeds[0]}"])
    if config is None:  # a page was asked for
        return 0
    folder = Path(resume or typed.get("run_dir") or default_folder(config))
    if resume is None and (folder / SEEDS).is_file():
        raise UserError(f"{folder} holds runs of several seeds already: --resume {folder} goes on with them")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = list(dict.fromkeys([*known.get("seeds", ()), *seeds]))
    write_json(folder / SEEDS, {"arguments": arguments, "seeds": seeds})
    jobs = int(typed.get("jobs", 1))
    failures, stopped = _carry_out([_job(folder, program, arguments, seed, jobs) for seed in seeds], jobs)
    print(table(folder, seeds, failures), flush=True)
    again = f"go on with: {command.prog} train --resume {folder}"
    if stopped:
        tell(f"stopped; {again}")
        return EXIT_INTERRUPTED
    if failures:
        tell(f"error: {len(failures)} of {len(seeds)} runs failed; mend that, then {again}")
    return EXIT_USER_ERROR if failures else 0


def without(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments without these flags and their values."""
    kept: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, _ = token.partition("=")
        if name.replace("_", "-") not in names:
            kept.append(token)
        elif not equals and tokens and not tokens[0].startswith("-"):
            tokens.pop(0)
    return kept


def read_seeds(text: str) -> list[int]:
    """ "1-5", "3", "1,3,7-9" as numbers.

    Raises:
        UserError: it is none of these, or names a seed twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        last = int(match[2] or match[1]) if match else 0
        if match is None or not int(match[1]) <= last < int(match[1]) + MOST:
            raise UserError(f"--seeds {text}: must be seeds such as 1-5 or 1,3,7")
        found += range(int(match[1]), last + 1)
    if len(set(found)) < len(found):
        raise UserError(f"--seeds {text}: a seed is given twice")
    return found


def table(folder: Path, seeds: Sequence[int], failures: Mapping[int, str]) -> str:
    """The scores of all runs, and their mean with its interval."""
    from evaluation.analysis.stats.aggregate import mean
    from evaluation.analysis.stats.bootstrap import MIN_RUNS, Bootstrap

    lines, scores = [f"{'seed':>10}  {'last evaluation':>15}  {'final':>10}  {'minutes':>8}"], []
    for seed in seeds:
        run = folder / f"s{seed}"
        if not is_finished(run):
            lines.append(f"{seed:>10}  {failures.get(seed, 'not finished')}")
            continue
        summary = load_summary(run)
        scores.append(summary["final"])
        last, minutes = summary.get("mean_score", summary["final"]), summary["wall_s"] / 60
        lines.append(f"{seed:>10}  {last:>15.2f}  {summary['final']:>10.2f}  {minutes:>8.1f}")
    if scores:
        how = Bootstrap()
        found = how.estimate(mean, [[score] for score in scores])
        words = f"{how.words} {found.low:.2f} to {found.high:.2f}"
        if len(scores) < MIN_RUNS:
            words = f"fewer than {MIN_RUNS} runs have no interval"
        lines.append(f"mean of {len(scores)} final scores: {found.value:.2f}; {words}")
    return "\n".join(lines)


def _job(folder: Path, program: Sequence[str], arguments: Sequence[str], seed: int, jobs: int) -> Job:
    run = RunId("seeds", folder.name, "", "", "", seed)
    every = (*arguments, f"--seed={seed}")
    threads = max(1, usable_cores() // jobs)
    return Job(run, tuple(program), every, folder / f"s{seed}", folder / f"s{seed}.log", threads)


def _carry_out(jobs: Sequence[Job], at_once: int) -> tuple[dict[int, str], bool]:
    """Run what is not finished; the failures by seed, and whether it was stopped before the end."""
    waiting = [job for job in jobs if not is_finished(job.folder)]
    running: dict[int, Job] = {}
    failures: dict[int, str] = {}
    told = time.monotonic()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalEngine(at_once) as engine:
            try:
                while waiting or running:
                    while waiting and engine.free():
                        job = waiting.pop(0)
                        running[job.run.seed] = job
                        how = "goes on" if "--resume" in job.command() else "begins"
                        tell(f"seed {job.run.seed} {how} in {job.folder}; its output is in {job.log}")
                        engine.submit(job)
                    failures |= _ended(engine.wait(0.5), running)
                    if time.monotonic() - told >= TOLD_EVERY_S:
                        told = time.monotonic()
                        for seed, job in running.items():
                            tell(f"seed {seed}: {last_line(job.log)}")
            except KeyboardInterrupt:
                tell("stopping: the runs save (Ctrl-C once more to stop at once, unsaved)")
                engine.stop(PATIENCE_S)
                return failures, True
    finally:
        signal.signal(signal.SIGTERM, before)
    return failures, False


def _ended(outcomes: Sequence[Outcome], running: dict[int, Job]) -> dict[int, str]:
    """Tell of the runs that have ended; the failures among them."""
    failures = {}
    for outcome in outcomes:
        seed = outcome.run.seed
        del running[seed]
        if outcome.failure is not None:
            failures[seed] = f"failed: {outcome.failure}"
        tell(f"seed {seed}: {failures.get(seed, 'finished')} after {outcome.seconds:.0f} s")
    return failures


def last_line(log: Path) -> str:
    """What a run has said last."""
    try:
        lines = tail(log).strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "nothing said so far"
