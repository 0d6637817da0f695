"""What one setting for all tasks loses: who uses a method on a task that nobody has searched takes the setting that was
best elsewhere. Of searches that try the same settings on several tasks (`sampler: grid`).

    single_setting(data, "grid")    # of every optimizer: tuned on each task, one setting for all, and chosen elsewhere
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from evaluation.analysis.comparisons.selection import (
    Row,
    part_kinds,
    refuse_mixed,
    refuse_no_score,
    run_rows,
    task_reference,
)
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array, statistic
from evaluation.analysis.stats.bootstrap import DEFAULT, Bootstrap, Estimate
from evaluation.cli.errors import UserError


@dataclass(frozen=True)
class SingleSetting:
    """Losses are what a setting is below the best of any method on a task, in shares of the task's reference range, as
    means over the tasks.

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

    The bootstrap draws the seeds and chooses anew. Raises `UserError` where the part is no search, `metric` is no
    score, or an optimizer was not tried with the same points and seeds on all tasks.
    """
    refuse_no_score(metric, "the loss of one setting is")
    kind = part_kinds(dataset).get(part)
    if kind != "search":
        raise UserError(f"{dataset.name} has no settings to search in {part!r}" + (f", a {kind}" if kind else ""))
    rows = run_rows(dataset, metric, "part = ?", part)
    refuse_mixed(rows)
    by_cell: dict[Cell, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))  # -> task
    for row in rows:
        by_cell[Cell(setting=row["setting"])][row["task"]].append(row)
    how, notes, result = replace(how, tasks=False), list[str](), list[SingleSetting]()
    for cell, by_task in by_cell.items():
        if len(by_task) < 2:
            continue
        tasks = sorted(by_task)
        methods = dict.fromkeys(Method(row["optimizer"]) for task in tasks for row in by_task[task])
        tried = {method: _tried(method, [by_task[task] for task in tasks], metric) for method in methods}
        best = np.max([one.scores.mean(axis=0).max(axis=-1) for one in tried.values()], axis=0)
        ranges = [task_reference(by_task[task], notes) for task in tasks]
        scale = np.array([to.high - to.low for to in ranges])
        result += [_row(part, cell, method, tasks, one, best, scale, how) for method, one in tried.items()]
    note = f"{how.level:.0%} intervals by the bootstrap over the seeds of each point, with the choice in it, {how}"
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
    shape = tried.scores.shape[1:]

    def losses(drawn: Array) -> Array:
        means = drawn.mean(axis=-2).reshape(*drawn.shape[:-2], *shape)
        return np.asarray((best[:, None] - means) / scale[:, None])

    @statistic
    def own(drawn: Array) -> Array:
        return np.asarray(losses(drawn).min(axis=-1).mean(axis=-1))

    @statistic
    def single(drawn: Array) -> Array:
        return np.asarray(losses(drawn).mean(axis=-2).min(axis=-1))

    @statistic
    def elsewhere(drawn: Array) -> Array:
        found = losses(drawn)
        others = (found.sum(axis=-2, keepdims=True) - found).argmin(axis=-1)
        return np.asarray(np.take_along_axis(found, others[..., None], axis=-1)[..., 0].mean(axis=-1))

    flat = tried.scores.reshape(len(tried.scores), -1)
    found = losses(flat)
    chosen = int(found.mean(axis=0).argmin())
    worst = int(found[:, chosen].argmax())
    return SingleSetting(
        part,
        cell,
        method,
        tasks=len(tasks),
        points=len(tried.points),
        own=how.estimate(own, flat),
        single=how.estimate(single, flat),
        elsewhere=how.estimate(elsewhere, flat),
        options=_words(tried.points[chosen]),
        worst_task=tasks[worst],
        worst=float(found[worst, chosen]),
        apart=_apart([tried.points[int(at)] for at in found.argmin(axis=1)]),
    )


def _tried(method: Method, by_task: Sequence[Sequence[Row]], metric: str) -> _Tried:
    """`UserError`: not the same points with the same seeds on every task."""
    found: list[dict[str, dict[int, float]]] = []
    options = [json.loads(row["options"]) for rows in by_task for row in rows if Method(row["optimizer"]) == method]
    varied = sorted({name for one in options for name in one if len({json.dumps(o.get(name)) for o in options}) > 1})
    for rows in by_task:
        points: dict[str, dict[int, float]] = defaultdict(dict)
        for row in rows:
            if Method(row["optimizer"]) == method:
                own = json.loads(row["options"])
                point = {name: own.get(name) for name in varied if name.startswith("optimizer.")}
                points[json.dumps(point, sort_keys=True)][row["seed"]] = row[metric]
        found.append(points)
    names, seeds = sorted(found[0]), sorted({seed for scores in found[0].values() for seed in scores})
    if any(sorted(one) != names or any(sorted(scores) != seeds for scores in one.values()) for one in found):
        raise UserError(f"{method} was not tried with the same settings and seeds on all tasks, or is not finished")
    scores = [[[one[name][seed] for name in names] for one in found] for seed in seeds]
    return _Tried([json.loads(name) for name in names], np.array(scores, dtype=float))


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
