"""Does a mechanism act at all where its method is good, and is it ahead at equal learning rate? Of whole grids.

    acting(data, "grid")                                          # beside adam
    acting(data, "grid", baseline="sgd+clip", plain={"optimizer.max_norm": 10})

What never acts is the base rule under another name; what acts and is never ahead of the baseline at the same rate is
not worth its options. A method is ahead at a rate with the best of its other options, of as many as the baseline has.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.robustness import LEARNING_RATE, NEAR
from evaluation.analysis.comparisons.selection import Row, refuse_no_score, task_reference, trial_rows
from evaluation.analysis.comparisons.usable_range import varied_options
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.aggregate import Array
from evaluation.cli.errors import UserError

MEASURES = ("clipped", "attenuation", "noise_to_gradient")
_Layers = Mapping[str, Mapping[str, Array]]  # run -> layer -> the means (3,) of `MEASURES` over its regular records


@dataclass(frozen=True)
class Acting:
    """What a method's mechanism did at the settings within `NEAR` of the reference range of its best one, and how it
    compares with the baseline at equal learning rate.

    `near` counts these settings. Over them and over layers: `clipped` is the largest share clipped, `attenuation` the
    smallest factor, `noise_to_gradient` the largest, of means over records and seeds; `step` is the median effective
    step by the baseline's at the same rate and its plain options, the one farthest from 1. NaN: not recorded.
    `ahead` and `behind` count the `rates` at which the best of the other options is above or below that of the baseline
    by more than the standard error of the difference by the seeds; `gain` is the difference at `gain_rate`, where it is
    largest, with its `gain_error`, in shares of the reference range.
    """

    part: str
    cell: Cell
    optimizer: Method
    best: float
    near: int
    clipped: float
    attenuation: float
    noise_to_gradient: float
    step: float
    rates: int
    ahead: int
    behind: int
    gain: float
    gain_error: float
    gain_rate: float


@dataclass(frozen=True)
class _Point:
    """A setting of a grid: its options beside the rate, its runs and their scores (S,)."""

    rate: float
    options: Mapping[str, Any]
    runs: Sequence[str]
    scores: Array

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


def acting(
    dataset: Dataset,
    part: str,
    *,
    baseline: str = "adam",
    plain: Mapping[str, Any] | None = None,
    metric: str = "final",
) -> Table[Acting]:
    """Every method of a part's grids, on every task and in every setting, beside the baseline.

    Args:
        part: of kind search, with `sampler: grid`.
        plain: options of the baseline with which it does nothing but its rule, by their full names; steps are compared
            with those. None: they are not.
        metric: a score.

    Methods with other learning rates than the baseline's are left out, with a note. Raises `UserError` where the part
    is no search, it has not the baseline, no setting of the baseline has the plain options, or `metric` is no score.
    """
    refuse_no_score(metric, "what is ahead is")
    cells: dict[Cell, dict[Method, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in trial_rows(dataset, part, metric, "grids"):
        cells[Cell(row["task"], row["setting"])][Method(row["optimizer"])].append(row)
    layers, steps = _layers(dataset), dataset.effective_steps()
    notes, result = list[str](), list[Acting]()
    for cell, methods in cells.items():
        if Method(baseline) not in methods:
            raise UserError(f"{part} has no runs of {baseline!r} on {cell}: name another baseline")
        to = task_reference(dataset, [row for rows in methods.values() for row in rows], notes)
        points = {method: _points(rows, metric) for method, rows in methods.items()}
        beside = points[Method(baseline)]
        plain_steps = _plain_steps(beside, plain, steps, f"{baseline} on {cell}")
        rates = {point.rate for point in beside}
        for method, own in points.items():
            if {point.rate for point in own} != rates:
                notes.append(f"{method} has other learning rates than {baseline}: left out")
                continue
            gains = [] if method.name == baseline else _gains(own, beside)
            result.append(_row(part, cell, method, own, gains, to.high - to.low, layers, steps, plain_steps))
    note = (
        f"near: within {NEAR:.0%} of the reference range of the method's best setting; ahead and behind by more than "
        "the standard error of the difference by the seeds"
    )
    title = f"What acts, and what is ahead of {baseline} at equal learning rate (by the {metric} score)"
    return Table(title, result, "; ".join([note, *dict.fromkeys(notes)]))


def _row(
    part: str,
    cell: Cell,
    method: Method,
    points: Sequence[_Point],
    gains: Sequence[tuple[float, float, float]],
    width: float,
    layers: _Layers,
    steps: Mapping[str, float],
    plain_steps: Mapping[float, float],
) -> Acting:
    best = max(point.mean for point in points)
    near = [point for point in points if point.mean >= best - NEAR * width]
    found = np.array([values for point in near for values in _means(point.runs, layers)]).reshape(-1, len(MEASURES))
    clipped, attenuation, noise = (_extreme(found[:, at], pick) for at, pick in enumerate((max, min, max)))
    ratios = [_median(point.runs, steps) / plain_steps.get(point.rate, math.nan) for point in near]
    known = [ratio for ratio in ratios if ratio > 0]  # NaN is not
    gain, error, rate = max(gains, default=(math.nan, math.nan, math.nan))
    return Acting(
        part,
        cell,
        method,
        best=best,
        near=len(near),
        clipped=clipped,
        attenuation=attenuation,
        noise_to_gradient=noise,
        step=max(known, key=lambda ratio: abs(math.log(ratio)), default=math.nan),
        rates=len({point.rate for point in points}),
        ahead=sum(difference > error for difference, error, _ in gains),
        behind=sum(-difference > error for difference, error, _ in gains),
        gain=gain / width,
        gain_error=error / width,
        gain_rate=rate,
    )


def _points(rows: Sequence[Row], metric: str) -> list[_Point]:
    every = {row["run"]: json.loads(row["options"]) for row in rows}
    names = [name for name in varied_options(list(every.values())) if name != LEARNING_RATE]
    found: dict[tuple[float, str], list[Row]] = defaultdict(list)
    for row in rows:
        other = {name: every[row["run"]].get(name) for name in names}
        found[float(row["lr"]), json.dumps(other, sort_keys=True)].append(row)
    return [
        _Point(
            rate, json.loads(other), [row["run"] for row in some], np.array([row[metric] for row in some], dtype=float)
        )
        for (rate, other), some in found.items()
    ]


def _gains(own: Iterable[_Point], baseline: Iterable[_Point]) -> list[tuple[float, float, float]]:
    """At each rate the difference of the best scores, its standard error, and the rate."""
    mine, its = _best_by_rate(own), _best_by_rate(baseline)
    return [
        (mine[rate].mean - its[rate].mean, math.hypot(_error(mine[rate].scores), _error(its[rate].scores)), rate)
        for rate in sorted(its)
    ]


def _best_by_rate(points: Iterable[_Point]) -> dict[float, _Point]:
    found: dict[float, _Point] = {}
    for point in points:
        if point.rate not in found or point.mean > found[point.rate].mean:
            found[point.rate] = point
    return found


def _error(scores: Array) -> float:
    """The standard error of a mean; of a single seed infinite."""
    return float(scores.std(ddof=1)) / math.sqrt(scores.size) if scores.size > 1 else math.inf


def _plain_steps(
    baseline: Iterable[_Point], plain: Mapping[str, Any] | None, steps: Mapping[str, float], whose: str
) -> dict[float, float]:
    """Rate -> the median effective step of the baseline with the plain options; empty where these are not given."""
    if plain is None:
        return {}
    found = [one for one in baseline if all(name in one.options and one.options[name] == plain[name] for name in plain)]
    if not found:
        raise UserError(f"{whose} was not tried with {json.dumps(dict(plain))}: give options of its grid")
    return {one.rate: _median(one.runs, steps) for one in found}


def _layers(dataset: Dataset) -> _Layers:
    """The phases of a run count by their records; NaN where nothing finite was recorded."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for row in dataset.gradient_summaries():
        values = [math.nan if row[name] is None else float(row[name]) for name in MEASURES]
        found[row["run"]][row["layer"]].append([float(row["records"]), *values])
    return {
        run: {layer: _weighted(np.array(phases)) for layer, phases in of_run.items()} for run, of_run in found.items()
    }


def _weighted(phases: Array) -> Array:
    """Of rows (P, 1 + M) with a weight and M values: the means (M,) of what is not NaN."""
    weights = np.where(np.isnan(phases[:, 1:]), 0.0, phases[:, :1])
    total = weights.sum(axis=0)
    return np.asarray((weights * np.nan_to_num(phases[:, 1:])).sum(axis=0) / np.where(total > 0, total, np.nan))


def _means(runs: Sequence[str], layers: _Layers) -> list[Array]:
    """Of a setting: for each layer the means (M,) over its seeds."""
    of_layer: dict[str, list[Array]] = defaultdict(list)
    for run in runs:
        for layer, values in layers.get(run, {}).items():
            of_layer[layer].append(values)
    return [_weighted(np.column_stack([np.ones(len(found)), np.array(found)])) for found in of_layer.values()]


def _extreme(values: Array, pick: Any) -> float:
    known = values[~np.isnan(values)]
    return float(pick(known)) if known.size else math.nan


def _median(runs: Sequence[str], steps: Mapping[str, float]) -> float:
    known = [steps[run] for run in runs if run in steps]
    return float(np.median(known)) if known else math.nan
