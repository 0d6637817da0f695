"""What one setting for all tasks loses: who uses a method on a task that nobody has searched takes the setting that was
best elsewhere. Of searches that try the same settings on several tasks (`sampler: grid`).

    single_setting(data, "grid")    # of every optimizer: tuned on each task, one setting for all, and chosen elsewhere

A setting is chosen by all seeds but one and judged by that one, in turns: the best of many noisy means looks better
than it is, and the more so the more settings there are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from evaluation.analysis.comparisons.selection import Row, refuse_no_score, task_reference, trial_rows
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, mean
from evaluation.analysis.stats.bootstrap import DEFAULT, Bootstrap, Estimate
from evaluation.study.entry import flatten


@dataclass(frozen=True)
class SingleSetting:
    """Losses are how far a setting is below the best method tuned on that task, in shares of the task's reference
    range, as means over the tasks; below 0 where luck would have it.

    Attributes:
        cell: all tasks, in a setting of the study (a change of the tasks, not of the method).
        points: settings of the method that were tried.
        own: the loss with the method tuned on each task by itself.
        single: the loss of the one point that is best over all tasks.
        elsewhere: the loss where a task's point is the best one over the other tasks.
        options: that single point.
        worst_task, worst: where it loses most, and how much.
        apart: how far apart the tasks' own best values of each option lie, the largest by the smallest; 1: they agree.
    """

    part: str
    cell: Annotated[Cell, Columns("setting")]
    optimizer: Method
    tasks: int
    points: int
    own: Estimate
    single: Estimate
    elsewhere: Estimate
    options: str
    worst_task: str
    worst: float
    apart: str


@dataclass(frozen=True)
class _Tried:
    """Scores (S, T, P) of S seeds on each of T tasks with each of P points."""

    points: Sequence[Mapping[str, Any]]
    scores: Array


def single_setting(
    dataset: Dataset, part: str, *, metric: str = "final", how: Bootstrap = DEFAULT
) -> Table[SingleSetting]:
    """What one setting loses, for every optimizer and setting of the study with two tasks or more.

    Methods that were not tried with the same points and seeds on all tasks are left out, with a note. The bootstrap
    draws the seeds' own losses: the choice is not repeated in it. Raises `UserError` where the part is no search or
    `metric` is no score.
    """
    refuse_no_score(metric, "the loss of one setting is")
    by_cell: dict[Cell, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))  # -> task
    for row in trial_rows(dataset, part, metric, "settings"):
        by_cell[Cell(setting=row["setting"])][row["task"]].append(row)
    searched = flatten(dict(dataset.part_definition(part).get("space") or {}))
    how, notes, result = replace(how, tasks=False), list[str](), list[SingleSetting]()
    for cell, by_task in by_cell.items():
        if len(by_task) < 2:
            continue
        tasks = sorted(by_task)
        tried: dict[Method, _Tried] = {}
        for method in dict.fromkeys(Method(row["optimizer"]) for task in tasks for row in by_task[task]):
            of_method = [[row for row in by_task[task] if Method(row["optimizer"]) == method] for task in tasks]
            if (found := _tried(of_method, [*searched], metric)) is not None:
                tried[method] = found
            else:
                notes.append(
                    f"{method} was not tried with the same settings and seeds on all tasks, or is not finished"
                )
        if not tried:
            continue
        best = np.max([_tuned(one.scores).mean(axis=0) for one in tried.values()], axis=0)
        ranges = [task_reference(dataset, by_task[task], notes) for task in tasks]
        scale = np.array([to.high - to.low for to in ranges])
        result += [_row(part, cell, method, tasks, one, best, scale, how) for method, one in tried.items()]
    note = f"chosen by all seeds but one, judged by that; {how.level:.0%} intervals by the bootstrap over seeds, {how}"
    return Table(f"What one setting for all tasks loses of the {metric} score", result, "; ".join([note, *notes]))


def _row(
    part: str,
    cell: Cell,
    method: Method,
    tasks: Sequence[str],
    tried: _Tried,
    best: Array,
    scale: Array,
    how: Bootstrap,
) -> SingleSetting:
    losses = (best[:, None] - tried.scores) / scale[:, None]  # (S, T, P)
    own, single, elsewhere = [], [], []
    for seed, found in enumerate(losses):
        chosen_by = _but(losses, seed)  # (T, P)
        of_each = np.arange(len(tasks))
        own.append(found[of_each, chosen_by.argmin(axis=1)].mean())
        single.append(found[:, chosen_by.mean(axis=0).argmin()].mean())
        others = (chosen_by.sum(axis=0) - chosen_by).argmin(axis=1)
        elsewhere.append(found[of_each, others].mean())
    means = losses.mean(axis=0)
    chosen = int(means.mean(axis=0).argmin())
    worst = int(means[:, chosen].argmax())
    return SingleSetting(
        part,
        cell,
        method,
        tasks=len(tasks),
        points=len(tried.points),
        own=how.estimate(mean, np.array(own)),
        single=how.estimate(mean, np.array(single)),
        elsewhere=how.estimate(mean, np.array(elsewhere)),
        options=_words(tried.points[chosen]),
        worst_task=tasks[worst],
        worst=float(means[worst, chosen]),
        apart=_apart([tried.points[int(at)] for at in means.argmin(axis=1)]),
    )


def _but(losses: Array, seed: int) -> Array:
    """The mean over all seeds but one; of a single seed it itself."""
    others = np.delete(losses, seed, axis=0) if len(losses) > 1 else losses
    return np.asarray(others.mean(axis=0))


def _tuned(scores: Array) -> Array:
    """Of scores (S, T, P): the score (S, T) of the point that all other seeds find best."""
    of_each = np.arange(scores.shape[1])
    return np.array([found[of_each, _but(scores, seed).argmax(axis=1)] for seed, found in enumerate(scores)])


def _tried(by_task: Sequence[Sequence[Row]], searched: Sequence[str], metric: str) -> _Tried | None:
    """None: not the same points with the same seeds on every task.

    Args:
        by_task: one method's runs on each task.
        searched: keys of what the part searches: an option, or what its definition says of it.
    """
    found: list[dict[str, dict[int, float]]] = []
    for rows in by_task:
        points: dict[str, dict[int, float]] = defaultdict(dict)
        for row in rows:
            own = json.loads(row["options"])
            of = {name: own[name] for name in own if any(f"{key}.".startswith(f"{name}.") for key in searched)}
            point = json.dumps(of, sort_keys=True)
            if row["seed"] in points[point]:
                return None
            points[point][row["seed"]] = row[metric]
        found.append(points)
    keys, seeds = sorted(found[0]), sorted({seed for scores in found[0].values() for seed in scores})
    if not keys or any(sorted(one) != keys or any(sorted(of) != seeds for of in one.values()) for one in found):
        return None
    scores = [[[one[key][seed] for key in keys] for one in found] for seed in seeds]
    every = [json.loads(key) for key in keys]
    varied = [name for name in every[0] if any(point.get(name) != every[0][name] for point in every)]
    return _Tried([{name: point.get(name) for name in varied} for point in every], np.array(scores, dtype=float))


def _words(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('optimizer.')} {value}" for name, value in point.items())


def _apart(best: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for name in best[0]:
        values = [one[name] for one in best]
        numbers = [value for value in values if isinstance(value, int | float) and value > 0]
        if len(numbers) == len(values):
            parts.append(f"{name.removeprefix('optimizer.')} x{max(numbers) / min(numbers):.3g}")
    return ", ".join(parts)
