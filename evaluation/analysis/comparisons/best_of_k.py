"""What a search is worth by its length: the expected score of the best of k trials, k from 1 to all of them.

    table = best_of_k(load("results/control"), "tuning")
    for row in table: print(row.cell, row.method, row.k, row.score)

Dodge et al., "Show Your Work" (EMNLP 2019), with the unbiased estimator of Tang et al. (ACL 2020): the mean over all
choices of k of the K trials (theirs draws with replacement and is biased down). A trial is chosen by the search's
objective, and its metric is what counts. Their score is that on the seeds it was chosen by, which flatters the best of
several noisy ones the more the longer the search; so `score` is chosen by all seeds but one and taken on that one, mean
over the seeds, and the other, on which both are the same seeds, is `tuning_score` beside it.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from evaluation.analysis.comparisons.selection import METRICS, part_kinds, refuse_no_score
from evaluation.analysis.comparisons.trials import Trials, trials
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.normalization import Reference
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Columns, Table
from evaluation.analysis.stats.aggregate import Array
from evaluation.analysis.stats.bootstrap import DEFAULT, MIN_RUNS, Bootstrap, Draws, Estimate
from evaluation.cli.errors import UserError
from evaluation.runs.seeding import derive

SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500)  # numbers of trials that tables have columns for, and the last


@dataclass(frozen=True)
class BestOfRow:
    """The expected score of the best of `k` of an optimizer's `trials`, in the task's units; over all tasks normalized.

    `score` is on a seed that had no part in the choice (NaN: the trials have one seed), `tuning_score` on those that
    chose.
    """

    part: str
    cell: Annotated[Cell, Columns("task", "setting", every="all")]
    method: Method
    k: int
    trials: int
    seeds: int
    score: Annotated[Estimate, Columns("")]
    tuning_score: Estimate

    @property
    def shown(self) -> Estimate:
        """The score, where there are seeds for it, else the tuning score."""
        return self.tuning_score if math.isnan(self.score.value) else self.score


@dataclass(frozen=True)
class _Curves:
    """(K,) the score and the tuning score of each k, and (repetitions, K) the same of resampled trials."""

    seeds: int
    values: tuple[Array, Array]
    draws: tuple[Array, Array]


def best_of_k(dataset: Dataset, part: str, *, metric: str = "final", how: Bootstrap = DEFAULT) -> Table[BestOfRow]:
    """The curves of a part of kind search: by task and setting, then over all of them (optimizers that have all).

    The bootstrap draws trials with their seeds. Raises `UserError`: the part is no search, or the metric no score.
    """
    refuse_no_score(metric, "the best of k trials is")
    kinds = part_kinds(dataset)
    if kinds.get(part) != "search":
        searches = ", ".join(name for name, kind in kinds.items() if kind == "search")
        raise UserError(f"part {part} is no search: {dataset.name} has {searches or 'none'}")
    found = trials(dataset, part, metric)
    rows: list[BestOfRow] = []
    ends: list[tuple[float, float]] = []  # normalized, of each task and setting
    normalized: dict[Method, list[_Curves]] = defaultdict(list)
    for cell, methods in found.items():
        known = np.concatenate([one.values.ravel() for one in methods.values()])
        low, high = float(known.min()), float(known.max())
        to = dataset.reference(cell.task) or Reference(
            low, max(high, low + 1e-9), "the worst and the best run of the trials"
        )
        ends.append(((low - to.low) / (to.high - to.low), (high - to.low) / (to.high - to.low)))
        for method, one in methods.items():
            rng = np.random.default_rng(derive(how.seed, "best of k", cell.task, cell.setting, method.optimizer))
            curves = _curves(one, how.repetitions, rng)
            rows += _rows(part, cell, method, curves, (low, high), how)
            normalized[method].append(_normalized(curves, to))
    if len(found) > 1:
        mean_ends = tuple(np.mean(ends, axis=0).tolist())
        for method, several in normalized.items():
            if len(several) == len(found):
                rows += _rows(part, Cell(), method, _together(several), mean_ends, how)
    note = (
        "expected value over all choices of k trials, chosen by the search's objective; scores on a seed that had no "
        f"part in the choice, where trials have several; {how.level:.0%} intervals: bootstrap t over the trials, {how}"
    )
    return Table(f"{METRICS[metric].words} of the best of k trials", rows, note)


def expected_best(objective: Array, values: Array) -> Array:
    """The mean of `values` (..., K) of the trial of highest `objective` (..., K) over all choices of 1, 2, .., K of the
    K trials: (..., K). Of equals the later."""
    order = np.argsort(objective, axis=-1, kind="stable")
    return np.asarray(np.take_along_axis(values, order, axis=-1) @ _weights(values.shape[-1]))


@functools.cache
def _weights(count: int) -> Array:
    """[i, k - 1]: the share of the choices of k of `count` in which the one of rank i, from 0, is the highest."""
    shares = [[math.comb(rank, k - 1) / math.comb(count, k) for k in range(1, count + 1)] for rank in range(count)]
    return np.array(shares)


def shown_numbers(table: Table[BestOfRow]) -> list[int]:
    """The numbers of trials that have columns, where there is a row a search."""
    last = max((row.k for row in table), default=0)
    return [*(k for k in SHOWN if k < last), last]


def curves_by_search(table: Table[BestOfRow]) -> dict[tuple[Cell, Method], dict[int, BestOfRow]]:
    """The rows of each search by their number of trials."""
    found: dict[tuple[Cell, Method], dict[int, BestOfRow]] = defaultdict(dict)
    for row in table:
        found[row.cell, row.method][row.k] = row
    return found


def _curves(one: Trials, repetitions: int, rng: np.random.Generator) -> _Curves:
    count, seeds = one.values.shape
    drawn = rng.integers(count, size=(repetitions, count))
    every = np.concatenate([np.arange(count)[None], drawn])  # the trials themselves, then resamples of them
    objective, values = one.objective[every], one.values[every]
    tuning = expected_best(objective.mean(axis=-1), values.mean(axis=-1))
    others = [np.delete(objective, seed, axis=-1).mean(axis=-1) for seed in range(seeds)] if seeds > 1 else []
    scores = [expected_best(by, values[..., seed]) for seed, by in enumerate(others)]
    score = np.mean(scores, axis=0) if scores else np.full_like(tuning, np.nan)
    return _Curves(seeds, (score[0], tuning[0]), (score[1:], tuning[1:]))


def _normalized(curves: _Curves, to: Reference) -> _Curves:
    values, draws = (
        tuple((one - to.low) / (to.high - to.low) for one in pair) for pair in (curves.values, curves.draws)
    )
    return _Curves(curves.seeds, (values[0], values[1]), (draws[0], draws[1]))


def _together(several: list[_Curves]) -> _Curves:
    """The mean over tasks and settings, as far as all have trials."""
    last = min(one.values[0].size for one in several)
    values = [np.mean([one.values[i][:last] for one in several], axis=0) for i in (0, 1)]
    draws = [np.mean([one.draws[i][:, :last] for one in several], axis=0) for i in (0, 1)]
    return _Curves(min(one.seeds for one in several), (values[0], values[1]), (draws[0], draws[1]))


def _rows(
    part: str, cell: Cell, method: Method, curves: _Curves, ends: tuple[float, ...], how: Bootstrap
) -> list[BestOfRow]:
    """A row for each k; no interval reaches beyond the worst and the best run of any trial (`ends`)."""
    count = curves.values[0].size
    found: list[list[Estimate]] = []
    for values, drawn in zip(curves.values, curves.draws, strict=True):
        if count < MIN_RUNS:
            found.append([Estimate(float(value)) for value in values])
            continue
        low, high = Draws(drawn, math.sqrt(count / (count - 1)), count - 1, count).ends(values, how.level)
        found.append([Estimate(*map(float, of)).within(*ends) for of in zip(values, low, high, strict=True)])
    scores, tuning = found
    return [
        BestOfRow(part, cell, method, k, count, curves.seeds, score, tuned)
        for k, score, tuned in zip(range(1, count + 1), scores, tuning, strict=True)
    ]
