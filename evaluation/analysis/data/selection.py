"""The runs of one part of a study, ready to be compared: one value a run, by task, setting and method.

A *method* is what is compared: an optimizer, or in an ablation a variant of one. A *cell* is a task in a setting; in a
grid each point of it is a setting. The values of a method in a cell are those of its runs, one a seed; in a robustness
part, those of its random settings (each the mean over its seeds). All checks that make a comparison fair are here: one
protocol a task, one budget a cell, one step size a method in a cell, no seed twice.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import Reference, normalize, reference
from evaluation.analysis.data.run_reader import SEPARATOR
from evaluation.analysis.stats.aggregate import Array
from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean

Row = dict[str, Any]
Cell = tuple[str, str]  # task, setting
COMPARABLE = ("compare", "ablation", "grid", "robustness")  # kinds of parts; trials of a search depend on each other
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Metric:
    """One number of a run. `kind`: a "score" (higher is better), a "time" to the target (infinite: not reached) or a
    "spread" of scores; of the last two, lower is better."""

    name: str
    words: str
    kind: str

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.kind == "score"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("final", "final score", "score"),
        Metric("last", "last score", "score"),
        Metric("mean_score", "score of the last evaluation", "score"),
        Metric("auc", "mean score over the run", "score"),
        Metric("std", "standard deviation of the last scores", "spread"),
        Metric("detrended_std", "standard deviation of the last scores about their trend", "spread"),
        Metric("ttt_steps", "steps to the target", "time"),
        Metric("ttt_samples", "samples to the target", "time"),
        Metric("ttt_seconds", "training seconds to the target", "time"),
    )
}


@dataclass
class Selection:
    """Values of a metric.

    Attributes:
        part, kind: of the study.
        metric: what the values are.
        methods: names, as they first come in the part.
        cells: (task, setting) -> method -> values (n,), in order of the seeds.
        runs: (task, setting) -> method -> names of the runs behind the values.
        horizons: (task, setting) -> where runs end on a time metric's axis.
        references: task -> scores that count as 0 and 1.
        notes: what a reader has to know: versions that differ, missing seeds, diverged runs.
    """

    part: str
    kind: str
    metric: Metric
    methods: list[str]
    cells: dict[Cell, dict[str, Array]]
    runs: dict[Cell, dict[str, list[str]]] = field(default_factory=dict)
    horizons: dict[Cell, float] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What the values of a cell are of."""
        return "settings" if self.kind == "robustness" else "runs"

    def normalized(self, cell: Cell, method: str) -> Array:
        """Values (n,) that can be put beside those of other cells: scores between the task's references, spreads as
        shares of the distance between them, times as shares of the run."""
        values, to = self.cells[cell][method], self.references[cell[0]]
        if self.metric.kind == "score":
            return normalize(values, to)
        return values / (self.horizons[cell] if self.metric.kind == "time" else to.high - to.low)

    def matrix(self, cells: Sequence[Cell], method: str) -> Array:
        """Normalized values (R, T) of the cells, R the smallest number of runs in any of them (the lowest seeds)."""
        columns = [self.normalized(cell, method) for cell in cells]
        runs = min(column.size for column in columns)
        return np.stack([column[:runs] for column in columns], axis=1)

    def oriented(self, values: Array) -> Array:
        """Values with their sign changed where lower is better."""
        return values if self.metric.higher_is_better else -values


def select(dataset: Dataset, part: str | None = None, metric: str = "final") -> Selection:
    """The test runs of a part (default: the study's only one of kind compare) with one value each.

    Raises `UserError`: an unknown part or metric; runs of one task under two protocols (names the field and examples),
    or of two budgets; a method with two step sizes or two runs of a seed in one cell.
    """
    if metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}{did_you_mean(metric, list(METRICS))}: one of {', '.join(METRICS)}")
    name, kind = _part(dataset, part)
    rows = dataset.rows("SELECT * FROM runs WHERE part = ? AND purpose = 'test' ORDER BY run", name)
    if not rows:
        raise UserError(f"part {name} of {dataset.name} has no finished test runs")
    refuse_mixed(rows)
    if metric == "auc":
        areas = areas_under_curves(dataset)
        for row in rows:
            row["auc"] = areas[row["run"]]
    notes = _version_notes(rows)
    rows = _with_methods(rows, kind, metric)
    selection = Selection(name, kind, METRICS[metric], _order(rows), {}, notes=notes)
    grouped: dict[Cell, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["task"], row["setting"]][row["method"]].append(row)
    for cell, methods in grouped.items():
        if kind != "robustness":
            _refuse_two_settings(cell, methods)
        _fill(selection, cell, methods)
    if not selection.cells:
        raise UserError(f"no run of part {name} has a target: {metric} needs one (--evaluation.target)")
    for task in dict.fromkeys(task for task, _ in selection.cells):
        selection.references[task] = task_reference([row for row in rows if row["task"] == task], selection.notes)
    return selection


def areas_under_curves(dataset: Dataset) -> dict[str, float]:
    """Mean score of every run over its evaluations, trapezoidal in steps: the area under its learning curve divided by
    the curve's length. The only score of a run with one evaluation."""
    found = dataset.rows(
        """SELECT run, sum(width * ("value" + before) / 2) / sum(width) AS area, any_value("value") AS only FROM (
            SELECT run, "value", step - lag(step) OVER curve AS width, lag("value") OVER curve AS before
            FROM evaluations WINDOW curve AS (PARTITION BY run ORDER BY step)
        ) GROUP BY run"""
    )
    return {row["run"]: row["only"] if row["area"] is None else row["area"] for row in found}


def refuse_mixed(rows: Iterable[Row]) -> None:
    """`UserError` where runs of one task were scored under two protocols, or those of one cell had two budgets."""
    by_task: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    by_cell: dict[Cell, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_task[row["task"]][row["protocol"]].append(row["run"])
        by_cell[row["task"], row["setting"]][row["total_steps"]].append(row["run"])
    for task, protocols in by_task.items():
        if len(protocols) > 1:
            (one, runs), (other, others) = itertools.islice(protocols.items(), 2)
            raise UserError(
                f"scores of two protocols cannot be put together: {_difference(one, other)} "
                f"in runs of {task} (such as {runs[0]} and {others[0]}); load or select one of them"
            )
    for cell, budgets in by_cell.items():
        if len(budgets) > 1:
            (steps, runs), (more, others) = itertools.islice(budgets.items(), 2)
            raise UserError(
                f"runs of {cell[0]} ({cell[1]}) have two budgets, {steps:,} and {more:,} steps "
                f"(such as {runs[0]} and {others[0]}): compare runs of one length"
            )


def _with_methods(rows: list[Row], kind: str, metric: str) -> list[Row]:
    """Rows with their "method"; of a grid with the point in their setting, of random settings one row each."""
    optimizers = {row["optimizer"] for row in rows}
    variants = {row["variant"] for row in rows}
    for row in rows:
        row["method"] = row["optimizer"]
        if kind == "grid" and row["variant"] != "default":
            row["setting"] = f"{row['setting']}, {row['variant']}"
        elif kind in ("compare", "ablation") and len(variants) > 1:
            named = row["variant"] if row["variant"] != "default" or len(optimizers) == 1 else ""
            row["method"] = " ".join(
                [*([row["optimizer"]] if len(optimizers) > 1 else []), *([named] if named else [])]
            )
    if kind != "robustness":
        return rows
    drawn: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        drawn[row["task"], row["setting"], row["method"], row["variant"]].append(row)
    return [
        same[0] | {"seed": 0} | {name: _mean([row[name] for row in same]) for name in {metric, "final"}}
        for same in drawn.values()
    ]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def task_reference(rows: Sequence[Row], notes: list[str]) -> Reference:
    """The references of the task of `rows`; where none are published, its worst final score and its target (or best
    final score), with a note."""
    task = rows[0]["task"]
    known = reference(task)
    if known is not None:
        return known
    scores = [row["final"] for row in rows if np.isfinite(row["final"])] or [0.0]
    low, high = min(scores), max(scores)
    target = rows[0]["target"]
    if target is not None and target > low:
        high, words = target, "the target"
    else:
        high, words = (high if high > low else low + 1.0), "the best run"
    notes.append(f"{task} has no published reference scores: 0 is its worst run ({low:.4g}), 1 is {words} ({high:.4g})")
    return Reference(low, high, f"worst run and {words}")


def _part(dataset: Dataset, part: str | None) -> tuple[str, str]:
    found = {
        row["part"]: row["kind"] for row in dataset.rows("SELECT DISTINCT part, kind FROM runs ORDER BY part, kind")
    }
    if not found:
        raise UserError(f"{dataset.name} has no finished runs ({len(dataset.problems)} folders were left out)")
    if part is None:
        compared = [name for name, kind in found.items() if kind == "compare"]
        if len(compared) != 1:
            names = ", ".join(compared or found)
            raise UserError(f"{dataset.name} has {len(compared) or 'no'} parts of kind compare: name a part of {names}")
        part = compared[0]
    if part not in found:
        raise UserError(
            f"{dataset.name} has no part {part!r}{did_you_mean(part, list(found))}: it has {', '.join(found)}"
        )
    if found[part] not in COMPARABLE:
        raise UserError(f"part {part} is a {found[part]}: its runs of an optimizer differ in more than their seed")
    return part, found[part]


def _order(rows: Sequence[Row]) -> list[str]:
    """Methods in the order of the study's index, which `run` does not keep: by name, plain optimizers first."""
    return sorted({row["method"] for row in rows}, key=lambda name: (" " in name, name))


def _fill(selection: Selection, cell: Cell, methods: dict[str, list[Row]]) -> None:
    metric, rows = selection.metric, [row for found in methods.values() for row in found]
    if metric.kind == "time":
        if any(row["target"] is None for row in rows):
            selection.notes.append(f"{cell[0]} ({cell[1]}) has no target: left out")
            return
        end = {"ttt_steps": "total_steps", "ttt_samples": "samples", "ttt_seconds": "training_s"}[metric.name]
        selection.horizons[cell] = min(row[end] for row in rows)
    values = {name: np.array([row[metric.name] for row in found], dtype=np.float64) for name, found in methods.items()}
    known = np.concatenate(list(values.values()))
    if np.isnan(known).all():
        selection.notes.append(f"{cell[0]} ({cell[1]}): no run has a {metric.words}: left out")
        return
    worst = np.nanmin(known) if metric.higher_is_better else np.nanmax(known)
    for name, found in values.items():
        if lost := int(np.isnan(found).sum()):
            selection.notes.append(
                f"{name} on {cell[0]} ({cell[1]}): {lost} of {found.size} runs diverged and count as the worst run"
            )
    selection.cells[cell] = {name: np.where(np.isnan(found), worst, found) for name, found in values.items()}
    selection.runs[cell] = {name: [row["run"] for row in found] for name, found in methods.items()}
    sizes = {name: found.size for name, found in values.items()}
    if len(set(sizes.values())) > 1:
        most = max(sizes.values())
        fewer = ", ".join(f"{name} {size}" for name, size in sizes.items() if size < most)
        selection.notes.append(f"{cell[0]} ({cell[1]}): fewer than {most} runs of {fewer}")


def _refuse_two_settings(cell: Cell, methods: dict[str, list[Row]]) -> None:
    for name, rows in methods.items():
        rows.sort(key=lambda row: row["seed"])
        seeds = Counter(row["seed"] for row in rows)
        seed, times = seeds.most_common(1)[0]
        if times > 1:
            same = [row["run"] for row in rows if row["seed"] == seed][:MAX_EXAMPLES]
            raise UserError(
                f"{name} on {cell[0]} ({cell[1]}) has {times} runs of seed {seed} ({', '.join(same)}): "
                "give different settings their own names in a study, or load one of them"
            )
        rates = {row["lr"] for row in rows}
        if len(rates) > 1:
            shown = ", ".join(f"{rate:g}" for rate in sorted(rates)[:MAX_EXAMPLES])
            raise UserError(
                f"{name} on {cell[0]} ({cell[1]}) has runs of several learning rates ({shown}): compare one"
            )


def _version_notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    for column, words in (("version", "versions of asgc"), ("envpool", "versions of EnvPool"), ("commit", "commits")):
        found = Counter(row[column] for row in rows if row[column] is not None)
        if len(found) > 1:
            shown = ", ".join(f"{str(name)[:12]} ({count} runs)" for name, count in found.most_common(MAX_EXAMPLES))
            notes.append(f"the runs are of {len(found)} {words}: {shown}")
    if dirty := sum(bool(row["dirty"]) for row in rows):
        notes.append(f"{dirty} of {len(rows)} runs were made with uncommitted changes")
    return notes


def _difference(one: str, other: str) -> str:
    """The first field in which two protocol keys differ, with both values."""
    first, second = (dict(item.partition("=")[::2] for item in key.split(SEPARATOR)) for key in (one, other))
    key = next(key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key))
    return f"{key} is {first.get(key, 'not given')} and {second.get(key, 'not given')}"
