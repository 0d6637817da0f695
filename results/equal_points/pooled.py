"""ASGC on Adam against Adam at equal learning rate and eps, both points of each task together.

python results/equal_points/pooled.py [final|auc]
"""

import sys
from pathlib import Path

import numpy as np

from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.data import dataset
from evaluation.analysis.data.normalization import normalize, reference
from evaluation.analysis.data.run_key import Method
from evaluation.analysis.stats.aggregate import interquartile_mean, probability_of_improvement
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.analysis.stats.multiple import rank_test

POINTS = {"at Adam's": ("asgc-at-adam", "adam"), "at ASGC's": ("asgc", "adam-at-asgc")}

with dataset.load(Path(__file__).parent) as data:
    found = {part: select(data, part, *sys.argv[1:]) for part in ("plain", "unclipped-mse", "fast-target")}
for part, selection in found.items():
    every = [(cell, point) for cell in selection.cells for point in POINTS]
    rows = {"both points": every} | {name: [one for one in every if one[1] == name] for name in POINTS}
    rows |= {f"{cell.task}, {point}": [(cell, point)] for cell, point in every}
    for name, some in rows.items():
        x, y = (
            np.stack([normalize(selection.cells[c][Method(POINTS[p][i])], reference(c.task)) for c, p in some], axis=1)
            for i in (0, 1)
        )
        difference = Bootstrap().difference(interquartile_mean, x, y)
        improvement = probability_of_improvement(x, y)
        ends = f"{difference.value:+.3f} [{difference.low:.3f}, {difference.high:.3f}]"
        print(f"{part:14s} {name:23s} {ends:24s} P(better) {improvement:.2f}  p {rank_test(x, y):.2g}")
