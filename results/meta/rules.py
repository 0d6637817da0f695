"""Rules 2 and 4 of configs/studies/meta.yaml: does the learned preset beat every baseline's single setting on held-out
tasks, and does online adaptation gain anything?

python results/meta/rules.py [STUDY]

Written before a run of the part held-out. Mean scores over the run, in units of the tasks' references. Rule 4's three
pairs: adaptation and what it starts from (ASGC's defaults, its grid's single setting, the preset).
"""

import sys
from pathlib import Path

import numpy as np

from evaluation.analysis.comparisons.claims import interval, number
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.comparisons.verdicts import Judged, contrast, judge
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import Method
from evaluation.analysis.stats.aggregate import interquartile_mean, mean
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError

PART, METRIC, PRESET, SEEDS = "held-out", "auc", "asgc-preset", 10
RIVALS = [f"{name}-single" for name in ("sgd", "adam", "rmsprop", "adagrad", "radam", "agc", "asgc")]
ADAPTED = {"asgc-adapt": "asgc", "asgc-adapt-single": "asgc-single", "asgc-adapt-preset": PRESET}

with dataset.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "study") as data:
    try:
        selection = select(data, PART, METRIC)
    except UserError as error:
        raise SystemExit(f"not finished: {error}") from error
    wanted, names = data.part_definition(PART)["tasks"], [*data.definition["optimizers"]]
cells, how = list(selection.cells), Bootstrap()
missing = [
    f"{name} on {cell.task}"
    for name in names
    for cell in cells
    if selection.cells[cell].get(Method(name), np.array([])).size < SEEDS
]
if missing or {cell.task for cell in cells} != set(wanted):
    raise SystemExit(f"not finished: {len(missing)} of {PART}, such as {(missing or ['a task'])[0]}")
scores = {name: selection.matrix(cells, Method(name)) for name in names}

print(f"{'':20s}{'mean':>26s}{'interquartile mean':>26s}" + "".join(f"{cell.task:>15s}" for cell in cells))
for name in sorted(names, key=lambda name: -scores[name].mean()):
    middle, iqm = (interval(how.estimate(statistic, scores[name])) for statistic in (mean, interquartile_mean))
    by_task = "".join(f"{number(value):>15s}" for value in scores[name].mean(axis=0))
    print(f"{name:20s}{middle:>26s}{iqm:>26s}{by_task}")


def compare(pairs: list[tuple[str, str]]) -> list[Judged]:
    """Each first beside its second, adjusted together."""
    found = judge([contrast(scores[one], scores[other], how) for one, other in pairs], how)
    print(f"\n{'':38s}{'difference of IQM':>26s}{'P(better)':>22s}  Holm p")
    for (one, other), row in zip(pairs, found, strict=True):
        numbers = f"{interval(row.difference):>26s}{interval(row.improvement):>22s}  {row.p_holm:.2g}"
        print(f"{one + ' against ' + other:38s}{numbers}: {row.verdict}")
    return found


def ahead(row: Judged) -> bool:
    """As the rules have it."""
    return row.p_holm < 0.05 and row.improvement.value > 0.5


rule_2 = compare([(PRESET, rival) for rival in RIVALS])
print("rule 2:", "success" if all(map(ahead, rule_2)) else "a loss")
rule_4 = compare([*ADAPTED.items()])
print("rule 4: adaptation", "stays" if any(map(ahead, rule_4)) else "is removed")
