"""The rules of configs/studies/mechanism.yaml, applied to stage 1: what goes on to stage 2.

python results/mechanism/rules.py [STUDY]

Written before any of the results was looked at.
"""

import sys
from collections import defaultdict
from pathlib import Path

from evaluation.analysis.comparisons.acting import Acting, acting
from evaluation.analysis.comparisons.single_setting import single_setting
from evaluation.analysis.data import dataset

PART, METRIC = "stage-1", "auc"
KIN_OF_SGD = ("sgd+clip", "obgd", "asgc-sgd", "asgc-ceiling-sgd")
CLIPS = ("adam+clip", "radam+clip", "sgd+clip", "agc-adam", "asgc-norm", "asgc-element", "asgc-sgd")  # recorded
BASELINES = ("adam", "adam+clip", "radam+clip", "sgd+clip", "agc-adam", "adopt")
SHARE, CHANGE, ARENAS, SURVIVORS, BESIDE = 0.01, 0.05, 2, 3, 2


def acts(row: Acting) -> bool:
    """Rule 1, of one arena."""
    if row.optimizer.name in CLIPS:
        return row.clipped >= SHARE
    return abs(row.step - 1) > CHANGE


with dataset.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) as data:
    beside = {name: acting(data, PART, baseline=name, metric=METRIC) for name in ("adam", "sgd+clip")}
    losses = {row.optimizer.name: row for row in single_setting(data, PART, metric=METRIC)}
arenas: dict[str, list[Acting]] = defaultdict(list)
for name, table in beside.items():
    for row in table:
        if (row.optimizer.name in KIN_OF_SGD) == (name == "sgd+clip"):
            arenas[row.optimizer.name].append(row)

print("method               acts in  ahead in  behind in  loss of one setting     tuned on each  that setting")
kept = []
for name, loss in sorted(losses.items(), key=lambda item: item[1].single.value):
    rows = arenas[name]
    acting_in, ahead_in, behind_in = (
        sum(map(of, rows)) for of in (acts, lambda row: row.ahead > 0, lambda row: row.behind > 0)
    )
    single = loss.single
    reasons = [
        *(["acts nowhere"] if not acting_in else []),
        *(["not ahead"] if ahead_in < ARENAS else []),
        *(["one setting loses more than adam+clip's"] if single.value > losses["adam+clip"].single.value else []),
    ]
    role = "baseline" if name in BASELINES else f"dropped: {', '.join(reasons)}" if reasons else "stays"
    if role == "stays":
        kept.append(name)
    ends = f"{single.value:.3f} [{single.low:.3f}, {single.high:.3f}]"
    counts = f"{acting_in} of {len(rows)}   {ahead_in} of {len(rows)}    {behind_in} of {len(rows)}"
    print(f"{name:20s} {counts:29s} {ends:23s} {loss.own.value:.3f}          {loss.options}; {role}")
best = sorted(BASELINES, key=lambda name: losses[name].single.value)[:BESIDE]
print(f"\nto stage 2: {', '.join(kept[:SURVIVORS]) or 'none'}; beside: {', '.join(best)}")
