"""The numbers of a report as tables for the page: what is shown, what is sorted by, and the runs each row stands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
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


Column = tuple[str, str, str | Callable[[Any], Any]]  # label, explanation, a record's field or what is made of it
# Fields that other columns, the title or the runs behind a row tell already.
SILENT = {
    "part",
    "cell",
    "cells",
    "baseline",
    "n_baseline",
    "measure",
    "matched",
    "cell_best",
    "p",
    "p_holm",
    "sentence",
}


def sheet(
    name: str,
    part: str,
    table: Table[Any],
    columns: Sequence[Column] = (),
    method: str = "method",
    silent: Collection[str] = (),
) -> Sheet:
    """A table of records, one line each, which stands on the runs of its cell and of the `method` that it names.

    After `columns` come the fields of the records that these leave out, under their own names, so that what an analysis
    adds is seen; without `silent` ones and those that are empty in every record.
    """
    told = {field for *_, field in columns if isinstance(field, str)} | SILENT | {method, *silent}
    every = [*(columns or (TASK, SETTING, ("method", "", method))), *_others(table, told)]
    lines = [
        Line(
            [entry(_value(record, field)) for *_, field in every], RunKey.of(part, record.cell, getattr(record, method))
        )
        for record in table
    ]
    shown = [(label, explanation) for label, explanation, _ in every]
    return Sheet(f"{part}-{name}", part, table.title, shown, lines, table.note)


def _others(records: Iterable[Any], told: Collection[str]) -> list[Column]:
    records = list(records)
    names = [field.name for field in fields(records[0]) if field.name not in told] if records else []
    used = [name for name in names if any(entry(getattr(record, name)).text for record in records)]
    return [(name.replace("_", " "), "", name) for name in used]


def _value(record: Any, field: str | Callable[[Any], Any]) -> Any:
    return getattr(record, field) if isinstance(field, str) else field(record)


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
        if math.isnan(value.value):
            return Entry("")
        return replace(entry(value.value), interval=f"[{claims.ends(value)}]")
    if isinstance(value, float):
        return Entry("") if math.isnan(value) else Entry(claims.number(value), value=value)
    if isinstance(value, int):
        return Entry(str(value), value=value)
    return Entry("", value=-1.0) if value is None else Entry(str(value))


def p_value(p: float) -> Entry:
    """A p value; nothing where there is no test."""
    return Entry("") if math.isnan(p) else Entry(claims.p_value(p), value=p)


TASK: Column = ("task", "", lambda row: row.cell.task)
SETTING: Column = ("setting", "", lambda row: row.cell.group)
METHOD: Column = ("method", "", "method")
VERDICT: Column = ("verdict", "", "verdict")  # before the numbers, where no screen is too narrow for it
DIVERGED: Column = ("diverged", "runs that did so and count as the worst", "diverged")
TESTS: tuple[Column, ...] = (
    ("P(better)", "probability of improvement: how often a run is better than one of the baseline", "improvement"),
    ("p", "exact rank test, adjusted by Holm", lambda row: p_value(row.p_holm)),
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
    columns: list[Column] = [TASK, SETTING, METHOD, ("n", f"values: {unit}", "n"), DIVERGED]
    if is_time:
        columns += [("reached", "runs that met the target", "reached")]
    else:
        columns += [("IQM", "interquartile mean", "iqm")]
    half, center = "time by which half of the runs were there", "mean of min(time, end of the run)"
    columns += [("median", half if is_time else "median over runs", "median")]
    columns += [("mean", center if is_time else "mean over runs", "mean")]
    columns += [("final score", "its IQM", "score")] if comparison.metric.kind == "spread" else []
    name, silent = f"{comparison.metric.name}-cells", ("iqm",) if is_time else ()
    return sheet(name, comparison.part, comparison.cells, columns, silent=silent)


def _aggregates(comparison: Comparison, unit: str) -> Sheet:
    """One line a method and group, one column a statistic."""
    rows: dict[tuple[Cell, Method], dict[str, AggregateRow]] = {}
    for row in comparison.aggregates:
        rows.setdefault((row.group, row.method), {})[row.statistic] = row
    columns = [("settings", ""), ("method", ""), ("cells", "tasks and settings"), ("n", f"{unit} in each")]
    columns += [DIVERGED[:2]]
    columns += [(STATISTICS[name], "") for name in dict.fromkeys(row.statistic for row in comparison.aggregates)]
    others = _others(comparison.aggregates, {*SILENT, "group", "method", "n", "diverged", "statistic", "value"})
    columns += [(label, explanation) for label, explanation, _ in others]
    lines = []
    for (group, method), some in rows.items():
        one = next(iter(some.values()))
        cells = (group.group, method, one.cells, one.n, one.diverged, *(row.value for row in some.values()))
        cells += tuple(_value(one, field) for *_, field in others)
        lines.append(Line([entry(cell) for cell in cells], RunKey.of(comparison.part, group, method)))
    name, table = f"{comparison.part}-{comparison.metric.name}-aggregates", comparison.aggregates
    return Sheet(name, comparison.part, table.title, columns, lines, table.note)


def _pairs(comparison: Comparison, name: str, unit: str) -> Sheet:
    table = comparison.pairs if name == "pairs" else comparison.cell_pairs
    by_task = any(row.cell.task for row in table)
    center = "mean time" if comparison.metric.kind == "time" else "IQM"
    columns: list[Column] = [TASK, SETTING] if by_task else [("settings", "", SETTING[-1])]
    columns += [METHOD, VERDICT, ("n", f"{unit} in each cell", "n"), DIVERGED]
    columns += [(center, "of the method", "center")]
    columns += [(f"{center} of {comparison.baseline}", "of the baseline", "baseline_center")]
    if comparison.metric.kind == "spread":
        columns += [("final score", "IQM of the method", "score")]
        columns += [(f"final score of {comparison.baseline}", "its IQM", "baseline_score")]
    together = "method less baseline; the intervals of a family hold together"
    columns += [("difference", together, "difference"), *TESTS]
    columns += [("family", "primary: over all tasks and settings; exploratory: single ones, corrected apart", "family")]
    return sheet(f"{comparison.metric.name}-{name}", comparison.part, table, columns)


@dataclass(frozen=True)
class Finding:
    """What a part shows: the comparisons of its methods with the baseline, one for each metric that has them.

    `verdicts` are those on the score over all tasks and settings (or the only ones): which methods each is given to.
    """

    part: str
    baseline: Method
    verdicts: list[tuple[Verdict, list[str]]]
    glance: Sheet
    claims: list[tuple[Comparison, Claims, Claims]]

    @property
    def metric(self) -> str:
        """What `verdicts` are about."""
        return self.claims[0][0].metric.words


def finding(found: Sequence[Comparison], place: Place) -> Finding:
    """Of the comparisons of one part; the first of them decides the order and the verdicts at the top."""
    part, baseline = found[0].part, found[0].baseline
    claims_found = [(one, *claims_of(one, place)) for one in found]
    rows: dict[Method, tuple[RunKey, dict[str, Entry]]] = {}
    for comparison, main, _ in claims_found:
        for runs, pair in main:
            shown = f"P(better) {claims.interval(pair.improvement)}"
            rows.setdefault(pair.method, (runs, {}))[1][comparison.metric.words] = replace(
                entry(pair.verdict), interval=shown
            )
    metrics = [comparison.metric.words for comparison in found]
    columns = [("method", f"against {baseline}"), *((metric, "") for metric in metrics)]
    lines = [
        Line([entry(one), *(of.get(name, Entry("")) for name in metrics)], runs) for one, (runs, of) in rows.items()
    ]
    verdicts = [(one, [str(pair.method) for _, pair in claims_found[0][1] if pair.verdict is one]) for one in Verdict]
    note = (
        f"P(better), the probability of improvement: how often a run of the method is better than one of {baseline}, "
        "0.5 being as often as not, with its interval"
    )
    glance = Sheet(f"{part}-glance", part, "Verdicts", columns, lines, note)
    return Finding(part, baseline, [(one, names) for one, names in verdicts if names], glance, claims_found)


RULE = (
    "better or worse only where two tests agree: the interval of the probability of improvement leaves out 1/2, "
    "and the exact rank test's p value, adjusted by Holm for all methods over all tasks and settings, is below 0.05. "
    "To be steadier at a lower score counts as no win. “No difference shown” does not mean equal"
)

# Methods against the baseline at their own effective step size.
MATCHED: tuple[Column, ...] = (
    *(TASK, SETTING, METHOD, VERDICT),
    ("effective step", "|w' - w| / |w|, or the learning rate", "step"),
    ("baseline's", "effective step of the baseline in the comparison", "baseline_step"),
    ("matched runs", "of the baseline", lambda row: row.matched or "none near enough"),
    ("n", "matched runs", "n_matched"),
    ("their step", "", "matched_step"),
    ("IQM", "of the method", "iqm"),
    ("matched IQM", "of the baseline", "matched_iqm"),
    *TESTS,
)

# Methods against the baseline along a grid, at the same effective step.
MATCHED_GRID: tuple[Column, ...] = (
    ("task", "", lambda row: row.cell.task or "all"),
    ("setting", "", lambda row: row.cell.setting or "all"),
    METHOD,
    VERDICT,
    ("points", "of the grid that have a match", "points"),
    ("collapsed", "points where every match of the baseline collapsed", "collapsed"),
    ("from", "smallest effective step |w' - w| / |w|", "step_low"),
    ("to", "largest", "step_high"),
    ("near the best", "share of the points within 5 % of the reference range of the cell's best", "near"),
    ("baseline's", "the same of the baseline", "baseline_near"),
    ("score", "mean normalized score over the points, cut to [0, 1]", "area"),
    ("baseline's score", "", "baseline_area"),
    ("difference", "of the scores, with its interval", "difference"),
    *TESTS,
)

CLIPPING: tuple[Column, ...] = (
    *(TASK, SETTING, METHOD),
    ("n", "runs with gradient records", "n"),
    ("with a threshold", "share of the layers, over the run", "threshold"),
    ("clipped", "share of the elements, in norm mode of the layers", "clipped"),
    ("least", "of any run", "clipped_least"),
    ("most", "of any run", "clipped_most"),
    ("attenuation", "clipped gradient over gradient", "attenuation"),
    ("noise / gradient", "root mean squares", "noise_to_gradient"),
    ("update / weight", "root mean squares", "update_to_weight"),
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
USABLE_RANGE: tuple[Column, ...] = (
    *(TASK, SETTING),
    ("optimizer", "", "optimizer"),
    ("best", "best trial's score, mean over the seeds", "best"),
    ("at", "its learning rate", "best_rate"),
    ("near", "how far below the best of any method still counts", "near"),
    ("usable", "share of the rates near it, with the other options that are best for each", "retuned"),
    ("factor", "largest by smallest of those that hang together with the best rate; 0: not that", "retuned_factor"),
    ("usable as tuned", "the same with the other options of the best trial", "held"),
    ("factor as tuned", "the same with the other options of the best trial", "held_factor"),
)
SINGLE_SETTING: tuple[Column, ...] = (
    SETTING,
    ("optimizer", "", "optimizer"),
    ("settings", "of its options", "points"),
    ("tuned on each", "mean loss against the best of any method, tuned on each task; in reference ranges", "own"),
    ("one setting", "the same with the one setting that is best over all tasks", "single"),
    ("chosen elsewhere", "the same with, on each task, the setting that is best over the others", "elsewhere"),
    ("that setting", "the one for all", "options"),
    ("loses most on", "", "worst_task"),
    ("loss there", "", "worst"),
    ("best values apart", "the largest by the smallest of the tasks' own best values", "apart"),
)
ACTING: tuple[Column, ...] = (
    *(TASK, SETTING),
    ("optimizer", "", "optimizer"),
    ("best", "best setting's score, mean over the seeds", "best"),
    ("near the best", "settings within 5 % of the reference range of it, of which the next four tell", "near"),
    ("clipped", "share, of the layer that is clipped most", "clipped"),
    ("attenuation", "clipped gradient over gradient, of the layer where it is least", "attenuation"),
    ("noise / gradient", "root mean squares, of the layer where it is most", "noise_to_gradient"),
    ("step", "effective step by the plain baseline's at the same rate, the one farthest from 1", "step"),
    ("ahead", "learning rates at which it is ahead of the baseline", "ahead"),
    ("behind", "learning rates at which it is behind", "behind"),
    ("of", "learning rates tried", "rates"),
    ("largest gain", "over the baseline at one rate, in reference ranges", "gain"),
    ("its error", "standard error by the seeds", "gain_error"),
    ("at", "learning rate of it", "gain_rate"),
)
ROBUSTNESS: tuple[Column, ...] = (
    *(TASK, SETTING),
    ("optimizer", "", "optimizer"),
    ("settings", "of its options", "settings"),
    ("best", "best setting's score", "best"),
    ("near the best", "share of settings within 5 % of the reference range of the cell's best", "near"),
    ("area", "mean normalized score, cut to [0, 1]", "area"),
)
