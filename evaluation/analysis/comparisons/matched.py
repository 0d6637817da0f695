"""The baseline at the method's step size: clipping shrinks steps, and smaller steps alone may explain a difference.

The *effective step* of a run is the size of an update relative to the weights: measured, not set. It is taken early in
training (`Dataset.early_steps`), before what becomes of a run can tell on it: weights that blew up take small steps, so
over the whole of training a ruined baseline looks like a match for a cautious method. Runs of an archive of an earlier
version have none; for these it is the median over all of training, without a record of gradients the learning rate, and
the row says which.

`matched_steps` looks through all parts of the study (searches, grids, random settings) for the baseline's settings
within a factor `FACTOR` of the method's step; `matched_grid` does so for every point of a grid, since a wider range of
rates may be nothing but a shifted one. Of several settings the best is the match, so that "better" is said against the
best baseline of that step size. Collapsed ones are none: to beat a random policy shows nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np

from evaluation.analysis.comparisons.claims import interval, number, p_value, where
from evaluation.analysis.comparisons.compare import choose_baseline
from evaluation.analysis.comparisons.robustness import NEAR
from evaluation.analysis.comparisons.selection import Row, Selection, run_rows, select
from evaluation.analysis.comparisons.verdicts import (
    EXPLORATORY,
    PRIMARY,
    Contrast,
    Verdict,
    contrast,
    judge,
    judge_families,
)
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import normalize
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import (
    Array,
    Statistic,
    batched,
    interquartile_mean,
    mean,
    probability_of_improvement,
)
from evaluation.analysis.stats.bootstrap import DEFAULT, UNKNOWN, Bootstrap, Estimate
from evaluation.cli.errors import UserError

FACTOR = 1.25  # two effective steps that differ by less are taken as matched; at 1.5 a steep curve alone makes claims
MIN_RUNS = 3  # at one setting: fewer, as a search's trials have, give no interval and so no claim
COLLAPSED = 0.05  # of the reference range: a setting that is better than a random policy by no more has collapsed
EARLY, WHOLE, RATE = "early update to weight", "update to weight", "learning rate"

Measure = tuple[str, Mapping[str, float]]  # its name, and run -> step


class Setting(NamedTuple):
    """Runs of an optimizer at one setting of its options: their effective step and their scores (R,)."""

    name: str
    step: float
    scores: Array


class Match(NamedTuple):
    """A method's setting and those of the baseline that it can be compared with, the best first; where there is none,
    whether the baseline `collapsed` at all that are near."""

    own: Setting
    choices: list[Setting]
    collapsed: bool

    @property
    def best(self) -> Setting:
        """The match."""
        return self.choices[0]


def match(own: Sequence[Setting], baseline: Iterable[Setting], floor: float) -> list[Match]:
    """The match of each of a method's settings among those of the baseline within the factor, whose scores are above
    `floor` on average. A setting of the baseline is a choice for the nearest of the method's only: none counts
    twice."""
    choices: dict[int, list[Setting]] = defaultdict(list)
    known = [(place, one) for place, one in enumerate(own) if math.isfinite(one.step)]
    for other in baseline:
        distances = [(abs(math.log(other.step / one.step)), place) for place, one in known]  # NaN is not near
        distance, place = min(distances, default=(math.inf, 0))
        if other.scores.size >= MIN_RUNS and distance <= math.log(FACTOR):
            choices[place].append(other)
    found = []
    for place, one in enumerate(own):
        alive = [other for other in choices[place] if other.scores.mean() > floor]
        alive.sort(key=lambda other: -float(other.scores.mean()))
        found.append(Match(one, alive, bool(choices[place]) and not alive))
    return found


def _contrast(matches: Sequence[Match], how: Bootstrap, center: Statistic) -> Contrast:
    """The settings of a method beside their matches. To be better than the best of several settings needs no
    correction; to be worse than it may be their luck, so that p value is of a test that chooses again."""
    x, y = (_matrix(side) for side in zip(*((one.own, one.best) for one in matches), strict=True))
    one = contrast(x, y, how, center)
    if one.improvement.value >= 0.5 or all(len(match.choices) == 1 for match in matches):
        return one
    return replace(one, p=max(one.p, _worse_than_the_best(matches, one.improvement.value, how)))


def _worse_than_the_best(matches: Sequence[Match], observed: float, how: Bootstrap) -> float:
    """Two-sided p value of a permutation test: of all ways to deal the runs of each match out to the method's setting
    and the choices, of which the best is taken each time, twice the share in which the probability of improvement is
    as low as `observed`."""
    rng = np.random.default_rng(how.seed)
    total = np.zeros(how.repetitions)
    for one in matches:
        sizes = [side.scores.size for side in (one.own, *one.choices)]
        dealt = rng.permuted(
            np.tile(np.concatenate([one.own.scores, *(side.scores for side in one.choices)]), (how.repetitions, 1)),
            axis=1,
        )
        own, *others = np.split(dealt, np.cumsum(sizes)[:-1], axis=1)
        best = np.argmax([other.mean(axis=1) for other in others], axis=0)
        for place, other in enumerate(others):
            total += np.where(best == place, batched(probability_of_improvement)(own[..., None], other[..., None]), 0.0)
    as_low = total / len(matches) <= observed + 1e-9
    return min(1.0, 2 * (1 + int(as_low.sum())) / (1 + how.repetitions))


def _matrix(settings: Sequence[Setting]) -> Array:
    """Scores (R, T) of T settings, R the smallest number of runs of any (the lowest seeds)."""
    runs = min(one.scores.size for one in settings)
    return np.stack([one.scores[:runs] for one in settings], axis=1)


def _measures(dataset: Dataset) -> list[Measure]:
    """What tells a run's effective step, the best first."""
    return [(EARLY, dataset.early_steps()), (WHOLE, dataset.effective_steps())]


def median_step(steps: Mapping[str, float], runs: Sequence[str]) -> float:
    """The median effective step of runs; NaN where it is not known."""
    known = [steps[run] for run in runs if steps.get(run)]
    return float(np.median(known)) if known else math.nan


# In a comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatchedRow:
    """A method against the baseline's runs of nearly the same effective step, on one task in one setting.

    `baseline_step` is the effective step of the baseline in the comparison itself, `matched_step` that of the runs
    shown here (`matched` names their part and variant). Where the study has fewer than `MIN_RUNS` of one setting
    within a factor `FACTOR`, or all of these collapsed, `n_matched` is 0 and all numbers after it are NaN.
    """

    cell: Cell
    method: Method
    baseline: Method
    measure: str
    step: float
    baseline_step: float
    n: int
    iqm: Estimate
    matched: str = ""
    n_matched: int = 0
    matched_step: float = math.nan
    matched_iqm: Annotated[Estimate, Columns("matched")] = UNKNOWN
    difference: Estimate = UNKNOWN
    improvement: Estimate = UNKNOWN
    p: float = math.nan
    p_holm: float = math.nan
    verdict: Verdict = Verdict.NOT_SHOWN
    sentence: str = ""


def matched_steps(
    dataset: Dataset,
    part: str | None = None,
    *,
    baseline: str | None = None,
    metric: str = "final",
    how: Bootstrap = DEFAULT,
) -> Table[MatchedRow]:
    """Every method of a part of kind compare against the best baseline at its own effective step, cell by cell.

    Runs of the baseline of another budget or protocol than the cell's are no candidates. p values are adjusted by Holm
    over the table. Raises `UserError` as `compare.compare`, and for a metric that is no score.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "compare" or selection.metric.kind != "score":
        raise UserError("step sizes are matched for scores in a part of kind compare")
    chosen = choose_baseline(selection, baseline)
    every = {row["run"]: row for row in run_rows(dataset, metric)}
    measures = [*_measures(dataset), (RATE, {run: row["lr"] for run, row in every.items()})]
    rows: list[MatchedRow] = []
    contrasts: dict[int, Contrast] = {}  # by the place of their row
    for cell, methods in selection.runs.items():
        to = selection.references[cell.task]
        floor = to.low + COLLAPSED * (to.high - to.low)
        for method in (method for method in methods if chosen in methods and method != chosen):
            pair = methods[method], methods[chosen]
            measure, steps = next(
                one for one in measures if one[0] == RATE or not any(math.isnan(median_step(one[1], of)) for of in pair)
            )
            step, baseline_step = (median_step(steps, runs) for runs in pair)
            own = Setting("", step, selection.cells[cell][method])
            others = _settings_like(every[methods[chosen][0]], every.values(), metric, steps)
            (found,) = match([own], others, floor)
            iqm = how.estimate(interquartile_mean, own.scores)
            row = MatchedRow(cell, method, chosen, measure, step, baseline_step, own.scores.size, iqm)
            if found.choices:
                contrasts[len(rows)], best = _contrast([found], how, interquartile_mean), found.best
                row = replace(row, matched=best.name, n_matched=best.scores.size, matched_step=best.step)
            rows.append(replace(row, sentence=_missing(row, found.collapsed)))
    for (place, one), judged in zip(contrasts.items(), judge(list(contrasts.values()), how), strict=True):
        row = replace(rows[place], matched_iqm=one.baseline, **vars(judged))
        rows[place] = replace(row, sentence=_sentence(row))
    note = (
        f"the best setting of {chosen} within a factor {FACTOR:g} of the step; {how.level:.0%} intervals by the "
        f"bootstrap over runs, {how}"
    )
    return Table(f"{selection.metric.words} against {chosen} at the same effective step", rows, note)


def _settings_like(like: Row, rows: Iterable[Row], metric: str, steps: Mapping[str, float]) -> list[Setting]:
    """The runs that are comparable with `like`, by the setting of their options."""
    same = ("task", "setting", "optimizer", "protocol", "total_steps")
    settings: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if all(row[key] == like[key] for key in same):
            settings[row["part"], row["variant"]].append(row)
    found = []
    for names, some in settings.items():
        step = median_step(steps, [row["run"] for row in some])
        found.append(Setting(" ".join(names), step, np.array([row[metric] for row in some], dtype=np.float64)))
    return found


def _at(row: MatchedRow) -> str:
    return f"{row.measure} {number(row.step)}, {row.baseline}'s in the comparison {number(row.baseline_step)}"


def _missing(row: MatchedRow, collapsed: bool) -> str:
    why = f"no {MIN_RUNS} runs of {row.baseline} at one setting within a factor {FACTOR:g}"
    if collapsed:
        why = f"{row.baseline} collapsed at every setting within a factor {FACTOR:g}"
    return f"{where(row.cell)}: {row.method} ({_at(row)}) has no match: {why}."


def _sentence(row: MatchedRow) -> str:
    return (
        f"{where(row.cell)}: at matched step size ({_at(row)}, matched {number(row.matched_step)}: {row.matched}, "
        f"{row.n_matched} runs) {row.method} reaches an IQM of {interval(row.iqm)} against {interval(row.matched_iqm)} "
        f"of {row.baseline}; probability of improvement {interval(row.improvement)}, Holm-adjusted p "
        f"{p_value(row.p_holm)}: {row.verdict}."
    )


# Along a grid --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatchedGridRow:
    """A method against the baseline over the `points` of a grid that have a match.

    `area` is the mean over these points and their runs of the normalized score, cut to [0, 1]; `near` the share of them
    within `NEAR` of the cell's best point of any method; `step_low` and `step_high` are the ends of the method's steps;
    `collapsed` points have none because the baseline collapsed at every setting near their step. The row over all cells
    is over the points of all of them. Without a match all numbers are NaN.
    """

    part: str
    cell: Annotated[Cell, Columns("task", "setting", every="all")]
    method: Method
    baseline: Method
    measure: str
    points: int
    collapsed: int
    family: str = PRIMARY
    step_low: float = math.nan
    step_high: float = math.nan
    near: float = math.nan
    baseline_near: float = math.nan
    area: Estimate = UNKNOWN
    baseline_area: Estimate = UNKNOWN
    difference: Estimate = UNKNOWN
    improvement: Estimate = UNKNOWN
    p: float = math.nan
    p_holm: float = math.nan
    verdict: Verdict = Verdict.NOT_SHOWN
    sentence: str = ""


Grid = Mapping[Cell, Mapping[Method, Sequence[Setting]]]  # scores normalized and cut to [0, 1]


def matched_grid(
    dataset: Dataset, part: str, *, baseline: str | None = None, metric: str = "final", how: Bootstrap = DEFAULT
) -> Table[MatchedGridRow]:
    """Every method of a grid against the baseline at the same effective step, by task and setting and over all.

    p values are adjusted by Holm over the rows over all cells, the primary family, and over those of single cells,
    which are gated by them. Raises `UserError` for a part that is no grid, a metric that is no score, runs
    without a record of their gradients, and as `selection.select`.
    """
    selection = select(dataset, part, metric)
    if selection.kind != "grid" or selection.metric.kind != "score":
        raise UserError("step sizes are compared along a grid for scores in a part of kind grid")
    chosen = choose_baseline(selection, baseline)
    early, whole = (_grid(selection, steps) for _, steps in _measures(dataset))
    if not _known(whole):
        raise UserError(f"no run of part {part} has a record of its gradients, which tells its effective step")
    measure, grid = (EARLY, early) if _known(early) >= _known(whole) else (WHOLE, whole)
    rows = grid_rows(MatchedGridRow(part, Cell(), chosen, chosen, measure, 0, 0), grid, how)
    note = (
        f"by the {measure}, each point beside the best point of {chosen} within a factor {FACTOR:g}; "
        f"{how.level:.0%} intervals by the bootstrap over the runs of each point, {how}"
    )
    return Table(f"{selection.metric.words} along the grid at the same effective step as {chosen}", rows, note)


def _grid(selection: Selection, steps: Mapping[str, float]) -> Grid:
    """The points of each method by task and setting."""
    grid: dict[Cell, dict[Method, list[Setting]]] = defaultdict(lambda: defaultdict(list))
    for cell, methods in selection.cells.items():
        for method, values in methods.items():
            scores = np.clip(normalize(values, selection.references[cell.task]), 0.0, 1.0)
            step = median_step(steps, selection.runs[cell][method])
            grid[replace(cell, point="")][method].append(Setting(cell.point, step, scores))
    return grid


def _known(grid: Grid) -> int:
    """At how many points the step is known."""
    return sum(not math.isnan(one.step) for methods in grid.values() for points in methods.values() for one in points)


def grid_rows(like: MatchedGridRow, grid: Grid, how: Bootstrap) -> list[MatchedGridRow]:
    """Rows as `like`, which names part, baseline and measure, of every method but the baseline: by cell, then over all
    cells if there are several."""
    rows: list[MatchedGridRow] = []
    contrasts: dict[int, Contrast] = {}  # by the place of their row
    first = Cell() if len(grid) > 1 else next(iter(grid))
    best = {cell: max(one.scores.mean() for some in methods.values() for one in some) for cell, methods in grid.items()}
    for method in dict.fromkeys(method for methods in grid.values() for method in methods if method != like.baseline):
        found: dict[Cell, list[tuple[Match, float]]] = {
            cell: [(one, best[cell]) for one in match(methods[method], methods[like.baseline], COLLAPSED)]
            for cell, methods in grid.items()
            if method in methods and like.baseline in methods
        }
        if len(found) > 1:
            found[Cell()] = [one for some in found.values() for one in some]
        for cell, some in found.items():
            family = PRIMARY if cell == first else EXPLORATORY
            row = _grid_row(replace(like, cell=cell, method=method, family=family), some)
            if row.points:
                contrasts[len(rows)] = _contrast([one for one, _ in some if one.choices], how, mean)
            rows.append(row)
    methods = [rows[place].method for place in contrasts]
    primary = [rows[place].method if rows[place].family == PRIMARY else None for place in contrasts]
    verdicts = judge_families(list(contrasts.values()), primary, methods, how)
    for (place, one), judged in zip(contrasts.items(), verdicts, strict=True):
        area, baseline_area = (estimate.within(0.0, 1.0) for estimate in (one.method, one.baseline))
        rows[place] = replace(rows[place], area=area, baseline_area=baseline_area, **vars(judged))
    return [replace(row, sentence=_grid_sentence(row)) for row in rows]


def _grid_row(row: MatchedGridRow, found: Sequence[tuple[Match, float]]) -> MatchedGridRow:
    """The row with what needs no interval. `found` are the points, each with the best score of its cell."""
    matched = [(one.own, one.best, best - NEAR) for one, best in found if one.choices]
    row = replace(row, points=len(matched), collapsed=sum(one.collapsed for one, _ in found))
    if not matched:
        return row
    steps = [own.step for own, *_ in matched]
    near = float(np.mean([own.scores.mean() >= bound for own, _, bound in matched]))
    baseline_near = float(np.mean([best.scores.mean() >= bound for _, best, bound in matched]))
    return replace(row, step_low=min(steps), step_high=max(steps), near=near, baseline_near=baseline_near)


def _grid_sentence(row: MatchedGridRow) -> str:
    at, lost = where(row.cell), f"; at {row.collapsed} more {row.baseline} collapsed" if row.collapsed else ""
    if not row.points:
        return f"{at}: {row.method} and {row.baseline} have no effective step in common{lost}."
    points = f"{row.points} point{'s' * (row.points > 1)}, {row.measure} {number(row.step_low)} to"
    return (
        f"{at}: at the same effective step ({points} {number(row.step_high)}{lost}) {row.method} has a mean normalized "
        f"score of {interval(row.area)} against {interval(row.baseline_area)} of {row.baseline}; probability of "
        f"improvement {interval(row.improvement)}, Holm-adjusted p {p_value(row.p_holm)}: {row.verdict}"
        f"{' (exploratory)' * (row.family == EXPLORATORY)}."
    )
