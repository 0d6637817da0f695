"""The numbers of a report as tables for the page: what is shown, what is sorted by, and the runs each row stands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluation.analysis.comparisons import claims
from evaluation.analysis.comparisons.best_of_k import BestOfRow, curves_by_search, shown_numbers
from evaluation.analysis.comparisons.compare import AggregateRow, Comparison, PairRow
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data.run_key import Cell, Method, RunKey
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.bootstrap import Estimate

METRICS = ("final", "ttt_steps", "auc", "detrended_std")  # what is compared, in the order of the page
STATISTICS = {
    "iqm": "IQM",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap",
    "restricted_mean": "mean time",
    "median_time": "median time",
    "reached": "share that reached it",
}


@dataclass(frozen=True)
class Entry:
    """One number or word of a table: the text, the text of its interval, a number's value to sort by, a verdict."""

    text: str
    interval: str = ""
    value: float | None = None
    verdict: Verdict | None = None

    @property
    def key(self) -> str:
        """`value` as JavaScript's Number reads it."""
        return "" if self.value is None else f"{self.value:.6g}".replace("inf", "Infinity")


@dataclass(frozen=True)
class Line:
    """One row: its cells, and the runs it stands on."""

    cells: Sequence[Entry]
    runs: RunKey


@dataclass(frozen=True)
class Sheet:
    """One table of the page. `columns` are (label, explanation), `part` is the study's that it belongs to."""

    name: str
    part: str
    title: str
    columns: Sequence[tuple[str, str]]
    lines: list[Line]
    note: str = ""


Column = tuple[str, str, Callable[[Any], Any]]  # label, explanation, and the value of a record


def sheet(name: str, part: str, table: Table[Any], columns: Sequence[Column], method: str = "method") -> Sheet:
    """A table of records, one line each, which stands on the runs of its cell and of the `method` that it names."""
    lines = [
        Line([entry(value(record)) for *_, value in columns], RunKey.of(part, record.cell, getattr(record, method)))
        for record in table
    ]
    shown = [(label, explanation) for label, explanation, _ in columns]
    return Sheet(f"{part}-{name}", part, table.title, shown, lines, table.note)


Place = Callable[[RunKey], tuple[int, ...]]  # the order of rows by their runs: `StudyData.place`
Claims = list[tuple[RunKey, PairRow]]  # sentences with their runs


# Entries -------------------------------------------------------------------------------------------------------------


def entry(value: Any) -> Entry:
    """A value as tables show it: numbers as the sentences write them, with their interval; nothing for None and NaN."""
    if isinstance(value, Entry):
        return value
    if isinstance(value, Verdict):
        return Entry(f"{value.sign} {value}", "", list(Verdict).index(value), value)
    if isinstance(value, Estimate):
        known = not math.isnan(value.value)
        return replace(entry(value.value), interval=f"[{claims.ends(value)}]" if known else "")
    if isinstance(value, float):
        return Entry(_text(value), value=None if math.isnan(value) else value)
    if isinstance(value, int):
        return Entry(str(value), value=value)
    return Entry("", value=-1.0) if value is None else Entry(str(value))


def p_value(p: float) -> Entry:
    """A p value; nothing where there is no test."""
    return Entry("") if math.isnan(p) else Entry(claims.p_value(p), value=p)


def _text(value: float) -> str:
    if math.isnan(value):
        return ""
    return claims.number(value)


TASK: Column = ("task", "", lambda row: row.cell.task)
SETTING: Column = ("setting", "", lambda row: row.cell.group)
METHOD: Column = ("method", "", lambda row: row.method)
DIVERGED: Column = ("diverged", "runs that did so and count as the worst", lambda row: row.diverged)
TESTS: tuple[Column, ...] = (
    ("P(better)", "probability of improvement", lambda row: row.improvement),
    ("p", "exact rank test, adjusted by Holm", lambda row: p_value(row.p_holm)),
    ("verdict", "", lambda row: row.verdict),
)


# Comparisons ---------------------------------------------------------------------------------------------------------


def claims_of(comparison: Comparison, place: Place) -> tuple[Claims, Claims]:
    """Its sentences, losses included: over tasks, in all settings or the only one; and for each setting."""
    groups = [pair.cell for pair in comparison.pairs]
    first = groups[0] if groups and Cell() not in groups else Cell()
    pairs = [(RunKey.of(comparison.part, pair.cell, pair.method), pair) for pair in comparison.pairs]
    pairs.sort(key=lambda pair: place(pair[0]))
    main, others = ([one for one in pairs if (one[1].cell == first) is wanted] for wanted in (True, False))
    return main, others


def sheets_of(comparison: Comparison, place: Place) -> list[Sheet]:
    """Its tables: over tasks, against the baseline, by task and setting."""
    unit = "random settings" if comparison.kind == "robustness" else "runs"
    found = [_aggregates(comparison, unit), _pairs(comparison, "pairs", unit)]
    found += [_cells(comparison, unit), _pairs(comparison, "cell-pairs", unit)]
    for one in found:
        one.lines.sort(key=lambda line: place(line.runs))
    return [one for one in found if one.lines]


def _cells(comparison: Comparison, unit: str) -> Sheet:
    is_time = comparison.metric.kind == "time"
    columns: list[Column] = [TASK, SETTING, METHOD, ("n", f"values: {unit}", lambda row: row.n), DIVERGED]
    if is_time:
        columns += [("reached", "runs that met the target", lambda row: row.reached)]
    else:
        columns += [("IQM", "interquartile mean", lambda row: row.iqm)]
    half, center = "time by which half of the runs were there", "mean of min(time, end of the run)"
    columns += [("median", half if is_time else "median over runs", lambda row: row.median)]
    columns += [("mean", center if is_time else "mean over runs", lambda row: row.mean)]
    columns += [("final score", "its IQM", lambda row: row.score)] if comparison.metric.kind == "spread" else []
    return sheet(f"{comparison.metric.name}-cells", comparison.part, comparison.cells, columns)


def _aggregates(comparison: Comparison, unit: str) -> Sheet:
    """One line a method and group, one column a statistic."""
    rows: dict[tuple[Cell, Method], dict[str, AggregateRow]] = {}
    for row in comparison.aggregates:
        rows.setdefault((row.group, row.method), {})[row.statistic] = row
    columns = [("settings", ""), ("method", ""), ("cells", "tasks and settings"), ("n", f"{unit} in each")]
    columns += [DIVERGED[:2]]
    columns += [(STATISTICS[name], "") for name in dict.fromkeys(row.statistic for row in comparison.aggregates)]
    lines = []
    for (group, method), some in rows.items():
        one = next(iter(some.values()))
        cells = (group.group, method, one.cells, one.n, one.diverged, *(row.value for row in some.values()))
        lines.append(Line([entry(cell) for cell in cells], RunKey.of(comparison.part, group, method)))
    name, table = f"{comparison.part}-{comparison.metric.name}-aggregates", comparison.aggregates
    return Sheet(name, comparison.part, table.title, columns, lines, table.note)


def _pairs(comparison: Comparison, name: str, unit: str) -> Sheet:
    table = comparison.pairs if name == "pairs" else comparison.cell_pairs
    by_task = any(row.cell.task for row in table)
    center = "mean time" if comparison.metric.kind == "time" else "IQM"
    columns: list[Column] = [TASK, SETTING] if by_task else [("settings", "", SETTING[-1])]
    columns += [METHOD, ("n", f"{unit} in each cell", lambda row: row.n), DIVERGED]
    columns += [(center, "of the method", lambda row: row.center)]
    columns += [(f"{center} of {comparison.baseline}", "of the baseline", lambda row: row.baseline_center)]
    if comparison.metric.kind == "spread":
        columns += [("final score", "IQM of the method", lambda row: row.score)]
        columns += [(f"final score of {comparison.baseline}", "its IQM", lambda row: row.baseline_score)]
    together = "method less baseline; the intervals of a family hold together"
    columns += [("difference", together, lambda row: row.difference), *TESTS]
    families = "primary: over all tasks and settings; exploratory: single ones, corrected among themselves"
    columns += [("family", families, lambda row: row.family)]
    return sheet(f"{comparison.metric.name}-{name}", comparison.part, table, columns)


def glance(found: Sequence[Comparison], place: Place) -> Sheet:
    """Verdict of each method in each comparison, over all its tasks and settings (or its only one)."""
    parts = list(dict.fromkeys(comparison.part for comparison in found))
    metrics = list(dict.fromkeys(comparison.metric.words for comparison in found))
    rows: dict[tuple[str, Method, Method], tuple[RunKey, dict[str, Entry]]] = {}
    for comparison in found:
        several = len({pair.cell for pair in comparison.pairs}) > 1
        for pair in (pair for pair in comparison.pairs if pair.cell == Cell() or not several):
            runs = RunKey.of(comparison.part, pair.cell, pair.method)
            _, verdicts = rows.setdefault((comparison.part, pair.method, pair.baseline), (runs, {}))
            interval = claims.interval(pair.improvement)
            verdicts[comparison.metric.words] = replace(entry(pair.verdict), interval=interval)
    lines = [
        Line([*map(entry, names), *(verdicts.get(metric, Entry("")) for metric in metrics)], runs)
        for names, (runs, verdicts) in rows.items()
    ]
    lines.sort(key=lambda line: (parts.index(line.runs.part), place(line.runs)))
    columns = [("part", "of the study"), ("method", ""), ("against", "baseline")]
    columns += [(metric, "verdict, and the probability of improvement with its interval") for metric in metrics]
    note = (
        "Better or worse only where two tests agree: the interval of the probability of improvement (in brackets) "
        "leaves out 1/2, and the exact rank test's p value, adjusted by Holm for all methods over all tasks and "
        "settings, is below 0.05. To be steadier at a lower score counts as no win. “No difference shown” does not "
        "mean equal."
    )
    return Sheet("glance", "", "At a glance", columns, lines, note)


# Methods against the baseline at their own effective step size.
MATCHED: tuple[Column, ...] = (
    *(TASK, SETTING, METHOD),
    ("effective step", "|w' - w| / |w|, or the learning rate", lambda row: row.step),
    ("baseline's", "effective step of the baseline in the comparison", lambda row: row.baseline_step),
    ("matched runs", "of the baseline", lambda row: row.matched or "none near enough"),
    ("n", "matched runs", lambda row: row.n_matched),
    ("their step", "", lambda row: row.matched_step),
    ("IQM", "of the method", lambda row: row.iqm),
    ("matched IQM", "of the baseline", lambda row: row.matched_iqm),
    *TESTS,
)

# Methods against the baseline along a grid, at the same effective step.
MATCHED_GRID: tuple[Column, ...] = (
    ("task", "", lambda row: row.cell.task or "all"),
    ("setting", "", lambda row: row.cell.setting or "all"),
    METHOD,
    ("points", "of the grid that have a match", lambda row: row.points),
    ("collapsed", "points where every match of the baseline collapsed", lambda row: row.collapsed),
    ("from", "smallest effective step |w' - w| / |w|", lambda row: row.step_low),
    ("to", "largest", lambda row: row.step_high),
    ("near the best", "share of the points within 5 % of the reference range of the cell's best", lambda row: row.near),
    ("baseline's", "the same of the baseline", lambda row: row.baseline_near),
    ("score", "mean normalized score over the points, cut to [0, 1]", lambda row: row.area),
    ("baseline's score", "", lambda row: row.baseline_area),
    ("difference", "of the scores, with its interval", lambda row: row.difference),
    *TESTS,
)


def best_of_k(part: str, table: Table[BestOfRow]) -> Sheet:
    """What the best of k trials reach: a line a search, a column a number of trials."""
    numbers = shown_numbers(table)
    columns = [("task", ""), ("setting", ""), ("optimizer", ""), ("seeds", "of a trial")]
    columns += [(f"best of {k}", "expected score") for k in numbers]
    lines = []
    for (cell, method), curve in curves_by_search(table).items():
        values = (curve[k].shown if k in curve else None for k in numbers)
        cells = (cell.task or "all", cell.group, method, next(iter(curve.values())).seeds, *values)
        lines.append(Line([entry(value) for value in cells], RunKey.of(part, cell, method)))
    return Sheet(f"{part}-best-of-k", part, table.title, columns, lines, table.note)


# What optimizers reach at random settings, or at the points of a grid.
ROBUSTNESS: tuple[Column, ...] = (
    *(TASK, SETTING),
    ("optimizer", "", lambda row: row.optimizer),
    ("settings", "of its options", lambda row: row.settings),
    ("best", "best setting's score", lambda row: row.best),
    ("near the best", "share of settings within 5 % of the reference range of the cell's best", lambda row: row.near),
    ("area", "mean normalized score, cut to [0, 1]", lambda row: row.area),
)
