"""What a study will cost: seconds of each run, from those that have finished or from the definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.study.plan import Plan
from evaluation.study.study_folder import Results


@dataclass(frozen=True)
class Cost:
    """Runs still to be done and their seconds on one core (or GPU share); `unknown` tasks have no figure yet."""

    runs: int
    seconds: float
    unknown: tuple[str, ...]

    def wall(self, jobs: int) -> float:
        """Seconds with `jobs` runs at a time."""
        return self.seconds / jobs


def task_of(run: str) -> str:
    """The task in a run's id."""
    return run.split("/")[1]


def seconds_per_run(plan: Plan, results: Results, declared: Mapping[str, float]) -> dict[str, float]:
    """Task -> mean seconds of its finished runs; what the definition declares where none has finished."""
    found: dict[str, list[float]] = {}
    for run in plan.runs:
        summary = results.summary(run.id)
        if summary is not None and "wall_s" in summary:
            found.setdefault(run.task, []).append(float(summary["wall_s"]))
    return {**declared, **{task: sum(values) / len(values) for task, values in found.items()}}


def cost(runs: Iterable[str], seconds: Mapping[str, float]) -> Cost:
    """The cost of runs (ids)."""
    tasks = [task_of(run) for run in runs]
    unknown = sorted({task for task in tasks if task not in seconds})
    return Cost(len(tasks), sum(seconds.get(task, 0.0) for task in tasks), tuple(unknown))
