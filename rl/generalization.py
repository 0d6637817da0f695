"""What scores in other flavours of a game say: the drop from the trained one, and the generalization gap.

The gap is the mean score in the trained flavour minus the mean over all other pairs of mode and difficulty. Sticky
actions are another environment, not another flavour of the game: they stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.files import read_json, write_json
from evaluation.runs.analysis_row import ROW
from evaluation.runs.run_folder import SUMMARY, is_finished
from rl.flavours import STICKY_ACTIONS, TRAINED

Row = dict[str, float | None]
Rows = dict[str, Row]  # by flavour


def t_quantile(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t, by its expansion about the normal one (Abramowitz & Stegun 26.7.5);
    right to 0.2 % from 5 degrees of freedom on."""
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def half_width(scores: ArrayLike) -> float:
    """Half the 95 % interval of the mean of scores (n,); NaN of fewer than two."""
    values = np.asarray(scores, np.float64)
    if values.size < 2:
        return math.nan
    return t_quantile(values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)


def difference(one: ArrayLike, other: ArrayLike) -> tuple[float, float]:
    """Mean of `one` (n,) minus mean of `other` (m,), and half its 95 % interval (Welch; NaN of fewer than two)."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    gap = float(a.mean() - b.mean())
    if min(a.size, b.size) < 2:
        return gap, math.nan
    parts = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    total = parts[0] + parts[1]
    if total == 0:
        return gap, 0.0
    freedom = total**2 / (parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1))
    return gap, t_quantile(float(freedom)) * math.sqrt(total)


def table(scores: Mapping[str, ArrayLike]) -> Rows:
    """By flavour: its mean score and half the 95 % interval; of all but the trained one the drop from there, with its
    interval, and in percent of the trained score (None where that is not above 0).

    Args:
        scores: by flavour; "trained" is among them.
    """
    found: Rows = {}
    trained = np.asarray(scores[TRAINED], np.float64)
    for name, values in scores.items():
        row: Row = {"score": float(np.asarray(values, np.float64).mean()), "score_interval": half_width(values)}
        if name != TRAINED:
            drop, interval = difference(trained, values)
            percent = 100 * drop / float(trained.mean()) if trained.mean() > 0 else None
            row |= {"drop": drop, "drop_interval": interval, "drop_percent": percent}
        found[name] = row
    return found


def generalization_gap(rows: Rows) -> float | None:
    """The trained flavour's score minus the mean over all others of modes and difficulties; None: there are none."""
    drops = [row["drop"] for name, row in rows.items() if name not in (TRAINED, STICKY_ACTIONS)]
    return float(np.mean(drops)) if drops else None  # type: ignore[arg-type]


def write_summary(run: Path, rows: Rows, how: dict[str, Any]) -> bool:
    """Put the gap and its table into a finished run's summary.json, and into the row that analysis reads; False: it has
    not finished, and nothing is written."""
    if not is_finished(run):
        return False
    found = {"generalization_gap": generalization_gap(rows), "generalization": {"flavours": rows, "signature": how}}
    write_json(run / SUMMARY, dict(read_json(run / SUMMARY)) | found)
    if (run / ROW).is_file():
        row = dict(read_json(run / ROW))
        write_json(run / ROW, row | {"summary": dict(row["summary"]) | found})
    return True


def lines(rows: Rows) -> Iterator[str]:
    """The table for people."""
    width = max(map(len, rows))
    yield f"{'flavour':{width}}  {'score':>18}  {'drop':>18}  {'percent':>8}"
    for name, row in rows.items():
        score = _with_interval(row["score"], row["score_interval"])
        drop = _with_interval(row.get("drop"), row.get("drop_interval"))
        percent = row.get("drop_percent")
        yield f"{name:{width}}  {score:>18}  {drop:>18}  {'-' if percent is None else f'{percent:.1f} %':>8}"


def _with_interval(value: float | None, interval: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if interval is None or math.isnan(interval) else f" ± {interval:.2f}")
