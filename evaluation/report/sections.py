"""The numbers of a report as tables for the page: what is shown, what is sorted by, and the runs each row stands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.analysis.comparisons import claims
from evaluation.analysis.comparisons.compare import AggregateRow, Comparison, PairRow
from evaluation.analysis.comparisons.matched import MatchedGridRow, MatchedRow
from evaluation.analysis.comparisons.robustness import RobustnessRow
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
    """One number or word of a table: the text, the text of its interval, the value to sort by, a verdict."""

    text: str
    interval: str = ""
    value: float | str | None = None
    verdict: Verdict | None = None

    @property
    def key(self) -> str:
        """`value` as JavaScript's Number reads it, where it is a number; else ""."""
        if not isinstance(self.value, int | float):
            return ""
        return f"{self.value:.6g}".replace("inf", "Infinity")


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
    lines: Sequence[Line]
    note: str = ""


Column = tuple[str, str, Callable[[Any], Entry]]  # label, explanation, and a record's entry


def sheet(name: str, part: str, table: Table[Any], columns: Sequence[Column], runs: Callable[[Any], RunKey]) -> Sheet:
    """A table of records: one line each, `runs` says what it stands on."""
    lines = [Line([entry(record) for *_, entry in columns], runs(record)) for record in table]
    shown = [(label, explanation) for label, explanation, _ in columns]
    return Sheet(f"{part}-{name}", part, table.title, shown, lines, table.note)


class Order:
    """The order of rows: tasks, settings and optimizers as the study has them, all settings together first."""

    def __init__(self, tasks: Sequence[str], settings: Sequence[str], optimizers: Sequence[str]) -> None:
        names = {"task": tasks, "setting": settings, "optimizer": optimizers}
        self._places = {key: {name: place for place, name in enumerate(values)} for key, values in names.items()}

    def __call__(self, row: Line | Claim) -> tuple[int, ...]:
        """A key to sort by; rows that agree in it stay as they are."""
        return tuple(places.get(getattr(row.runs, key), -1) for key, places in self._places.items())


@dataclass(frozen=True)
class Claim:
    """One sentence with its verdict."""

    verdict: Verdict
    sentence: str
    runs: RunKey


@dataclass(frozen=True)
class Claims:
    """What one comparison says: `main` over tasks, in all settings or the only one, `others` for each setting."""

    part: str
    title: str
    main: Sequence[Claim]
    others: Sequence[Claim]


# Entries -------------------------------------------------------------------------------------------------------------


def word(text: Any) -> Entry:
    """A word."""
    return Entry(str(text), value=str(text))


def count(value: int | None) -> Entry:
    """A whole number; nothing for None."""
    return Entry("", value=-1.0) if value is None else Entry(str(value), value=float(value))


def number(value: float) -> Entry:
    """A number as the sentences write it."""
    return estimate(Estimate(value))


def estimate(found: Estimate) -> Entry:
    """A number with its interval."""
    interval = "" if math.isnan(found.low) else f"[{_text(found.low)}, {_text(found.high)}]"
    return Entry(_text(found.value), interval, None if math.isnan(found.value) else found.value)


def p_value(p: float) -> Entry:
    """A p value; nothing where there is no test."""
    return Entry("") if math.isnan(p) else Entry(claims.p_value(p), value=p)


def verdict(found: Verdict, interval: str = "") -> Entry:
    """A verdict with its sign."""
    return Entry(f"{found.sign} {found}", interval, list(Verdict).index(found), found)


def _text(value: float) -> str:
    if math.isnan(value):
        return ""
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else claims.number(value)


TASK: Column = ("task", "", lambda row: word(row.cell.task))
SETTING: Column = ("setting", "", lambda row: word(row.cell.group))
METHOD: Column = ("method", "", lambda row: word(row.method))
TESTS: tuple[Column, ...] = (
    ("P(better)", "probability of improvement", lambda row: estimate(row.improvement)),
    ("p", "exact rank test, adjusted by Holm", lambda row: p_value(row.p_holm)),
    ("verdict", "", lambda row: verdict(row.verdict)),
)


# Comparisons ---------------------------------------------------------------------------------------------------------


def claims_of(comparison: Comparison, order: Order) -> Claims:
    """Its sentences, losses included."""
    groups = list(dict.fromkeys(pair.cell for pair in comparison.pairs))
    first = groups[0] if groups and Cell() not in groups else Cell()
    made: dict[bool, list[Claim]] = {True: [], False: []}
    for pair in comparison.pairs:
        runs = RunKey.of(comparison.part, pair.cell, pair.method)
        made[pair.cell == first].append(Claim(pair.verdict, pair.sentence, runs))
    main, others = (sorted(some, key=order) for some in made.values())
    return Claims(comparison.part, comparison.pairs.title, main, others)


def sheets_of(comparison: Comparison, order: Order) -> list[Sheet]:
    """Its tables: over tasks, against the baseline, by task and setting."""
    unit = "random settings" if comparison.kind == "robustness" else "runs"
    found = [_aggregates(comparison, unit), _pairs(comparison, "pairs", unit)]
    found += [_cells(comparison, unit), _pairs(comparison, "cell-pairs", unit)]
    for one in found:
        one.lines.sort(key=order)  # type: ignore[attr-defined]
    return [one for one in found if one.lines]


def _cells(comparison: Comparison, unit: str) -> Sheet:
    is_time = comparison.metric.kind == "time"
    columns: list[Column] = [TASK, SETTING, METHOD, ("n", f"values: {unit}", lambda row: count(row.n))]
    if is_time:
        columns += [("reached", "runs that met the target", lambda row: count(row.reached))]
    else:
        columns += [("IQM", "interquartile mean", lambda row: estimate(row.iqm))]
    half, center = "time by which half of the runs were there", "mean of min(time, end of the run)"
    columns += [("median", half if is_time else "median over runs", lambda row: estimate(row.median))]
    columns += [("mean", center if is_time else "mean over runs", lambda row: estimate(row.mean))]
    return _sheet(comparison, "cells", comparison.cells, columns)


def _aggregates(comparison: Comparison, unit: str) -> Sheet:
    """One line a method and group, one column a statistic."""
    rows: dict[tuple[Cell, Method], dict[str, AggregateRow]] = {}
    for row in comparison.aggregates:
        rows.setdefault((row.group, row.method), {})[row.statistic] = row
    columns = [("settings", ""), ("method", ""), ("cells", "tasks and settings"), ("n", f"{unit} in each")]
    columns += [(STATISTICS[name], "") for name in dict.fromkeys(row.statistic for row in comparison.aggregates)]
    lines = []
    for (group, method), some in rows.items():
        one = next(iter(some.values()))
        cells = [word(group.group), word(method), count(one.cells), count(one.n)]
        cells += [estimate(row.value) for row in some.values()]
        lines.append(Line(cells, RunKey.of(comparison.part, group, method)))
    name, table = f"{comparison.part}-{comparison.metric.name}-aggregates", comparison.aggregates
    return Sheet(name, comparison.part, table.title, columns, lines, table.note)


def _pairs(comparison: Comparison, name: str, unit: str) -> Sheet:
    table = comparison.pairs if name == "pairs" else comparison.cell_pairs
    by_task = any(row.cell.task for row in table)
    center = "mean time" if comparison.metric.kind == "time" else "IQM"
    columns: list[Column] = [TASK, SETTING] if by_task else [("settings", "", SETTING[-1])]
    columns += [METHOD, ("n", f"{unit} in each cell", lambda row: count(row.n))]
    columns += [(center, "of the method", lambda row: estimate(row.center))]
    columns += [(f"{center} of {comparison.baseline}", "of the baseline", lambda row: estimate(row.baseline_center))]
    together = "method less baseline; the intervals of the table hold together"
    columns += [("difference", together, lambda row: estimate(row.difference)), *TESTS]
    return _sheet(comparison, name, table, columns)


def _sheet(comparison: Comparison, name: str, table: Table[Any], columns: Sequence[Column]) -> Sheet:
    part = comparison.part
    return sheet(
        f"{comparison.metric.name}-{name}", part, table, columns, lambda row: RunKey.of(part, row.cell, row.method)
    )


def glance(found: Sequence[Comparison], order: Order) -> Sheet:
    """Verdict of each method in each comparison, over all its tasks and settings (or its only one)."""
    parts = list(dict.fromkeys(comparison.part for comparison in found))
    metrics = list(dict.fromkeys(comparison.metric.words for comparison in found))
    rows: dict[tuple[str, Method, Method], tuple[RunKey, dict[str, PairRow]]] = {}
    for comparison in found:
        several = len({pair.cell for pair in comparison.pairs}) > 1
        for pair in (pair for pair in comparison.pairs if pair.cell == Cell() or not several):
            runs = RunKey.of(comparison.part, pair.cell, pair.method)
            rows.setdefault((comparison.part, pair.method, pair.baseline), (runs, {}))[1][comparison.metric.words] = (
                pair
            )
    lines = []
    for (part, method, baseline), (runs, pairs) in rows.items():
        verdicts = (
            verdict(pairs[metric].verdict, claims.interval(pairs[metric].improvement)) if metric in pairs else Entry("")
            for metric in metrics
        )
        lines.append(Line([word(part), word(method), word(baseline), *verdicts], runs))
    lines.sort(key=lambda line: (parts.index(line.runs.part), order(line)))
    columns = [("part", "of the study"), ("method", ""), ("against", "baseline")]
    columns += [(metric, "verdict, and the probability of improvement with its interval") for metric in metrics]
    note = (
        "Better or worse only where two tests agree: the interval of the probability of improvement (in brackets) "
        "leaves out 1/2, and the exact rank test's p value, adjusted by Holm for all comparisons of its table, is "
        "below 0.05. “No difference shown” does not mean equal."
    )
    return Sheet("glance", "", "At a glance", columns, lines, note)


def matched(part: str, table: Table[MatchedRow]) -> Sheet:
    """Methods against the baseline at their own effective step size."""
    columns: list[Column] = [
        TASK,
        SETTING,
        METHOD,
        ("effective step", "|w' - w| / |w|, or the learning rate", lambda row: number(row.step)),
        ("baseline's", "effective step of the baseline in the comparison", lambda row: number(row.baseline_step)),
        ("matched runs", "of the baseline", lambda row: word(row.matched or "none near enough")),
        ("n", "matched runs", lambda row: count(row.n_matched)),
        ("their step", "", lambda row: number(row.matched_step)),
        ("IQM", "of the method", lambda row: estimate(row.iqm)),
        ("matched IQM", "of the baseline", lambda row: estimate(row.matched_iqm)),
        *TESTS,
    ]
    return sheet("matched", part, table, columns, lambda row: RunKey.of(part, row.cell, row.method))


def matched_grid(part: str, table: Table[MatchedGridRow]) -> Sheet:
    """Methods against the baseline along a grid, at the same effective step."""
    steps = "half decades of the effective step |w' - w| / |w| that both have"
    near = "share of the bins within 5 % of the reference range of the cell's best"
    columns: list[Column] = [
        ("task", "", lambda row: word(row.cell.task or "all")),
        ("setting", "", lambda row: word(row.cell.setting or "all")),
        METHOD,
        ("bins", steps, lambda row: count(row.bins)),
        ("from", "", lambda row: number(row.step_low)),
        ("to", "", lambda row: number(row.step_high)),
        ("near the best", near, lambda row: number(row.near)),
        ("baseline's", "the same of the baseline", lambda row: number(row.baseline_near)),
        ("score", "mean normalized score over the bins, cut to [0, 1]", lambda row: estimate(row.area)),
        ("baseline's score", "", lambda row: number(row.baseline_area)),
        ("difference", "of the scores, with its interval", lambda row: estimate(row.difference)),
    ]
    return sheet("matched", part, table, columns, lambda row: RunKey.of(part, row.cell, row.method))


def robustness(part: str, table: Table[RobustnessRow]) -> Sheet:
    """What optimizers reach at random settings, or at the points of a grid."""
    near = "share of settings within 5 % of the reference range of the cell's best"
    columns: list[Column] = [
        TASK,
        SETTING,
        ("optimizer", "", lambda row: word(row.optimizer)),
        ("settings", "of its options", lambda row: count(row.settings)),
        ("best", "best setting's score", lambda row: number(row.best)),
        ("near the best", near, lambda row: estimate(row.near)),
        ("area", "mean normalized score, cut to [0, 1]", lambda row: estimate(row.area)),
    ]
    return sheet("robustness", part, table, columns, lambda row: RunKey.of(part, row.cell, row.optimizer))
