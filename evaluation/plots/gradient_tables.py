"""What was recorded of the gradients, summed up for figures: the same questions to a study and to a single run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.analysis.data.dataset import PHASES, Dataset
from evaluation.analysis.data.run_key import RunKey
from evaluation.runs.gradient_columns import HISTOGRAM_EDGES
from evaluation.runs.recorder import OFFSETS

Array = NDArray[np.float64]
STAGES = PHASES
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LABELS = ("part", "task", "setting", "optimizer")
GROUP = ", ".join(f"r.{label}" for label in LABELS)


def natural(layer: str) -> tuple[Any, ...]:
    """Sorting key of layers: numbers in their names count as numbers, and a bias follows its weight."""
    layer = re.sub(r"bias$", "~bias", layer)
    return tuple((int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", layer))


@dataclass(frozen=True)
class Histograms:
    """Counts (66,) of |g| before and after clipping in the bins of `HISTOGRAM_EDGES`, over `runs` runs."""

    before: Array
    after: Array
    runs: int


def histograms(data: Dataset) -> dict[tuple[RunKey, str, str], Histograms]:
    """(whose, layer, stage) -> histograms, summed over the regular records of a stage and over runs."""
    query = f"""
        WITH ends AS (SELECT run, max("update") + 1 AS updates FROM gradients GROUP BY run),
        rows AS (
            SELECT {GROUP}, layer, run, least(2, ("update" * 3) // updates) AS stage,
                unnest(before) AS b, unnest(after) AS a, generate_subscripts(before, 1) AS bin
            FROM gradients g JOIN runs r USING (run) JOIN ends USING (run)
            WHERE r.kind = 'compare' AND g.event = 'interval')
        SELECT part, task, setting, optimizer, layer, stage, list(b ORDER BY bin) AS before,
            list(a ORDER BY bin) AS after, max(n) AS n
        FROM (SELECT part, task, setting, optimizer, layer, stage, bin, sum(b)::DOUBLE AS b, sum(a)::DOUBLE AS a,
            count(DISTINCT run) AS n FROM rows GROUP BY ALL)
        GROUP BY ALL ORDER BY ALL"""
    found = {}
    for row in data.rows(query):
        counts = Histograms(np.array(row["before"]), np.array(row["after"]), int(row["n"]))
        found[_key(row), row["layer"], STAGES[row["stage"]]] = counts
    return found


def quantiles(counts: Array) -> Array:
    """log10 |g| at `QUANTILES` of the elements that are not zero, (5,), linear within a bin; NaN if all are zero.

    What lies beyond the last edge (infinite and NaN, too) counts in the last bin before it.
    """
    inside = counts[1:-1].astype(np.float64)
    inside[-1] += counts[-1]
    if inside.sum() == 0:
        return np.full(len(QUANTILES), np.nan)
    cumulative = np.concatenate([[0.0], np.cumsum(inside)]) / inside.sum()
    # The bin in which the distribution function first gets to q: it has elements, so the division is safe.
    bins = np.searchsorted(cumulative, QUANTILES, side="left") - 1
    edges = np.array(HISTOGRAM_EDGES)
    within = (np.array(QUANTILES) - cumulative[bins]) / (cumulative[bins + 1] - cumulative[bins])
    return np.asarray(edges[bins] + within * (edges[bins + 1] - edges[bins]))


def series_by_update(data: Dataset, columns: Iterable[str]) -> dict[tuple[RunKey, str], dict[str, Array]]:
    """(whose, layer) -> {"step", "n", and of each column its median over runs "c" and quartiles "c_low", "c_high"}.

    Regular records only; infinite values (no threshold) stay infinite, NaN is left out.
    """
    parts = [
        f"quantile_disc(g.{name}, {part}) FILTER (NOT isnan(g.{name})) AS {name}{end}"
        for name in columns
        for end, part in (("_low", 0.25), ("", 0.5), ("_high", 0.75))
    ]
    query = f"""SELECT {GROUP}, layer, step, count(DISTINCT run) AS n, {", ".join(parts)}
        FROM gradients g JOIN runs r USING (run) WHERE r.kind = 'compare' AND g.event = 'interval'
        GROUP BY ALL ORDER BY ALL"""
    return _by_layer(data.rows(query))


def shifts(data: Dataset) -> dict[RunKey, list[int]]:
    """Whose target network was synchronized at which steps, as far as the records tell (first update after it)."""
    query = f"""SELECT {GROUP}, list(DISTINCT step ORDER BY step) AS steps FROM gradients g JOIN runs r USING (run)
        WHERE r.kind = 'compare' AND g.since_shift = 0 GROUP BY ALL ORDER BY ALL"""
    return {_key(row): row["steps"] for row in data.rows(query)}


def around_shifts(data: Dataset, column: str) -> dict[tuple[RunKey, str], dict[str, Array]]:
    """(whose, layer) -> {"since", "n", "value", "low", "high"}: `column` around synchronizations, relative to the last
    update before each: median and quartiles over synchronizations and runs; `n` of them. since -1 is that update, the
    others are the recorder's offsets."""
    offsets = [offset for offset in OFFSETS if offset >= 0]
    # Joins by equality only: each row knows the synchronization it belongs to, "update" - since_shift.
    query = f"""
        WITH syncs AS (SELECT run, layer, "update" AS sync FROM gradients WHERE since_shift = 0),
        last_ones AS (
            SELECT run, layer, "update" + 1 AS sync, {column} AS base FROM gradients
            WHERE {column} > 0 AND isfinite({column})),
        before AS (SELECT * FROM syncs JOIN last_ones USING (run, layer, sync)),
        around AS (
            SELECT run, layer, "update" - since_shift AS sync, since_shift AS since, {column} AS size FROM gradients
            WHERE list_contains({offsets}, since_shift) AND isfinite({column})),
        ratios AS (
            SELECT run, layer, since, size / base AS ratio FROM before JOIN around USING (run, layer, sync)
            UNION ALL SELECT run, layer, -1, 1.0 FROM before)
        SELECT {GROUP}, layer, since, count(*) AS n, quantile_cont(ratio, 0.25) AS low,
            quantile_cont(ratio, 0.5) AS value, quantile_cont(ratio, 0.75) AS high
        FROM ratios JOIN runs r USING (run) WHERE r.kind = 'compare' GROUP BY ALL ORDER BY ALL"""
    return _by_layer(data.rows(query))


def _key(row: dict[str, Any]) -> RunKey:
    return RunKey(*(row[label] for label in LABELS))


def _by_layer(rows: Iterable[dict[str, Any]]) -> dict[tuple[RunKey, str], dict[str, Array]]:
    """The columns of numbers by whose they are and by layer; NaN for what is missing."""
    found: dict[tuple[RunKey, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((_key(row), row.pop("layer")), []).append(row)
    return {
        key: {name: np.array([row[name] for row in some], dtype=np.float64) for name in some[0] if name not in LABELS}
        for key, some in found.items()
    }
