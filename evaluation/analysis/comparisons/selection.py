"""The runs of one part of a study, ready to be compared: one value a run, by task, setting and method.

The values of a `Method` in a `Cell` are those of its runs, one a seed; in a robustness part, those of its random
settings (each the mean over its seeds). All checks that make a comparison fair are here: one protocol a task, one
budget a cell, one step size a method in a cell, no seed twice.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.diverged import settle
from evaluation.analysis.data.normalization import Reference, limits_of, normalize, widened
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
    """One number of a run."""

    name: str
    words: str
    kind: str  # a "score", a "time" to the target (infinite: not reached) or a "spread" of scores
    unit: str = ""  # stands behind a time in a sentence
    end: str = ""  # of a time, the column of `runs` that says where a run ends on its axis

    @property
    def higher_is_better(self) -> bool:
        """So it is for scores only."""
        return self.kind == "score"

    @property
    def floor(self) -> float:
        """What no time or spread is below; a gap may be negative."""
        return -math.inf if self.name == "generalization_gap" else 0.0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("final", "final score", "score"),
        Metric("last", "last score", "score"),
        Metric("mean_score", "score of the last evaluation", "score"),
        Metric("auc", "mean score over the run", "score"),
        Metric("std", "standard deviation of the last scores", "spread"),
        Metric("detrended_std", "standard deviation of the last scores about their trend", "spread"),
        Metric("generalization_gap", "drop of the score in other modes and difficulties", "spread"),
        Metric("ttt_steps", "steps to the target", "time", " steps", "total_steps"),
        Metric("ttt_samples", "samples to the target", "time", " samples", "samples"),
        Metric("ttt_seconds", "training seconds to the target", "time", " s", "training_s"),
    )
}


@dataclass
class Selection:
    """Values of a metric in one part of a study."""

    part: str
    kind: str
    metric: Metric
    methods: list[Method]  # by name, plain optimizers first
    notes: list[str]  # what a reader has to know: versions that differ, missing seeds, diverged runs
    cells: dict[Cell, dict[Method, Array]] = field(default_factory=dict)  # values (n,), in order of the seeds
    runs: dict[Cell, dict[Method, list[str]]] = field(default_factory=dict)  # names of those behind the values
    diverged: dict[Cell, dict[Method, int]] = field(default_factory=dict)  # how many of them did
    horizons: dict[Cell, float] = field(default_factory=dict)  # where runs end on a time metric's axis
    references: dict[str, Reference] = field(default_factory=dict)  # task -> scores that count as 0 and 1

    @property
    def unit(self) -> str:
        """What the values of a cell are of."""
        return "settings" if self.kind == "robustness" else "runs"

    def normalized(self, cell: Cell, method: Method) -> Array:
        """Values (n,) that can be put beside those of other cells: scores between the task's references, spreads as
        shares of the distance between them, times as shares of the run."""
        values = self.cells[cell][method]
        if self.metric.kind == "score":
            return normalize(values, self.references[cell.task])
        return values / self.scale(cell)

    def scale(self, cell: Cell) -> float:
        """What counts as 1 in a cell: a score's distance between the references, of a time the length of the run."""
        to = self.references[cell.task]
        return self.horizons[cell] if self.metric.kind == "time" else to.high - to.low

    def limits(self, cells: Sequence[Cell], *, normalized: bool) -> tuple[float, float]:
        """What no mean of these cells' scores can pass, so that no interval does: their tasks' limits."""
        ends = []
        for cell in cells:
            to, scores = self.references[cell.task], np.concatenate(list(self.cells[cell].values()))
            limits = widened(to.limits, scores)
            ends.append(normalize(limits, to) if normalized else limits)
        return float(min(low for low, _ in ends)), float(max(high for _, high in ends))

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
        hint = " (it is called auc now)" if metric == "curve" else did_you_mean(metric, list(METRICS))
        raise UserError(f"unknown metric {metric!r}{hint}: one of {', '.join(METRICS)}")
    name, kind = _part(dataset, part)
    rows = run_rows(dataset, metric, "part = ? AND purpose = 'test'", name)
    if not rows:
        raise UserError(f"part {name} of {dataset.name} has no finished test runs")
    refuse_mixed(rows)
    notes = _version_notes(rows)
    grouped = _by_cell(rows, kind, metric)
    found = {method for methods in grouped.values() for method in methods}
    plain_first = sorted(found, key=lambda one: (one.name not in (one.optimizer, one.variant), one.name))
    selection = Selection(name, kind, METRICS[metric], plain_first, notes)
    for cell, methods in grouped.items():
        if kind != "robustness":
            _refuse_two_settings(cell, methods)
        _fill(selection, cell, methods)
    if not selection.cells and metric == "generalization_gap":
        raise UserError(f"not all runs of part {name} have a {metric}: `asgc-rl eval RUN --flavours` measures it")
    if not selection.cells:
        raise UserError(f"no run of part {name} has a target: {metric} needs one (--evaluation.target)")
    for task in dict.fromkeys(cell.task for cell in selection.cells):
        of_task = [row for cell, methods in grouped.items() if cell.task == task for row in chain(*methods.values())]
        selection.references[task] = task_reference(dataset, of_task, selection.notes)
    return selection


def run_rows(dataset: Dataset, metric: str, condition: str = "true", *parameters: Any) -> list[Row]:
    """The rows of `runs` that meet a condition in SQL, by name, with `metric` among their columns and `diverged`:
    whether the run did so for the metric. Such runs have values by the rule of `data.diverged`.

    "auc" is the mean score of a run over its evaluations, trapezoidal in steps: the area under its learning curve
    divided by the curve's length; the only score of a run with one evaluation.
    """
    areas = """JOIN (
        SELECT run, coalesce(sum(width * ("value" + before) / 2) / sum(width), any_value("value")) AS auc FROM (
            SELECT run, "value", step - lag(step) OVER curve AS width, lag("value") OVER curve AS before
            FROM evaluations WINDOW curve AS (PARTITION BY run ORDER BY step)
        ) GROUP BY run
    ) USING (run)"""
    joined = areas if metric == "auc" else ""
    rows = dataset.rows(f"SELECT *, ({condition}) AS chosen FROM runs {joined} ORDER BY run", *parameters)
    one = METRICS[metric]
    for row in rows:
        lost = not math.isfinite(row["final"])
        if one.kind == "time":  # a run that met its target before it diverged has its time
            lost = lost and row[metric] == math.inf
        row["diverged"] = not math.isfinite(row[metric]) if one.kind == "score" else lost
    if metric != "final":
        settle(rows, "final", lambda row: not math.isfinite(row["final"]), dataset.reference)
    if one.kind != "time":
        settle(rows, metric, lambda row: bool(row["diverged"]), dataset.reference, one.higher_is_better)
    return [row for row in rows if row.pop("chosen")]


def refuse_no_score(metric: str, what: str) -> None:
    """`UserError` for a metric that is no score."""
    if metric not in METRICS or METRICS[metric].kind != "score":
        raise UserError(f"{what} shown for a score, not for {metric!r}: final, auc, last or mean_score")


def refuse_mixed(rows: Sequence[Row]) -> None:
    """`UserError` where runs of one task were scored under two protocols, or those of one cell had two budgets."""
    refuse_two_protocols(rows)
    for cell, (steps, run), (more, other) in _unequal(rows, "total_steps", ("task", "setting")):
        raise UserError(
            f"runs of {Cell(*cell)} have two budgets, {steps:,} and {more:,} steps "
            f"(such as {run} and {other}): compare runs of one length"
        )


def refuse_two_protocols(rows: Iterable[Row]) -> None:
    """`UserError` where runs of one task were scored under two protocols; names the field and examples."""
    for (task,), (one, run), (two, other) in _unequal(rows, "protocol", ("task",)):
        raise UserError(
            f"scores of two protocols cannot be put together: {Protocol.read(one).difference(Protocol.read(two))} "
            f"in runs of {task} (such as {run} and {other}); load or select one of them"
        )


def _unequal(rows: Iterable[Row], column: str, within: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
    """Where runs that are equal in the columns `within` are not in `column`: what they are equal in, and the first two
    values, each with the name of a run."""
    found: dict[tuple[str, ...], dict[Any, str]] = defaultdict(dict)
    for row in rows:
        found[tuple(row[name] for name in within)].setdefault(row[column], row["run"])
    for place, values in found.items():
        if len(values) > 1:
            one, two = islice(values.items(), 2)
            yield place, one, two


def _by_cell(rows: Sequence[Row], kind: str, metric: str) -> dict[Cell, dict[Method, list[Row]]]:
    """The rows by cell and method; of random settings one row each, with means over its runs."""
    one_optimizer = len({row["optimizer"] for row in rows}) == 1
    has_variants = kind in ("compare", "ablation") and len({row["variant"] for row in rows}) > 1
    cells: dict[Cell, dict[Method, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        optimizer, variant = row["optimizer"], row["variant"]
        point = variant if kind == "grid" and variant != "default" else ""
        method = Method(optimizer)
        if has_variants and one_optimizer:
            method = Method(optimizer, variant, name=variant)
        elif has_variants and variant != "default":
            method = Method(optimizer, variant, name=f"{optimizer} {variant}")
        cells[Cell(row["task"], row["setting"], point)][method].append(row)
    if kind == "robustness":
        for methods in cells.values():
            for method, some in methods.items():
                settings: dict[str, list[Row]] = defaultdict(list)
                for row in some:
                    settings[row["variant"]].append(row)
                methods[method] = [_mean(same, {metric, "final"}) for same in settings.values()]
    return cells


def _mean(rows: Sequence[Row], columns: Iterable[str]) -> Row:
    """The first of the rows, with the mean of these columns (None: one of the rows has no value)."""
    values = {name: [row[name] for row in rows] for name in columns}
    means = {name: None if None in of else float(np.mean(of)) for name, of in values.items()}
    return rows[0] | means | {"diverged": any(row["diverged"] for row in rows)}


def task_reference(dataset: Dataset, rows: Sequence[Row], notes: list[str]) -> Reference:
    """The references of the task of `rows`; where none are known, its worst final score and its target (or best
    final score), with a note."""
    task, limits = rows[0]["task"], limits_of(Protocol.read(rows[0]["protocol"]).fields)
    known = dataset.reference(task)
    if known is not None:
        return known if known.limits != Reference.limits else replace(known, limits=limits)
    scores = [row["final"] for row in rows if not row["diverged"] and np.isfinite(row["final"])] or [0.0]
    low, high, words = min(scores), max(scores), "the best run"
    target = rows[0]["target"]
    if target is not None and target > low:
        high, words = target, "the target"
    elif high == low:
        high = low + 1.0
    notes.append(f"{task} has no published reference scores: 0 is its worst run ({low:.4g}), 1 is {words} ({high:.4g})")
    return Reference(low, high, f"worst run and {words}", limits)


def trial_rows(dataset: Dataset, part: str, metric: str, what: str) -> list[Row]:
    """The trials of a part of kind search, of all methods, tasks and settings.

    Args:
        what: it searches: "grids".

    Raises:
        UserError: the part is no search; runs that are not to be compared.
    """
    kind = part_kinds(dataset).get(part)
    if kind != "search":
        raise UserError(f"{dataset.name} has no {what} to search in {part!r}" + (f", a {kind}" if kind else ""))
    rows = run_rows(dataset, metric, "part = ?", part)
    refuse_mixed(rows)
    return rows


def part_kinds(dataset: Dataset) -> dict[str, str]:
    """The parts that have runs, and the kind of each."""
    found = dataset.rows("SELECT DISTINCT part, kind FROM runs ORDER BY part, kind")
    return {row["part"]: row["kind"] for row in found}


def _part(dataset: Dataset, part: str | None) -> tuple[str, str]:
    found = part_kinds(dataset)
    if not found:
        problems = f" ({len(dataset.problems)} folders were left out)" if dataset.problems else ""
        raise UserError(f"{dataset.name} has no finished runs{problems}")
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


def _fill(selection: Selection, cell: Cell, methods: dict[Method, list[Row]]) -> None:
    """Take up the values of a cell; a note says why where there are none."""
    metric, rows = selection.metric, [row for found in methods.values() for row in found]
    if metric.kind == "time":
        if any(row["target"] is None for row in rows):
            selection.notes.append(f"{cell} has no target: left out")
            return
        selection.horizons[cell] = min(row[metric.end] for row in rows)
    values = {name: np.array([row[metric.name] for row in found], dtype=np.float64) for name, found in methods.items()}
    known = np.concatenate(list(values.values()))
    if np.isnan(known).any():
        selection.notes.append(f"{cell}: no run has a {metric.words}: left out")
        return
    lost = {name: sum(row["diverged"] for row in found) for name, found in methods.items()}
    for name, count in lost.items():
        if count:
            selection.notes.append(
                f"{name} on {cell}: {count} of {len(methods[name])} {selection.unit} diverged and count as the worst"
            )
    selection.cells[cell], selection.diverged[cell] = values, lost
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
