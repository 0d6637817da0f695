"""What one setting for all costs on new seeds: each method's single setting beside its own tuning.

python results/mechanism/cost_of_one.py [STUDY]

Parts stage-2 and stage-2-tuned of configs/studies/mechanism.yaml: both chosen by seeds 1 to 3, both on seeds 101 to
110. Mean scores over the run, in units of the references. No rule of the study: a look at what stage 1 estimated.
"""

import sys
from pathlib import Path

from evaluation.analysis.comparisons.claims import interval
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.data import dataset
from evaluation.analysis.stats.aggregate import mean
from evaluation.analysis.stats.bootstrap import Bootstrap

with dataset.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) as data:
    single, tuned = (select(data, part, "auc") for part in ("stage-2", "stage-2-tuned"))
cells = list(tuned.cells)
how = Bootstrap()
print(f"{'':20s}{'single':>26s}{'tuned':>26s}{'cost':>26s}")
for method in tuned.methods:
    one, own = single.matrix(cells, method), tuned.matrix(cells, method)
    values = [how.estimate(mean, one), how.estimate(mean, own), how.difference(mean, own, one)]
    print(f"{method.name:20s}" + "".join(f"{interval(value):>26s}" for value in values))
