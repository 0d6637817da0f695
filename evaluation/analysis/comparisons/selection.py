"""The runs of one part of a study, ready to be compared: one value a run, by task, setting and method.

The values of a `Method` in a `Cell` are those of its runs, one a seed; in a robustness part, those of its random
settings (each the mean over its seeds). All checks that make a comparison fair are here: one protocol a task, one
budget a cell, one step size a method in a cell, no seed twice.
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
from evaluation.analysis.data.protocol import Protocol
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.aggregate import Array
from evaluation.cli.errors import UserError
from evaluation.cli.values import did_you_mean

Row = dict[str, Any]
COMPARABLE = ("compare", "ablation", "grid", "robustness")  # kinds of parts; trials of a search depend on each other
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Metric:
    """One number of a run. `kind`: a "score" (higher is better), a "time" to the target (infinite: not reached) or a
    "spread" of scores; of the last two, lower is better. `unit` stands behind a time in a sentence, `end` is the column
    of `runs` that says where a run ends on its axis."""

    name: str
    words: str
    kind: str
    unit: str = ""
    end: str = ""

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
        Metric("ttt_steps", "steps to the target", "time", " steps", "total_steps"),
        Metric("ttt_samples", "samples to the target", "time", " samples", "samples"),
        Metric("ttt_seconds", "training seconds to the target", "time", " s", "training_s"),
    )
}


@dataclass
class Selection:
    """Values of a metric.

    Attributes:
        part, kind: of the study.
        metric: what the values are.
        methods: by name, plain optimizers first.
        cells: cell -> method -> values (n,), in order of the seeds.
        runs: cell -> method -> names of the runs behind the values.
        horizons: cell -> where runs end on a time metric's axis.
        references: task -> scores that count as 0 and 1.
        notes: what a reader has to know: versions that differ, missing seeds, diverged runs.
    """

    part: str
    kind: str
    metric: Metric
    methods: list[Method]
    cells: dict[Cell, dict[Method, Array]]
    runs: dict[Cell, dict[Method, list[str]]] = field(default_factory=dict)
    horizons: dict[Cell, float] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What the values of a cell are of."""
        return "settings" if self.kind == "robustness" else "runs"

    def normalized(self, cell: Cell, method: Method) -> Array:
        """Values (n,) that can be put beside those of other cells: scores between the task's references, spreads as
        shares of the distance between them, times as shares of the run."""
        values, to = self.cells[cell][method], self.references[cell.task]
        if self.metric.kind == "score":
            return normalize(values, to)
        return values / (self.horizons[cell] if self.metric.kind == "time" else to.high - to.low)

    def matrix(self, cells: Sequence[Cell], method: Method) -> Array:
        """Normalized values (R, T) of the cells, R the smallest number of runs in any of them (the lowest seeds)."""
        columns = [self.normalized(cell, method) for cell in cells]
        runs = min(column.size for column in columns)
        return np.stack([column[:runs] for column in columns], axis=1)


def select(dataset: Dataset, part: str | None = None, metric: str = "final") -> Selection:
    """The test runs of a part (default: the study's only one of kind compare) with one value each.

    Raises `UserError`: an unknown part or metric; runs of one task under two protocols (names the field and examples),
    or of two budgets; a method with two step sizes or two runs of a seed in one cell.
    """
    if metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}{did_you_mean(metric, list(METRICS))}: one of {', '.join(METRICS)}")
    name, kind = _part(dataset, part)
    rows = run_rows(dataset, metric, "part = ? AND purpose = 'test'", name)
    if not rows:
        raise UserError(f"part {name} of {dataset.name} has no finished test runs")
    refuse_mixed(rows)
    notes = _version_notes(rows)
    rows = _with_methods(rows, kind, metric)
    selection = Selection(name, kind, METRICS[metric], _order(rows), {}, notes=notes)
    grouped: dict[Cell, dict[Method, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["cell"]][row["method"]].append(row)
    for cell, methods in grouped.items():
        if kind != "robustness":
            _refuse_two_settings(cell, methods)
        _fill(selection, cell, methods)
    if not selection.cells:
        raise UserError(f"no run of part {name} has a target: {metric} needs one (--evaluation.target)")
    for task in dict.fromkeys(cell.task for cell in selection.cells):
        selection.references[task] = task_reference([row for row in rows if row["task"] == task], selection.notes)
    return selection


def run_rows(dataset: Dataset, metric: str, condition: str = "true", *parameters: Any) -> list[Row]:
    """The rows of `runs` that meet a condition in SQL, by name, with `metric` among their columns.

    "auc" is the mean score of a run over its evaluations, trapezoidal in steps: the area under its learning curve
    divided by the curve's length; the only score of a run with one evaluation.
    """
    rows = dataset.rows(f"SELECT * FROM runs WHERE {condition} ORDER BY run", *parameters)
    if metric == "auc":
        found = dataset.rows(
            """SELECT run, sum(width * ("value" + before) / 2) / sum(width) AS area, any_value("value") AS only FROM (
                SELECT run, "value", step - lag(step) OVER curve AS width, lag("value") OVER curve AS before
                FROM evaluations WINDOW curve AS (PARTITION BY run ORDER BY step)
            ) GROUP BY run"""
        )
        areas = {row["run"]: row["only"] if row["area"] is None else row["area"] for row in found}
        for row in rows:
            row["auc"] = areas[row["run"]]
    return rows


def refuse_mixed(rows: Sequence[Row]) -> None:
    """`UserError` where runs of one task were scored under two protocols, or those of one cell had two budgets."""
    refuse_two_protocols(rows)
    by_cell: dict[Cell, dict[int, str]] = defaultdict(dict)
    for row in rows:
        by_cell[Cell(row["task"], row["setting"])].setdefault(row["total_steps"], row["run"])
    for cell, budgets in by_cell.items():
        if len(budgets) > 1:
            (steps, run), (more, other) = itertools.islice(budgets.items(), 2)
            raise UserError(
                f"runs of {cell} have two budgets, {steps:,} and {more:,} steps "
                f"(such as {run} and {other}): compare runs of one length"
            )


def refuse_two_protocols(rows: Iterable[Row]) -> None:
    """`UserError` where runs of one task were scored under two protocols; names the field and examples."""
    by_task: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        by_task[row["task"]].setdefault(row["protocol"], row["run"])
    for task, protocols in by_task.items():
        if len(protocols) > 1:
            (one, run), (two, other) = itertools.islice(protocols.items(), 2)
            raise UserError(
                f"scores of two protocols cannot be put together: {Protocol.read(one).difference(Protocol.read(two))} "
                f"in runs of {task} (such as {run} and {other}); load or select one of them"
            )


def _with_methods(rows: list[Row], kind: str, metric: str) -> list[Row]:
    """Rows with their "method" and "cell"; of random settings one row each."""
    optimizers = {row["optimizer"] for row in rows}
    variants = {row["variant"] for row in rows}
    for row in rows:
        optimizer, variant = row["optimizer"], row["variant"]
        point = variant if kind == "grid" and variant != "default" else ""
        row["method"], row["cell"] = Method(optimizer), Cell(row["task"], row["setting"], point)
        if kind in ("compare", "ablation") and len(variants) > 1:
            if len(optimizers) == 1:
                row["method"] = Method(optimizer, variant, name=variant)
            elif variant != "default":
                row["method"] = Method(optimizer, variant, name=f"{optimizer} {variant}")
    if kind != "robustness":
        return rows
    drawn: dict[tuple[Cell, Method, str], list[Row]] = defaultdict(list)
    for row in rows:
        drawn[row["cell"], row["method"], row["variant"]].append(row)
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


def _order(rows: Sequence[Row]) -> list[Method]:
    """Methods by name, plain optimizers first: the order of the study's index is not kept."""
    found = {row["method"] for row in rows}
    return sorted(found, key=lambda method: (method.name not in (method.optimizer, method.variant), method.name))


def _fill(selection: Selection, cell: Cell, methods: dict[Method, list[Row]]) -> None:
    metric, rows = selection.metric, [row for found in methods.values() for row in found]
    if metric.kind == "time":
        if any(row["target"] is None for row in rows):
            selection.notes.append(f"{cell} has no target: left out")
            return
        selection.horizons[cell] = min(row[metric.end] for row in rows)
    values = {name: np.array([row[metric.name] for row in found], dtype=np.float64) for name, found in methods.items()}
    known = np.concatenate(list(values.values()))
    if np.isnan(known).all():
        selection.notes.append(f"{cell}: no run has a {metric.words}: left out")
        return
    worst = np.nanmin(known) if metric.higher_is_better else np.nanmax(known)
    for name, found in values.items():
        if lost := int(np.isnan(found).sum()):
            selection.notes.append(f"{name} on {cell}: {lost} of {found.size} runs diverged and count as the worst run")
    selection.cells[cell] = {name: np.where(np.isnan(found), worst, found) for name, found in values.items()}
    selection.runs[cell] = {name: [row["run"] for row in found] for name, found in methods.items()}
    sizes = {name: found.size for name, found in values.items()}
    if len(set(sizes.values())) > 1:
        most = max(sizes.values())
        fewer = ", ".join(f"{name} {size}" for name, size in sizes.items() if size < most)
        selection.notes.append(f"{cell}: fewer than {most} runs of {fewer}")


def _refuse_two_settings(cell: Cell, methods: dict[Method, list[Row]]) -> None:
    for name, rows in methods.items():
        rows.sort(key=lambda row: row["seed"])
        seeds = Counter(row["seed"] for row in rows)
        seed, times = seeds.most_common(1)[0]
        if times > 1:
            same = [row["run"] for row in rows if row["seed"] == seed][:MAX_EXAMPLES]
            raise UserError(
                f"{name} on {cell} has {times} runs of seed {seed} ({', '.join(same)}): "
                "give different settings their own names in a study, or load one of them"
            )
        rates = {row["lr"] for row in rows}
        if len(rates) > 1:
            shown = ", ".join(f"{rate:g}" for rate in sorted(rates)[:MAX_EXAMPLES])
            raise UserError(f"{name} on {cell} has runs of several learning rates ({shown}): compare one")


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
