"""The numbers of a report as tables for the page: what is shown, what is sorted by, and the runs each row stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evaluation.analysis.comparisons import claims
from evaluation.analysis.comparisons.compare import ALL, AggregateRow, CellRow, Comparison, PairRow
from evaluation.analysis.comparisons.matched import MatchedRow
from evaluation.analysis.comparisons.matched_grid import ALL as MATCHED_ALL
from evaluation.analysis.comparisons.matched_grid import MatchedGridRow
from evaluation.analysis.comparisons.robustness import RobustnessRow
from evaluation.analysis.table import Table

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
SIGNS = {"better": "▲", "worse": "▼", "no difference shown": "○"}  # read without colour, too


@dataclass(frozen=True)
class Cell:
    """One number or word of a table: the text, the text of its interval, the value to sort by, a verdict's name."""

    text: str
    interval: str = ""
    value: float | str | None = None
    verdict: str = ""

    @property
    def key(self) -> str:
        """`value` as JavaScript's Number reads it, where it is a number; else ""."""
        if not isinstance(self.value, int | float):
            return ""
        return f"{self.value:.6g}".replace("inf", "Infinity")


@dataclass(frozen=True)
class Line:
    """One row: its cells, and the labels of the runs it stands on (part, task, setting, optimizer, variant; what is
    left out stands for all)."""

    cells: Sequence[Cell]
    runs: Mapping[str, str]


@dataclass(frozen=True)
class Sheet:
    """One table of the page. `columns` are (label, explanation), `part` is the study's that it belongs to."""

    name: str
    part: str
    title: str
    columns: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    note: str = ""


class Order:
    """The order of rows: tasks, settings and optimizers as the study has them, all settings together first."""

    def __init__(self, tasks: Sequence[str], settings: Sequence[str], optimizers: Sequence[str]) -> None:
        names = {"task": tasks, "setting": settings, "optimizer": optimizers}
        self._places = {key: {name: place for place, name in enumerate(values)} for key, values in names.items()}

    def __call__(self, row: Line | Claim) -> tuple[int, ...]:
        """A key to sort by; rows that agree in it stay as they are."""
        return tuple(places.get(row.runs.get(key, ""), -1) for key, places in self._places.items())


@dataclass(frozen=True)
class Claim:
    """One sentence with its verdict."""

    verdict: str
    sentence: str
    runs: Mapping[str, str]

    @property
    def sign(self) -> str:
        """The verdict as a sign."""
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class Claims:
    """What one comparison says: `main` over tasks, in all settings or the only one, `others` for each setting."""

    part: str
    title: str
    main: Sequence[Claim]
    others: Sequence[Claim]
    notes: Sequence[str] = field(default_factory=list)


def word(text: str) -> Cell:
    """A word."""
    return Cell(text, value=text)


def count(value: int | None) -> Cell:
    """A whole number; nothing for None."""
    return Cell("", value=-1.0) if value is None else Cell(str(value), value=float(value))


def number(value: float) -> Cell:
    """A number as the sentences write it."""
    return Cell(_text(value), value=None if math.isnan(value) else value)


def estimate(value: float, low: float, high: float) -> Cell:
    """A number with its interval."""
    interval = "" if math.isnan(low) else f"[{_text(low)}, {_text(high)}]"
    return Cell(_text(value), interval, None if math.isnan(value) else value)


def _text(value: float) -> str:
    if math.isnan(value):
        return ""
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else claims.number(value)


def verdict(name: str) -> Cell:
    """A verdict with its sign."""
    return Cell(f"{SIGNS[name]} {name}", value=list(SIGNS).index(name), verdict=name)


class Numbers:
    """What one comparison says, for the page.

    Args:
        comparison: of `compare.compare`.
        kind: of its part; in a grid a setting names its point, in an ablation a method names a variant.
        optimizers: of the part.
        order: of rows.
    """

    def __init__(self, comparison: Comparison, kind: str, optimizers: Sequence[str], order: Order) -> None:
        self.comparison = comparison
        self.kind = kind
        self.optimizers = optimizers
        self.order = order
        self.name = f"{comparison.part}-{comparison.metric.name}"

    def claims(self) -> Claims:
        """Its sentences, losses included."""
        comparison = self.comparison
        groups = list(dict.fromkeys(pair.group for pair in comparison.pairs))
        first = ALL if ALL in groups else groups[0] if groups else ""
        made = [(pair.group, Claim(pair.verdict, pair.sentence, self.of_pair(pair))) for pair in comparison.pairs]
        return Claims(
            comparison.part,
            comparison.pairs.title,
            sorted((claim for group, claim in made if group == first), key=self.order),
            sorted((claim for group, claim in made if group != first), key=self.order),
            comparison.notes,
        )

    def sheets(self) -> list[Sheet]:
        """Its tables: over tasks, against the baseline, by task and setting."""
        comparison = self.comparison
        found = [self._aggregates(), self._pairs(comparison.pairs, "pairs")]
        found += [self._cells(), self._pairs(comparison.cell_pairs, "cell-pairs")]
        return [replace(sheet, lines=sorted(sheet.lines, key=self.order)) for sheet in found if sheet.lines]

    def overall(self) -> list[PairRow]:
        """Its pairs over all tasks and settings, or over its only group."""
        groups = {pair.group for pair in self.comparison.pairs}
        return [pair for pair in self.comparison.pairs if pair.group == ALL or len(groups) == 1]

    def _cells(self) -> Sheet:
        table, is_time = self.comparison.cells, self.comparison.metric.kind == "time"
        columns = [("task", ""), ("setting", ""), ("method", ""), ("n", f"values: {self._unit()}")]
        columns += [("reached", "runs that met the target")] if is_time else []
        columns += [("IQM", "interquartile mean")] if not is_time else []
        columns += [("median", "time by which half of the runs were there" if is_time else "median over runs")]
        columns += [("mean", "mean of min(time, end of the run)" if is_time else "mean over runs")]

        def line(row: CellRow) -> Line:
            cells = [word(row.task), word(row.setting), word(row.method), count(row.n)]
            cells += [count(row.reached)] if is_time else [estimate(row.iqm, row.iqm_low, row.iqm_high)]
            cells += [estimate(row.median, row.median_low, row.median_high)]
            cells += [estimate(row.mean, row.mean_low, row.mean_high)]
            return Line(cells, self.runs(row.task, row.setting, row.method))

        return Sheet(
            f"{self.name}-cells", self.comparison.part, table.title, columns, [line(row) for row in table], table.note
        )

    def _aggregates(self) -> Sheet:
        table = self.comparison.aggregates
        statistics = list(dict.fromkeys(row.statistic for row in table))
        columns = [("settings", ""), ("method", ""), ("cells", "tasks and settings"), ("n", f"{self._unit()} in each")]
        columns += [(STATISTICS[statistic], "") for statistic in statistics]
        rows: dict[tuple[str, str], list[AggregateRow]] = {}
        for row in table:
            rows.setdefault((row.group, row.method), []).append(row)
        lines = []
        for (group, method), some in rows.items():
            cells = [word(group), word(method), count(some[0].cells), count(some[0].n)]
            cells += [estimate(row.value, row.low, row.high) for row in some]
            lines.append(Line(cells, self.runs("", group, method)))
        return Sheet(f"{self.name}-aggregates", self.comparison.part, table.title, columns, lines, table.note)

    def _pairs(self, table: Table[PairRow], name: str) -> Sheet:
        baseline = self.comparison.baseline
        by_task = any(row.task for row in table)
        center = "mean time" if self.comparison.metric.kind == "time" else "IQM"
        columns = [("task", "")] if by_task else []
        columns += [("setting" if by_task else "settings", ""), ("method", ""), ("n", f"{self._unit()} in each cell")]
        columns += [(center, "of the method"), (f"{center} of {baseline}", "of the baseline")]
        columns += [("difference", "method less baseline; the intervals of the table hold together")]
        columns += [("P(better)", "probability of improvement"), ("p", "exact rank test, adjusted by Holm")]
        columns += [("verdict", "")]

        def line(row: PairRow) -> Line:
            cells = [word(row.task)] if row.task else []
            cells += [word(row.group), word(row.method), count(row.n)]
            cells += [estimate(row.center, row.center_low, row.center_high)]
            cells += [estimate(row.baseline_center, row.baseline_low, row.baseline_high)]
            cells += [estimate(row.difference, row.difference_low, row.difference_high)]
            cells += [estimate(row.improvement, row.improvement_low, row.improvement_high)]
            cells += [Cell(claims.p_value(row.p_holm), value=row.p_holm), verdict(row.verdict)]
            return Line(cells, self.of_pair(row))

        return Sheet(
            f"{self.name}-{name}", self.comparison.part, table.title, columns, [line(row) for row in table], table.note
        )

    def _unit(self) -> str:
        return "random settings" if self.kind == "robustness" else "runs"

    def of_pair(self, row: PairRow) -> dict[str, str]:
        """The labels of the method's runs of a row of pairs."""
        return self.runs(row.task or "", row.group, row.method)

    def runs(self, task: str, setting: str, method: str) -> dict[str, str]:
        """The labels of the runs of a method on a task ("": all) in a setting (or all of them)."""
        found = {"part": self.comparison.part, "task": task, "setting": "" if setting == ALL else setting}
        found["optimizer"], found["variant"] = method, ""
        if self.kind == "grid" and ", " in setting:
            found["setting"], _, found["variant"] = setting.partition(", ")
        if method not in self.optimizers:  # a variant, of the optimizer that is named with it or of the only one
            named, _, variant = method.rpartition(" ")
            found["optimizer"], found["variant"] = named or self.optimizers[0], variant
        return {key: value for key, value in found.items() if value}


def glance(found: Sequence[Numbers]) -> Sheet:
    """Verdict of each method in each comparison, over all its tasks and settings (or its only one)."""
    parts = list(dict.fromkeys(numbers.comparison.part for numbers in found))
    metrics: list[str] = []
    rows: dict[tuple[str, str, str], tuple[dict[str, PairRow], dict[str, str]]] = {}
    for numbers in found:
        words = numbers.comparison.metric.words
        metrics += [words] if words not in metrics else []
        for pair in numbers.overall():
            key = (numbers.comparison.part, pair.method, pair.baseline)
            rows.setdefault(key, ({}, numbers.of_pair(pair)))[0][words] = pair
    lines = []
    for (part, method, baseline), (pairs, runs) in rows.items():
        cells = [word(part), word(method), word(baseline)]
        for metric in metrics:
            if metric not in pairs:
                cells.append(Cell(""))
                continue
            pair = pairs[metric]
            share = claims.estimate(pair.improvement, pair.improvement_low, pair.improvement_high)
            cells.append(Cell(verdict(pair.verdict).text, share, list(SIGNS).index(pair.verdict), pair.verdict))
        lines.append(Line(cells, runs))
    if found:
        lines.sort(key=lambda line: (parts.index(line.cells[0].text), found[0].order(line)))
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
    columns = [("task", ""), ("setting", ""), ("method", "")]
    columns += [("effective step", "|w' - w| / |w|, or the learning rate")]
    columns += [("baseline's", "effective step of the baseline in the comparison")]
    columns += [("matched runs", "of the baseline"), ("n", "matched runs"), ("their step", "")]
    columns += [
        ("IQM", "of the method"),
        ("matched IQM", "of the baseline"),
        ("P(better)", "probability of improvement"),
    ]
    columns += [("p", "exact rank test, adjusted by Holm"), ("verdict", "")]
    lines = []
    for row in table:
        cells = [word(row.task), word(row.setting), word(row.method), number(row.step), number(row.baseline_step)]
        cells += [word(row.matched or "none near enough"), count(row.n_matched), number(row.matched_step)]
        cells += [estimate(row.iqm, row.iqm_low, row.iqm_high)]
        cells += [estimate(row.matched_iqm, row.matched_low, row.matched_high)]
        cells += [estimate(row.improvement, row.improvement_low, row.improvement_high)]
        known = not math.isnan(row.p_holm)
        cells += [Cell(claims.p_value(row.p_holm), value=row.p_holm) if known else Cell(""), verdict(row.verdict)]
        lines.append(Line(cells, {"part": part, "task": row.task, "setting": row.setting, "optimizer": row.method}))
    return Sheet(f"{part}-matched", part, table.title, columns, lines, table.note)


def matched_grid(table: Table[MatchedGridRow]) -> Sheet:
    """Methods against the baseline along a grid, at the same effective step."""
    part = table.records[0].part if len(table) else ""
    columns = [("task", ""), ("setting", ""), ("method", "")]
    columns += [("bins", "half decades of the effective step |w' - w| / |w| that both have"), ("from", ""), ("to", "")]
    columns += [("near the best", "share of the bins within 5 % of the reference range of the cell's best")]
    columns += [("baseline's", "the same of the baseline")]
    columns += [("score", "mean normalized score over the bins, cut to [0, 1]"), ("baseline's score", "")]
    columns += [("difference", "of the scores, with its interval")]
    lines = []
    for row in table:
        cells = [word(row.task), word(row.setting), word(row.method), count(row.bins)]
        cells += [number(value) for value in (row.step_low, row.step_high, row.near, row.baseline_near)]
        cells += [estimate(row.area, row.area_low, row.area_high), number(row.baseline_area)]
        cells += [estimate(row.difference, row.difference_low, row.difference_high)]
        labels = {"part": part, "task": row.task, "setting": row.setting, "optimizer": row.method}
        if row.task == MATCHED_ALL:
            del labels["task"], labels["setting"]
        lines.append(Line(cells, labels))
    return Sheet(f"{part}-matched", part, table.title, columns, lines, table.note)


def robustness(table: Table[RobustnessRow]) -> Sheet:
    """What optimizers reach at random settings, or at the points of a grid."""
    part = table.records[0].part if len(table) else ""
    columns = [
        ("task", ""),
        ("setting", ""),
        ("optimizer", ""),
        ("settings", "of its options"),
        ("best", "best setting's score"),
    ]
    columns += [("near the best", "share of settings within 5 % of the reference range of the cell's best")]
    columns += [("area", "mean normalized score, cut to [0, 1]")]
    lines = []
    for row in table:
        cells = [word(row.task), word(row.setting), word(row.optimizer), count(row.settings), number(row.best)]
        cells += [estimate(row.near, row.near_low, row.near_high), estimate(row.area, row.area_low, row.area_high)]
        labels = {"part": row.part, "task": row.task, "setting": row.setting, "optimizer": row.optimizer}
        lines.append(Line(cells, labels))
    return Sheet(f"{part}-robustness", part, table.title, columns, lines, table.note)
