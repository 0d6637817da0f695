"""The rules of configs/studies/mechanism.yaml, applied to stage 1: what goes on to stage 2.

python results/mechanism/rules.py [STUDY]

Written before any of the results was looked at. Where the rules leave something open: one rate of the four at which a
method is ahead is enough in an arena; of thresholds of elements and of units (asgc-element, agc-adam) the share clipped
is that of elements and units, not of steps; of divgrad and gradient-stabilizer, which rescale every step, the effective
step tells.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path

from evaluation.analysis.comparisons.acting import Acting, acting
from evaluation.analysis.comparisons.single_setting import single_setting
from evaluation.analysis.data import dataset

PART, METRIC = "stage-1", "auc"
KIN_OF_SGD = ("sgd+clip", "obgd", "asgc-sgd", "asgc-ceiling-sgd")
# Whose clip is recorded.
CLIPS = ("adam+clip", "radam+clip", "sgd+clip", "agc-adam", "obgd", "asgc-norm", "asgc-element", "asgc-sgd")
BASELINES = ("adam", "adam+clip", "radam+clip", "sgd+clip", "agc-adam", "adopt")
SHARE, CHANGE, ARENAS, SURVIVORS, BESIDE = 0.01, 1.05, 2, 3, 2


def acts(row: Acting) -> bool:
    """Rule 1, of one arena."""
    told = row.clipped if row.optimizer.name in CLIPS else row.step
    if math.isnan(told):
        raise SystemExit(f"{row.optimizer} on {row.cell}: nothing recorded that tells whether it acts")
    return told >= SHARE if row.optimizer.name in CLIPS else abs(math.log(told)) > math.log(CHANGE)


with dataset.load(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) as data:
    beside = {name: acting(data, PART, baseline=name, metric=METRIC) for name in ("adam", "sgd+clip")}
    singles = single_setting(data, PART, metric=METRIC)
    losses = {row.optimizer.name: row for row in singles}
    definition = data.part_definition(PART)
    tasks, methods = set(definition["tasks"]), set(definition.get("optimizers") or data.definition["optimizers"])
    print(*data.left_out(), *(table.note for table in (*beside.values(), singles)), "", sep="\n")
arenas: dict[str, list[Acting]] = defaultdict(list)
for name, table in beside.items():
    for row in table:
        if (row.optimizer.name in KIN_OF_SGD) == (name == "sgd+clip"):
            arenas[row.optimizer.name].append(row)
if set(losses) != methods or any({row.cell.task for row in arenas[name]} != tasks for name in methods):
    raise SystemExit(f"not finished: {PART} needs every method on every task")

print("method               acts in  ahead in  behind in  loss of one setting     tuned on each  that setting")
kept = []
for name, loss in sorted(losses.items(), key=lambda item: item[1].single.value):
    rows, single = arenas[name], loss.single
    acting_in = [row.cell.task for row in rows if acts(row)]
    ahead_in = [row.cell.task for row in rows if row.ahead]
    behind_in = [row.cell.task for row in rows if row.behind]
    reasons = [
        *(["acts nowhere"] if not acting_in else []),
        *([f"ahead in {len(ahead_in)}"] if len(ahead_in) < ARENAS else []),
        *(["one setting loses more than adam+clip's"] if single.value > losses["adam+clip"].single.value else []),
    ]
    role = "baseline" if name in BASELINES else f"dropped: {', '.join(reasons)}" if reasons else "stays"
    if role == "stays":
        kept.append(name)
    counts = "         ".join(f"{len(some)}" for some in (acting_in, ahead_in, behind_in))
    ends = f"{single.value:.3f} [{single.low:.3f}, {single.high:.3f}]"
    print(f"{name:20s} {counts:28s} {ends:23s} {loss.own.value:.3f}          {loss.options}; {role}")
best = sorted(BASELINES, key=lambda name: losses[name].single.value)[:BESIDE]
print(f"\nto stage 2: {', '.join(kept[:SURVIVORS]) or 'none'}; beside: {', '.join(best)}")
