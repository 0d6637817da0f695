"""The runs of particles: carried out by an engine, and kept in a journal, from which a killed learning goes on.

A return is a function of the preset, the task and the seed alone, so a run that is in the journal need not be made
again, and a learning that was killed takes the same way as one that was not.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import flags
from evaluation.files import atomic_write, from_json, read_json, to_json
from evaluation.meta.definition import Definition, TaskEntry
from evaluation.runs import seeding
from evaluation.runs.run_folder import SUMMARY
from evaluation.study.engines.base import Engine, Job
from evaluation.study.run_id import RunId
from evaluation.study.spec import LOGS

if TYPE_CHECKING:
    from asgc.meta import Preset

JOURNAL, PARTICLES, RUN_FOLDERS = "returns.jsonl", "particles", "runs"  # in the folder; the last two go in the end
WAIT_S = 0.5
Key = tuple[int, int, str]  # step, particle, task


def arguments(task: TaskEntry, preset: Path, lr: float, seed: int) -> list[str]:
    """Of the program's `train`."""
    if task.program:
        given = {
            **task.options,
            "optimizer.name": "asgc",
            "optimizer.preset": str(preset),
            "optimizer.lr": lr,
            "seed": seed,
        }
    else:
        own = {"class": task.cls, "options": json.dumps(dict(task.options))}
        given = {**own, "preset": str(preset), "lr": lr, "seed": seed}
    return flags(given)


def seed_of(definition: Definition, task: str, step: int) -> int:
    """Of a task's runs in a step, the same for all particles: what differs between them is not luck."""
    return seeding.derive(definition.learner.seed, "particles", task, step) % (1 << 31)


@dataclass(frozen=True)
class _Row:
    value: float
    seconds: float


class Journal:
    """The returns that are known, a line each.

    Raises:
        UserError: the file is damaged elsewhere than at its end, where a kill may cut a line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, _Row] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [line for line in lines if line.endswith("\n")]
        for number, line in enumerate(whole, start=1):
            try:
                row = from_json(json.loads(line))
                self.rows[int(row["step"]), int(row["particle"]), str(row["task"])] = _Row(
                    float(row["return"]), float(row["seconds"])
                )
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged in line {number} ({error}): remove the lines from there on"
                ) from error
        # Cut off with the first line that is added: who only looks changes nothing under another's hands.
        self._whole = "".join(whole) if len(whole) < len(lines) else None

    def add(self, key: Key, value: float, seconds: float) -> None:
        """One return more."""
        step, particle, task = key
        row = {"step": step, "particle": particle, "task": task, "return": value, "seconds": round(seconds, 2)}
        if self._whole is not None:
            atomic_write(self.path, self._whole)
            self._whole = None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(row)) + "\n")
        self.rows[key] = _Row(value, seconds)

    def seconds(self) -> dict[str, float]:
        """Mean cost of a run by task."""
        by_task: dict[str, list[float]] = defaultdict(list)
        for (_, _, task), row in self.rows.items():
            if row.seconds > 0:
                by_task[task].append(row.seconds)
        return {task: sum(values) / len(values) for task, values in by_task.items()}


class Particles:
    """Makes the runs of a step that are missing.

    Args:
        engine: gives what carries them out, when there is a run to be made.
        programs: by task, as the engine executes them.
        told: called with the number of runs that are done of a step's, and of all of its.
    """

    def __init__(
        self,
        definition: Definition,
        folder: Path,
        journal: Journal,
        engine: Callable[[], Engine],
        programs: Mapping[str, tuple[str, ...]],
        *,
        threads: int = 1,
        retries: int = 1,
        told: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._definition, self._folder, self._journal, self._engine = definition, folder, journal, engine
        self._programs, self._threads, self._retries, self._told = programs, threads, retries, told

    def returns(self, step: int, presets: Sequence[Preset], lrs: Sequence[float]) -> list[list[float]]:
        """By task and particle; NaN: the run has diverged.

        Raises:
            UserError: a run failed, also when it was tried again. The others are kept.
        """
        tasks, rows = self._definition.tasks, self._journal.rows
        files = {number: self._folder / PARTICLES / f"{number}.json" for number in range(len(presets))}
        keys = [(step, number, task) for number in files for task in tasks]
        missing = [key for key in keys if key not in rows]
        if missing:
            for number, file in files.items():
                file.parent.mkdir(exist_ok=True)
                presets[number].save(file)
            self._carry_out(missing, {number: (file, lrs[number]) for number, file in files.items()}, len(keys))
        return [[rows[step, number, task].value for number in files] for task in tasks]

    def _carry_out(self, missing: Sequence[Key], particles: Mapping[int, tuple[Path, float]], total: int) -> None:
        engine = self._engine()
        waiting, attempts, running = list(missing), Counter[Key](), dict[RunId, Key]()
        self._told(total - len(missing), total)
        while waiting or running:
            while waiting and engine.free():
                key = waiting.pop(0)
                attempts[key] += 1
                job = self._job(key, *particles[key[1]])
                running[job.run] = key
                engine.submit(job)
            failed: list[str] = []
            for outcome in engine.wait(WAIT_S):
                key = running.pop(outcome.run)
                folder, failure = self._folder / str(outcome.run), outcome.failure
                value = _value(folder) if failure is None else None
                if value is not None:
                    self._journal.add(key, value, outcome.seconds)
                elif outcome.final or attempts[key] > self._retries:
                    why = failure or f"{folder / SUMMARY} is no summary of a run"
                    failed.append(f"task {key[2]}: {why} (log: {self._log(outcome.run)})")
                else:
                    waiting.insert(0, key)
                shutil.rmtree(folder, ignore_errors=True)
                self._told(total - len(waiting) - len(running), total)
            if failed:
                raise UserError(f"{failed[0]}; what is done is kept: mend it and go on")

    def _job(self, key: Key, preset: Path, lr: float) -> Job:
        step, number, name = key
        task, seed = self._definition.tasks[name], seed_of(self._definition, name, step)
        run = RunId(RUN_FOLDERS, name, "default", "asgc", f"particle-{number:03d}", seed)
        given = tuple(arguments(task, preset.absolute(), lr, seed))
        return Job(
            run, self._programs[name], given, (self._folder / str(run)).absolute(), self._log(run), self._threads
        )

    def _log(self, run: RunId) -> Path:
        return (self._folder / LOGS / f"{run.task}-{run.variant}.log").absolute()


def _value(folder: Path) -> float | None:
    """The mean score over a run; NaN where it has diverged, None where there is none."""
    try:
        summary: dict[str, Any] = read_json(folder / SUMMARY)
        value = float(summary["auc"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if math.isfinite(value) else math.nan
