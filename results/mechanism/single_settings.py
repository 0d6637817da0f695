"""Rules 4 and 5 of configs/studies/mechanism.yaml: does a mechanism's single setting lose less than every baseline's?

python results/mechanism/single_settings.py 4|5 [STUDY] [--part stage-2]

Rule 4 was written before a result of stage 2 was looked at, rule 5 (stage 3) before its runs. Over the arenas of both
parts (of a pair those that both have), mean scores over the run in units of the arenas' references. Where the rules
leave something open: p is that of the stratified rank test; Holm's adjustment and the intervals of the mean difference
are over all pairs of a mechanism with a baseline.
"""

import argparse
from pathlib import Path

import numpy as np

from evaluation.analysis.comparisons.claims import interval
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.comparisons.verdicts import Verdict, contrast, judge
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.stats.aggregate import mean
from evaluation.analysis.stats.bootstrap import Bootstrap
from evaluation.cli.errors import UserError

PARTS = {4: ("stage-2", "atari"), 5: ("stage-3", "atari")}
MECHANISMS = {
    4: ("asgc-ceiling", "asgc-eps", "asgc-ceiling-sgd"),
    5: ("asgc-norm", "asgc-norm-ceiling", "asgc-element-ceiling"),
}
BESIDE = {4: (), 5: ("asgc-ceiling",)}  # in the table only
BASELINES = ("adopt", "agc-adam", "adam+clip", "sgd+clip")
SEEDS, METRIC = 10, "auc"

parser = argparse.ArgumentParser()
parser.add_argument("rule", type=int, choices=PARTS)
parser.add_argument("study", nargs="?", default=Path(__file__).parent)
parser.add_argument("--part", action="append", help="one of the two alone: a look, not the rule")
chosen = parser.parse_args()
parts = chosen.part or PARTS[chosen.rule]
tested = MECHANISMS[chosen.rule]
with dataset.load(chosen.study) as data:
    try:
        selections = {part: select(data, part, METRIC) for part in parts}
    except UserError as error:
        raise SystemExit(f"not finished: {error}") from error
    wanted = {part: data.part_definition(part) for part in parts}
scores: dict[tuple[str, Cell], dict[Method, np.ndarray]] = {}
for part, selection in selections.items():
    for cell, by_method in selection.cells.items():
        scores[part, cell] = {method: selection.normalized(cell, method) for method in by_method}
    missing = [
        f"{part}/{task}/{name}"
        for task in wanted[part]["tasks"]
        for name in wanted[part]["optimizers"]
        if scores.get((part, Cell(task, "default")), {}).get(Method(name), np.array([])).size < SEEDS
    ]
    if missing:
        raise SystemExit(f"not finished: {len(missing)} of {part}, such as {missing[0]}")


def matrix(name: str, beside: str) -> np.ndarray:
    """(R, T) of the arenas that both have."""
    both = (found for found in scores.values() if Method(name) in found and Method(beside) in found)
    return np.stack([found[Method(name)] for found in both], axis=1)


there = {method for found in scores.values() for method in found}
names = [name for name in (*BASELINES, *tested, *BESIDE[chosen.rule]) if Method(name) in there]
print(f"{'mean score':22s}" + "".join(f"{name:>22s}" for name in names))
for (_, cell), by_method in scores.items():
    means = {method.name: f"{values.mean():.3f}" for method, values in by_method.items()}
    print(f"{cell.task:22s}" + "".join(f"{means.get(name, ''):>22s}" for name in names))
for name in names:
    print(
        f"{name}: {interval(Bootstrap().estimate(mean, matrix(name, name)))} over {matrix(name, name).shape[1]} arenas"
    )
how, pairs = Bootstrap(), [(one, other) for one in tested for other in BASELINES]
found = [contrast(matrix(*pair), matrix(*pair[::-1]), how, mean) for pair in pairs]
won = dict.fromkeys(tested, True)
print(f"\n{'mean score less that of':37s}{'difference':>26s}{'P(better)':>22s}  Holm p  arenas")
for (one, other), row in zip(pairs, judge(found, how), strict=True):
    better = row.verdict == Verdict.BETTER and row.difference.low > 0
    worse = row.verdict == Verdict.WORSE and row.difference.high < 0
    won[one] = won[one] and better
    said = "better" if better else "worse" if worse else "no difference shown"
    numbers = f"{interval(row.difference):>26s}{interval(row.improvement):>22s}  {row.p_holm:<6.2g}"
    print(f"{one:20s} - {other:14s}{numbers}  {matrix(one, other).shape[1]}: {said}")
winners = [name for name in won if won[name]]
print(f"\nrule {chosen.rule}: " + (f"success of {', '.join(winners)}" if winners else "a loss"))
