"""Does a mechanism act at all where its method is good, and is it ahead at equal learning rate? Of whole grids.

    acting(data, "grid")                                          # beside adam
    acting(data, "grid", baseline="sgd+clip", metric="auc")

What never acts is the base rule under another name; what acts and is never ahead of the baseline at the same rate is
not worth its options. A method is ahead at a rate with the best of its other options, of as many as the baseline has.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.analysis.comparisons.matched import median_step
from evaluation.analysis.comparisons.robustness import NEAR
from evaluation.analysis.comparisons.selection import Row, refuse_no_score, task_reference
from evaluation.analysis.comparisons.usable_range import Grid, grids
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.aggregate import Array
from evaluation.cli.errors import UserError
from evaluation.study.entry import flatten

MEASURES = ("clipped", "attenuation", "noise_to_gradient")
# Run -> of each layer and phase its number of regular records and the means of `MEASURES` over them.
_Records = Mapping[str, Sequence[tuple[str, Sequence[float]]]]


@dataclass(frozen=True)
class Acting:
    """What a method's mechanism did at the settings within `NEAR` of the reference range of its best one, and how it
    compares with the baseline at equal learning rate.

    `near` counts these settings. Over them and over layers: `clipped` is the largest share clipped, `attenuation` the
    smallest factor, `noise_to_gradient` the largest, of means over the records of all seeds; `step` is the median
    effective step by the baseline's at the same rate and its plain options, the one farthest from 1. NaN: not recorded,
    or the study's definition says nothing of the baseline under `plain`.
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


def acting(
    dataset: Dataset,
    part: str,
    *,
    baseline: str = "adam",
    metric: str = "final",
) -> Table[Acting]:
    """Every method of a part's grids, on every task and in every setting, beside the baseline.

    Args:
        part: of kind search, with `sampler: grid`.
        metric: a score.

    Steps are compared with those of the baseline at the options that the study's definition gives under `plain`, with
    which it is nothing but its rule; of a grid in which one of the other settings has them. Methods with other learning
    rates than the baseline's are left out, with a note. Raises `UserError` where the part is no search, a search is no
    whole grid, it has not the baseline, or `metric` is no score.
    """
    refuse_no_score(metric, "what is ahead is")
    records, steps = _records(dataset), dataset.effective_steps()
    plain = plain_methods(dataset).get(baseline)
    notes, result = list[str](), list[Acting]()
    for cell, (methods, rows) in grids(dataset, part, metric).items():
        beside = methods.get(Method(baseline))
        if beside is None:
            raise UserError(f"{part} has no runs of {baseline!r} on {cell}: name another baseline")
        to = task_reference(dataset, rows, notes)
        plain_steps = _plain_steps(beside, plain, rows, steps)
        if plain is not None and np.isnan(plain_steps).all():
            notes.append(f"no steps of {baseline} on {cell} with {json.dumps(plain)} to compare with")
        for method, grid in methods.items():
            if not np.array_equal(grid.rates, beside.rates):
                notes.append(f"{method} has other learning rates than {baseline}: left out")
                continue
            did = _did(grid, to.high - to.low, records, steps, plain_steps)
            result.append(Acting(part, cell, method, **did, **_gains(grid, beside, to.high - to.low)))
    note = (
        f"near: within {NEAR:.0%} of the reference range of the method's best setting; ahead and behind by more than "
        "the standard error of the difference by the seeds"
    )
    title = f"What acts, and what is ahead of {baseline} at equal learning rate (by the {metric} score)"
    return Table(title, result, "; ".join([note, *dict.fromkeys(notes)]))


def plain_methods(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """What the study's definition says under `plain`: optimizer -> the options with which it is but its rule."""
    return {str(name): flatten(options or {}) for name, options in (dataset.definition.get("plain") or {}).items()}


def _did(
    grid: Grid, width: float, records: _Records, steps: Mapping[str, float], plain_steps: Sequence[float]
) -> dict[str, Any]:
    """What the mechanism did at the settings near the best one."""
    means = grid.scores.mean(axis=0)
    near = np.argwhere(means >= means.max() - NEAR * width)
    found = np.array([values for rate, other in near for values in _of_layers(grid.runs[:, rate, other], records)])
    clipped, attenuation, noise = found.reshape(-1, len(MEASURES)).T
    ratios = [median_step(steps, [*grid.runs[:, rate, other]]) / plain_steps[rate] for rate, other in near]
    return {
        "best": float(means.max()),
        "near": len(near),
        "clipped": _of_known(max, clipped),
        "attenuation": _of_known(min, attenuation),
        "noise_to_gradient": _of_known(max, noise),
        "step": max((one for one in ratios if one > 0), key=lambda one: abs(math.log(one)), default=math.nan),
    }


def _gains(grid: Grid, baseline: Grid, width: float) -> dict[str, Any]:
    """How the best of the other options compares with the baseline's, rate by rate."""
    (own, own_error), (its, its_error) = _best_by_rate(grid), _best_by_rate(baseline)
    gain, error = (own - its) / width, np.hypot(own_error, its_error) / width
    counts = {"rates": gain.size, "ahead": int((gain > error).sum()), "behind": int((-gain > error).sum())}
    if grid is baseline:
        return counts | dict.fromkeys(("gain", "gain_error", "gain_rate"), math.nan)
    at = int(gain.argmax())
    return counts | {"gain": float(gain[at]), "gain_error": float(error[at]), "gain_rate": float(grid.rates[at])}


def _best_by_rate(grid: Grid) -> tuple[Array, Array]:
    """The mean scores (L,) of the best other options, and their standard errors, infinite of a single seed."""
    best = grid.scores.mean(axis=0).argmax(axis=1)
    scores = grid.scores[:, np.arange(grid.rates.size), best]
    seeds = len(scores)
    errors = scores.std(axis=0, ddof=1) / math.sqrt(seeds) if seeds > 1 else np.full(grid.rates.size, math.inf)
    return scores.mean(axis=0), errors


def _plain_steps(
    baseline: Grid, plain: Mapping[str, Any] | None, rows: Iterable[Row], steps: Mapping[str, float]
) -> Sequence[float]:
    """The median effective step of the baseline with the plain options at each rate; NaN where these are not given, or
    were tried with none or several of its other settings."""
    options = {row["run"]: json.loads(row["options"]) for row in rows}
    tried = [options[run] for run in baseline.runs[0, 0]]
    places = [at for at, one in enumerate(tried) if plain and all(one.get(key) == plain[key] for key in plain)]
    if len(places) != 1:
        return [math.nan] * baseline.rates.size
    return [median_step(steps, [*runs]) for runs in baseline.runs[:, :, places[0]].T]


def _records(dataset: Dataset) -> _Records:
    found: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
    for row in dataset.gradient_summaries():
        values = [math.nan if row[name] is None else float(row[name]) for name in MEASURES]
        found[row["run"]].append((row["layer"], [float(row["records"]), *values]))
    return found


def _of_layers(runs: Iterable[str], records: _Records) -> list[Array]:
    """For each layer the means (M,) over the records of these runs; NaN where nothing finite was recorded."""
    of_layer: dict[str, list[Sequence[float]]] = defaultdict(list)
    for run in runs:
        for layer, values in records.get(run, ()):
            of_layer[layer].append(values)
    return [_weighted(np.array(found)) for found in of_layer.values()]


def _weighted(values: Array) -> Array:
    """Of rows (P, 1 + M) with a weight and M values: the means (M,) of what is not NaN."""
    weights = np.where(np.isnan(values[:, 1:]), 0.0, values[:, :1])
    total = weights.sum(axis=0)
    return np.asarray((weights * np.nan_to_num(values[:, 1:])).sum(axis=0) / np.where(total > 0, total, np.nan))


def _of_known(pick: Callable[..., float], values: Array) -> float:
    """The largest or smallest of what is not NaN."""
    return float(pick(values[~np.isnan(values)], default=math.nan))
