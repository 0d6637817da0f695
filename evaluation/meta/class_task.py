"""Tasks by class path: what a class must have, and its run with an optimizer, as a program of its own.

    class Digits:
        def __init__(self, hidden=32): ...
        def run(self, build, seed) -> float: ...        # train; what comes back is better the higher it is

`build(params)` makes the optimizer that is tried, of parameters or named ones; where options change with the share of
training that is done (`by_share`), `run` calls its `follow_preset(share)` before each step. A class whose loss is
differentiable (`asgc.meta.unrolled.DifferentiableTask`) needs no `run`: it counts by its mean loss, negative.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.user_code import load, users
from evaluation.cli.values import PathText
from evaluation.files import write_json
from evaluation.runs.run_folder import SUMMARY

if TYPE_CHECKING:
    from asgc import ASGC
    from asgc.meta import Preset

_DIFFERENTIABLE = ("steps", "start", "batch", "loss")


def make(cls: str, options: Mapping[str, Any], where: str) -> Any:
    """A task; `where`: its place in the definition, for errors.

    Raises:
        UserError: it cannot be imported or made, or lacks what a task has.
    """
    found = load(cls, where)
    with users(f"{where} {cls}"):
        task = found(**options)
    if not hasattr(task, "run") and (missing := [name for name in _DIFFERENTIABLE if not hasattr(task, name)]):
        raise UserError(f"{where} {cls}: has neither run nor {', '.join(missing)}: it is no task")
    return task


def is_differentiable(task: Any) -> bool:
    """Whether it has what `asgc.meta.unrolled` needs."""
    return all(hasattr(task, name) for name in _DIFFERENTIABLE)


def run(task: Any, preset: Preset, lr: float, seed: int) -> float:
    """Train once with a preset: NaN where that diverges."""
    from asgc import ASGC

    def build(params: Any) -> ASGC:
        return ASGC.from_preset(params, preset, lr, seed=seed & 0xFFFFFFFF)

    return float(task.run(build, seed)) if hasattr(task, "run") else -_mean_loss(task, build, seed)


def _mean_loss(task: Any, build: Callable[[Any], ASGC], seed: int) -> float:
    params = {name: value.detach().clone().requires_grad_() for name, value in task.start(seed).items()}
    optimizer = build(list(params.items()))
    total = 0.0
    for step in range(task.steps):
        optimizer.follow_preset(step / max(1, task.steps))
        optimizer.zero_grad()
        loss = task.loss(params, *task.batch(step, seed))
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
        if not math.isfinite(total):
            return math.nan
    return total / task.steps


def train_command(argv: Sequence[str]) -> int:
    """`asgc-meta train`, which a worker is told to do: one run of a class, its result a summary.json."""
    from asgc.meta import Preset

    flags = Flags("asgc-meta train", "[options]", "One run of a task by class path.")
    for name, hint in (("--run-dir", PathText), ("--class", str), ("--options", str), ("--preset", PathText)):
        flags.option("general", name, hint, "", "see asgc-meta learn")
    flags.option("general", "--lr", float, 0.0, "learning rate")
    flags.option("general", "--seed", int, 0, "of the run")
    options = vars(flags.read(argv)[0])
    task = make(options["class"], json.loads(options["options"]), "--class")
    preset = Preset.load(Path(options["preset"]))
    with users(f"--class {options['class']}"):
        value = run(task, preset, options["lr"], options["seed"])
    folder = Path(options["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, {"auc": value, "final": value})
    return 0
