"""Tuning is part of the noise: another search of the same method would have chosen another setting.

With 5 trials of 2 seeds two identical methods are called different in one study of four if only the test runs are drawn
again, which all stand on the one trial that each search chose. So of a part with ``tuned: SEARCH`` the search is
repeated as well: in each repetition as many trials are drawn with replacement from the method's own, their seeds' noise
is drawn anew, and the best is chosen again (`lucks`). How far its true value lies from the mean of all repetitions is
added to the method's runs. Interval, test and verdict all rest on these draws; the rank test, which compares nothing
but the runs, can only make a p value larger. (Simulated: `tests/.../test_tuning_noise.py`, slow tests.)

A search of a whole grid (`sampler: grid`) would try the same settings again: of it only the seeds' noise is drawn, by
as much as they typically differ in the better half of the settings. At the others, of which many diverge, they tell
nothing of a choice between good ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluation.analysis.comparisons.selection import Selection
from evaluation.analysis.comparisons.trials import Trials, trials
from evaluation.analysis.comparisons.verdicts import Contrast
from evaluation.analysis.data.dataset import Dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.aggregate import (
    Array,
    Statistic,
    as_scores,
    batched,
    exact_ends,
    probability_of_improvement,
)
from evaluation.analysis.stats.bootstrap import CHUNK, Bootstrap, Estimate, as_draws
from evaluation.runs.seeding import derive
from evaluation.study.entry import Entry
from evaluation.study.tuned import read_tuned

FEW = 500  # draws that tell the spread of a probability of improvement, which looks at every pair of runs
NORMAL = 1.96  # two standard errors: what is added to ends that are counted, not drawn


def lucks(
    searches: Sequence[Trials], repetitions: int, rngs: Sequence[np.random.Generator], grid: bool = False
) -> list[Array]:
    """What luck in the search adds to the values of each method, (repetitions,) of mean 0: searches of one task.

    The true values of the K trials are their means over S seeds, drawn together by as much as these are spread by their
    seeds' noise alone (its variance: within the trials, over all methods), and apart by sqrt(K / (K - 1)). The noise of
    a choice is that of a mean over S seeds. With one seed the noise is not known: the means are taken as they are. The
    mean from which luck is measured is itself told by K trials, which adds a share of 1 / K to its variance. Of a
    `grid` the trials are not drawn.
    """
    better = [_better_half(one.objective) if grid else slice(None) for one in searches]
    noise = _noise([one.objective[half] for one, half in zip(searches, better, strict=True)], grid)
    spread = _noise([one.values[half] for one, half in zip(searches, better, strict=True)], grid)
    found = []
    for one, rng in zip(searches, rngs, strict=True):
        count, seeds = one.objective.shape
        objective, values = _true(one.objective, noise, grid), _true(one.values, spread, grid)
        size = repetitions, count
        drawn = np.broadcast_to(np.arange(count), size) if grid else rng.integers(count, size=size)
        seen = objective[drawn] + rng.normal(0.0, math.sqrt(noise / seeds), drawn.shape)
        chosen = values[drawn[np.arange(repetitions), seen.argmax(axis=1)]]
        found.append((1.0 if grid else math.sqrt(1 + 1 / count)) * (chosen - chosen.mean()))
    return found


def _better_half(objective: Array) -> Array:
    """Which trials (K, S) are at least as good as half of them."""
    means = objective.mean(axis=1)
    return np.asarray(means >= np.median(means))


def _noise(values: Sequence[Array], typical: bool) -> float:
    """Variance of a run within its trial; 0 where trials have one seed.

    Args:
        typical: by their median, which settings at which some seeds diverge do not move (over that of a variance told
            by so many seeds: Wilson and Hilferty 1931); else their mean.
    """
    within = [one.var(axis=1, ddof=1) for one in values if one.shape[1] > 1]
    if not within:
        return 0.0
    if not typical:
        return float(np.concatenate(within).mean())
    freedom = np.concatenate([np.full(len(one), one.shape[1] - 1) for one in values if one.shape[1] > 1])
    return float(np.median(np.concatenate(within) / (1 - 2 / (9 * freedom)) ** 3))


def _true(values: Array, noise: float, grid: bool) -> Array:
    """Trials' values (K, S) without their seeds' noise: (K,). All trials that might be drawn are apart by more than a
    sample of them is; those of a grid are all that there are."""
    count, seeds = values.shape
    means = values.mean(axis=1)
    spread = means.var(ddof=1) if count > 1 else 0.0
    if spread == 0:
        return means
    kept = max(0.0, 1 - noise / seeds / spread) * (1 if grid else count / (count - 1))
    return np.asarray(means.mean() + math.sqrt(kept) * (means - means.mean()))


@dataclass(frozen=True)
class TuningNoise:
    """What the search adds to the noise of a part's methods: `draws` (repetitions,) by task and setting, in the units
    of the metric. `words` say whether it is included; "" where nothing was tuned."""

    words: str = ""
    draws: Mapping[tuple[str, str], Mapping[str, Array]] = field(default_factory=dict)  # then by optimizer

    def moves(
        self, selection: Selection, cells: Sequence[Cell], method: Method, normalized: bool = True
    ) -> Array | None:
        """What a search is about to add to the values of a method in each cell, (repetitions, T); None: nothing.

        In the units of `Selection.matrix`, else in the task's own.
        """
        found = [self.draws.get((cell.task, cell.setting), {}).get(method.optimizer) for cell in cells]
        units = [selection.scale(cell) if normalized else 1.0 for cell in cells]
        columns = [draws / unit for unit, draws in zip(units, found, strict=True) if draws is not None]
        return np.stack(columns, axis=1) if len(columns) == len(cells) else None


def tuning_noise(dataset: Dataset, selection: Selection, how: Bootstrap) -> TuningNoise:
    """The noise of the searches that tuned the part of a selection, by the study's definition.

    A part that takes its values from another setting's search (`tuned_setting`) has one draw for all its settings.
    Variants of one optimizer (an ablation) share its draws, so that they cancel in differences. What was not tuned has
    none. Nor has one setting for all tasks: what its rivals in the search are worth on the tasks here is not known.
    """
    names = tuple(dict.fromkeys(method.optimizer for method in selection.methods))
    tuned = read_tuned(Entry(dataset.part_definition(selection.part)), names)
    each = {name: one for name, one in tuned.items() if one.tasks == "each"}
    searches = list(dict.fromkeys(one.search for one in each.values()))
    words = []
    if len(each) < len(tuned):
        of = ", ".join(dict.fromkeys(one.search for one in tuned.values() if one.tasks == "all"))
        words = [f"the choice of one setting for all tasks is not drawn again: `single_setting` of {of} tells its luck"]
    if not each:
        return TuningNoise("; ".join(words))
    found = {search: trials(dataset, search, selection.metric.name) for search in searches}
    grid = {search: dataset.part_definition(search).get("sampler") == "grid" for search in searches}
    draws: dict[tuple[str, str], dict[str, Array]] = {}
    shapes: set[tuple[int, ...]] = set()
    for task, setting in dict.fromkeys((cell.task, cell.setting) for cell in selection.cells):
        draws[task, setting] = {name: np.zeros(how.repetitions) for name in names}
        for search, at in dict.fromkeys((one.search, one.setting or setting) for one in each.values()):
            takers = {name: one for name, one in each.items() if (one.search, one.setting or setting) == (search, at)}
            own = {method.optimizer: tried for method, tried in found[search].get(Cell(task, at), {}).items()}
            missing = {one.optimizer for one in takers.values()} - set(own)
            if missing or any(len(tried.objective) < 2 for tried in own.values()):
                lacks = f"tuning is not included: the trials of {search} are not all here, or they are too few"
                return TuningNoise("; ".join([f"{lacks}, so a lucky search may look like a better method", *words]))
            apart = (search, at) if len(searches) > 1 else ()  # searches that differ have luck of their own
            rngs = [np.random.default_rng(derive(how.seed, "tuning", *apart, task, name)) for name in own]
            drawn = dict(zip(own, lucks(list(own.values()), how.repetitions, rngs, grid[search]), strict=True))
            draws[task, setting] |= {name: drawn[one.optimizer] for name, one in takers.items()}
            shapes |= {tried.objective.shape for tried in own.values()}
    sizes = " or ".join(f"{count} trials x {seeds} seeds" for count, seeds in sorted(shapes))
    again = "has its seeds drawn again, its grid is whole" if all(grid.values()) else "is drawn again, too"
    which = f"the search {searches[0]}" if len(searches) == 1 else f"each of the searches {', '.join(searches)}"
    words.insert(0, f"tuning is included: {which} ({sizes} a method and task) {again}")
    return TuningNoise("; ".join(words), draws)


def estimate(statistic: Statistic, scores: Array, moves: Array | None, how: Bootstrap) -> Estimate:
    """A statistic of the scores (R, T) of a method with its interval, what tuning adds included."""
    value = how.estimate(statistic, scores)
    return value if moves is None else _widened(value, statistic, [scores], [moves], how)


def contrast_tuned(
    one: Contrast,
    x: Array,
    y: Array,
    moves: tuple[Array | None, Array | None],
    how: Bootstrap,
    center: Statistic,
    higher_is_better: bool,
) -> Contrast:
    """The contrast `one` of scores x (R, T) and y (R', T), what tuning adds to each included.

    Variants of one search move alike: what is said of their difference stays.
    """
    of_x, of_y = moves
    if of_x is None or of_y is None:
        return one
    x, y = as_scores(x), as_scores(y)
    alone = replace(
        one,
        method=_widened(one.method, center, [x], [of_x], how),
        baseline=_widened(one.baseline, center, [y], [of_y], how),
    )
    if np.array_equal(of_x, of_y):
        return alone
    draws, sign = as_draws(one.draws), 1.0 if higher_is_better else -1.0
    moved = _moved(batched(center), [x], [of_x]) - _moved(batched(center), [y], [of_y])
    better = (sign * x, sign * y), (sign * of_x[:FEW], sign * of_y[:FEW])
    return replace(
        alone,
        draws=replace(draws, values=draws.values + moved),
        p=max(one.p, _rank_test_tuned(*better[0], sign * of_x, sign * of_y, how)),
        improvement=_widened(one.improvement, probability_of_improvement, *better, how).within(0.0, 1.0),
    )


def _widened(
    value: Estimate, statistic: Statistic, scores: Sequence[Array], moves: Sequence[Array], how: Bootstrap
) -> Estimate:
    """An estimate with the interval that tuning gives it. Where the runs alone were counted, not drawn, the two errors
    are added as squares."""
    moved = _moved(batched(statistic), [as_scores(one) for one in scores], moves)
    if math.isnan(value.low) or not moved.any():
        return value
    if exact_ends(statistic) is None:
        draws = how.draws(statistic, *scores)
        return how.around(value.value, replace(draws, values=draws.values + moved))
    more = NORMAL * float(moved.std())
    low, high = (math.hypot(end - value.value, more) for end in value[1:])
    return Estimate(value.value, value.value - low, value.value + high)


def _rank_test_tuned(x: Array, y: Array, of_x: Array, of_y: Array, how: Bootstrap) -> float:
    """Two-sided p value of the rank test of scores (R, T) and (R', T) where searches found other settings, too.

    Each repetition deals the runs of each task, less their side's median, out to the two sides, and moves each side as
    a search does: how often is the probability of improvement as far from 1/2 as the runs' own?
    """
    observed = abs(probability_of_improvement(x, y) - 0.5)
    known = np.concatenate([one[np.isfinite(one)] for one in (x, y)])
    if not known.size:
        return 1.0
    ends = known.min(), known.max()  # times that were not reached are as long as the longest
    both = np.concatenate([side - np.median(side, axis=0) for side in (np.clip(x, *ends), np.clip(y, *ends))])
    rng, of_arrays, runs = np.random.default_rng(how.seed), batched(probability_of_improvement), len(x)
    at_once, as_far = max(1, CHUNK // (x.shape[0] * y.size)), 1
    for start in range(0, len(of_x), at_once):
        moves = of_x[start : start + at_once, None], of_y[start : start + at_once, None]
        dealt = rng.permuted(np.broadcast_to(both, (len(moves[0]), *both.shape)), axis=1)
        found = of_arrays(dealt[:, :runs] + moves[0], dealt[:, runs:] + moves[1])
        as_far += int((np.abs(found - 0.5) >= observed - 1e-9).sum())
    return as_far / (1 + len(of_x))


def _moved(of_arrays: Callable[..., Array], scores: Sequence[Array], moves: Sequence[Array]) -> Array:
    """How far a statistic of arrays (R, T) moves when all runs of a task do, by `moves` (repetitions, T)."""
    value = of_arrays(*(one[None] for one in scores))
    at_once = max(1, CHUNK // math.prod(one.size for one in scores))
    parts = [
        of_arrays(*(one + by[start : start + at_once, None] for one, by in zip(scores, moves, strict=True)))
        for start in range(0, len(moves[0]), at_once)
    ]
    with np.errstate(invalid="ignore"):  # of infinite statistics, which no move changes
        return np.nan_to_num(np.concatenate(parts) - value)
