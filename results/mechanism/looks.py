"""Numbers of the README that are no rule's: the pool of stages 2 and 3, what clipped, ranks, dormant units, sharpness.

python results/mechanism/looks.py [STUDY]

An archive keeps the diagnostics of fewer seeds and looks than the study had: `n` says of how many a median is.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from evaluation.analysis.comparisons.claims import interval
from evaluation.analysis.comparisons.clipping import clipping
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.comparisons.verdicts import contrast, judge
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import Method
from evaluation.analysis.stats.aggregate import mean
from evaluation.analysis.stats.bootstrap import Bootstrap

BASELINES, HOW = ("adopt", "agc-adam", "adam+clip", "sgd+clip"), Bootstrap()
QUERY = """SELECT task, optimizer, step, quantile_cont(value, 0.5) AS middle, count(*) AS n
    FROM metrics JOIN runs USING (run) WHERE part = ? AND name = ? GROUP BY ALL ORDER BY ALL"""

with dataset.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) as data:
    stages = [select(data, part, "auc") for part in ("stage-2", "stage-3")]
    clipped = [row for row in clipping(data, "stage-3") if row.method.name in ("adam+clip", "asgc-norm")]
    of = {
        (part, name): data.rows(QUERY, part, name)
        for part, names in {
            "acrobot-mse-tuned": ("feature_rank", "dormant"),
            "head-tuned": ("feature_rank", "dormant"),
            "why": ("hessian_max",),
        }.items()
        for name in names
    }
cells = list(stages[0].cells)
others = [cell for cell in cells if cell.task != "acrobot-mse"]


def pooled(name: str, of_cells: list) -> np.ndarray:
    """(R, T) of both stages' seeds."""
    return np.concatenate([stage.matrix(of_cells, Method(name)) for stage in stages])


names = (*BASELINES, "asgc-ceiling")
print("stages 2 and 3 together: mean, and without acrobot-mse")
for name in names:
    print(f"{name:14s}{interval(HOW.estimate(mean, pooled(name, cells))):>24s}{pooled(name, others).mean():10.3f}")
pairs = [contrast(pooled("asgc-ceiling", cells), pooled(name, cells), HOW, mean) for name in BASELINES]
for name, row in zip(BASELINES, judge(pairs, HOW), strict=True):
    numbers = f"{interval(row.difference):>26s}{interval(row.improvement):>24s}  {row.p_holm:.2g} {row.verdict}"
    print(f"asgc-ceiling - {name:12s}{numbers}")
print("\nstage-3: share of steps clipped, and what was left")
for row in clipped:
    print(f"{row.cell.task:16s}{row.method.name:12s}{row.clipped:6.2f}{row.attenuation:6.2f}  n {row.n}")
for (part, name), rows in of.items():
    print(f"\n{part}: median {name}" + (" at the end" if part == "why" else " by step"))
    lines: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        ends = max(other["step"] for other in rows if other["task"] == row["task"])
        if part != "why" or row["step"] == ends:
            place = row["task"] if part == "why" else f"{row['step']:,}"
            lines[row["optimizer"]].append(f"{place} {row['middle']:.3g} (n {row['n']})")
    for name_of, found in lines.items():
        print(f"{name_of:18s}{', '.join(found)}")
