"""The loops of the learners: from a definition to a preset, each gone on from where it was killed.

Evolution needs no checkpoint: its steps follow from the returns in the journal. The other two save one after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import users
from evaluation.files import atomic_path, read_json, write_json
from evaluation.meta import class_task
from evaluation.meta.definition import Definition
from evaluation.meta.particles import Particles
from evaluation.runs import seeding

if TYPE_CHECKING:
    from torch import Tensor

    from asgc.meta import Preset

PATH, CHECKPOINT = "path.json", "checkpoint.pt"
LOST = 10  # steps in a row in which all runs of a task diverge: nothing can be learned from it


@dataclass(frozen=True)
class Step:
    """What is told of a step: `vector` before it, the mean return of each task (`tasks`), higher is better."""

    number: int
    vector: Tensor
    tasks: Mapping[str, float]


Told = Callable[[Step], None]


def preset_of(definition: Definition, vector: Tensor, provenance: Mapping[str, Any] | None = None) -> Preset:
    """What a vector says."""
    from asgc.meta import Preset

    options = {name: value for name, value in definition.options.items() if name != "lr"}
    return Preset.learned(definition.name, definition.rule, options, definition.space, vector, provenance)


def rate_of(definition: Definition, preset: Preset) -> float:
    """The learning rate that goes with it: learned or fixed."""
    return float(definition.options["lr"]) if preset.lr is None else preset.lr


def learn(definition: Definition, folder: Path, particles: Particles | None, told: Told) -> Tensor:
    """Learn to the end, from where the folder is; returns the last vector. `particles`: of evolution.

    Raises:
        UserError: all runs of a task have diverged for `LOST` steps.
    """
    told = _unless_lost(told)
    match definition.learner.name:
        case "evolution":
            assert particles is not None
            return _evolution(definition, particles, told)
        case "persistent":
            return _persistent(definition, folder, told)
    return _unrolled(definition, folder, told)


def _unless_lost(told: Told) -> Told:
    lost: dict[str, int] = {}

    def check(step: Step) -> None:
        told(step)
        for task, value in step.tasks.items():
            lost[task] = 0 if math.isfinite(value) else lost.get(task, 0) + 1
            if lost[task] >= LOST:
                raise UserError(f"task {task}: all runs of the last {LOST} steps have diverged: begin at a lower lr")

    return check


def _strategy(definition: Definition, persistent: bool) -> Any:
    from asgc.meta.evolution import EvolutionStrategy

    how = definition.learner
    start = definition.space.start(definition.start)
    return EvolutionStrategy(start, sigma=how.sigma, pairs=how.pairs, lr=how.lr, seed=how.seed, persistent=persistent)


def _evolution(definition: Definition, particles: Particles, told: Told) -> Tensor:
    import torch

    strategy = _strategy(definition, persistent=False)
    for step in range(definition.learner.steps):
        presets = [preset_of(definition, vector) for vector in strategy.ask()]
        rows = particles.returns(step, presets, [rate_of(definition, one) for one in presets])
        told(Step(step, strategy.mean.clone(), dict(zip(definition.tasks, map(_mean, rows), strict=True))))
        strategy.tell(torch.tensor(rows, dtype=torch.float64))
    mean: Tensor = strategy.mean
    return mean


def _persistent(definition: Definition, folder: Path, told: Told) -> Tensor:
    """Evolution over truncations: a pair's two particles each keep a run of every task.

    All tasks have runs of one length, so that a pair's runs end together; the first ones of different pairs end at
    different times, or all pairs would always see the same part of a run (Vicol et al. 2021, section 5).
    """
    import torch

    how, tasks = definition.learner, _differentiable(definition)
    lengths = {name: task.steps for name, task in tasks.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"tasks have runs of different lengths ({lengths}): the persistent learner needs one length")
    length = next(iter(lengths.values()))
    strategy = _strategy(definition, persistent=True)
    ends = [max(1, length * (pair + 1) // how.pairs) for pair in range(how.pairs)]  # of the runs that go on now
    began = [0] * how.pairs  # how many runs a pair has begun
    runs: dict[tuple[str, int], Any] = {}

    def begin(pair: int) -> None:
        for name, task in tasks.items():
            seeds = _seeds(definition, name, pair, began[pair])
            for particle in (pair, pair + how.pairs):
                runs[name, particle] = _begin(definition, name, task, seeds)
        began[pair] += 1

    for pair in range(how.pairs):
        begin(pair)
    saved = _load(folder)
    first = 0
    if saved is not None:
        first, ends, began = saved["step"], saved["ends"], saved["began"]
        strategy.load_state_dict(saved["strategy"])
        for key, run in runs.items():
            run.load_state_dict(saved["runs"][f"{key[0]}/{key[1]}"])
    for step in range(first, how.steps):
        particles = strategy.ask()
        rows = torch.empty(len(tasks), 2 * how.pairs, dtype=torch.float64)
        for row, name in enumerate(tasks):
            for number, vector in enumerate(particles):
                run = runs[name, number]
                count = min(how.truncation, ends[number % how.pairs] - run.step)
                with users(f"task {name}"):
                    # A sum over its steps: the last piece of a run counts for as much as it is long.
                    rows[row, number] = -run.truncation(vector, count, gradient=False)[0] * count / how.truncation
        told(Step(step, strategy.mean.clone(), dict(zip(tasks, map(_mean, rows.tolist()), strict=True))))
        over = [runs[next(iter(tasks)), pair].step >= ends[pair] for pair in range(how.pairs)]
        strategy.tell(rows, torch.tensor(over))
        for pair in range(how.pairs):
            if over[pair]:
                ends[pair] = length
                begin(pair)
        states = {f"{name}/{number}": run.state_dict() for (name, number), run in runs.items()}
        state = {"step": step + 1, "ends": ends, "began": began, "strategy": strategy.state_dict(), "runs": states}
        _save(folder, state)
    mean: Tensor = strategy.mean
    return mean


def _unrolled(definition: Definition, folder: Path, told: Told) -> Tensor:
    """Descent along derivatives of each truncation; a task's are divided by a running size of theirs, so that one with
    a large loss counts no more than the others."""
    import torch

    from asgc.meta.evolution import LARGEST, running_size

    how, tasks = definition.learner, _differentiable(definition)
    vector = definition.space.start(definition.start)
    adam = torch.optim.Adam([vector], lr=how.lr)
    began = dict.fromkeys(tasks, 1)
    sizes: dict[str, Tensor] = {}
    runs = {name: _begin(definition, name, task, _seeds(definition, name, 0, 0)) for name, task in tasks.items()}
    first = 0
    if (saved := _load(folder)) is not None:
        first, began, sizes = saved["step"], saved["began"], saved["sizes"]
        vector.copy_(saved["vector"])
        adam.load_state_dict(saved["adam"])
        for name, run in runs.items():
            run.load_state_dict(saved["runs"][name])
    for step in range(first, how.steps):
        total, returns = torch.zeros_like(vector), dict[str, float]()
        for name, task in tasks.items():
            with users(f"task {name}"):
                loss, gradient = runs[name].truncation(vector, how.truncation)
            returns[name] = -float(loss)
            assert gradient is not None
            size = gradient.square().mean().sqrt()
            finite = bool(torch.isfinite(size))
            if finite and size > 0:
                sizes[name] = running_size(sizes.get(name, torch.zeros_like(size)), size)
                total += gradient / torch.maximum(sizes[name], size / LARGEST) / len(tasks)
            if runs[name].done or not finite:
                runs[name] = _begin(definition, name, task, _seeds(definition, name, 0, began[name]))
                began[name] += 1
        told(Step(step, vector.clone(), returns))
        vector.grad = total
        adam.step()
        states = {name: run.state_dict() for name, run in runs.items()}
        made = {"step": step + 1, "began": began, "sizes": sizes, "vector": vector.detach().clone()}
        _save(folder, {**made, "adam": adam.state_dict(), "runs": states})
    return vector.detach()


def _differentiable(definition: Definition) -> dict[str, Any]:
    tasks = {}
    for name, entry in definition.tasks.items():
        tasks[name] = class_task.make(entry.cls, entry.options, f"tasks.{name}.class")
        if not class_task.is_differentiable(tasks[name]):
            needs = "steps, start, batch and loss"
            raise UserError(f"tasks.{name}.class {entry.cls}: {definition.learner.name} needs {needs}")
    return tasks


def _seeds(definition: Definition, task: str, pair: int, number: int) -> list[int]:
    how = definition.learner
    return [seeding.derive(how.seed, "unrolled", task, pair, number, run) % (1 << 31) for run in range(how.runs)]


def _begin(definition: Definition, name: str, task: Any, seeds: list[int]) -> Any:
    from asgc import functional
    from asgc.meta.unrolled import Unrolled

    options = {"lr": definition.start.get("lr"), **definition.options}
    with users(f"task {name}"):
        return Unrolled(task, definition.space, functional.options(definition.rule, **options), seeds)


def _load(folder: Path) -> Any:
    import torch

    file = folder / CHECKPOINT
    if not file.is_file():
        return None
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise UserError(f"{file} is damaged: remove it to begin again") from error


def _save(folder: Path, state: Mapping[str, Any]) -> None:
    import torch

    with atomic_path(folder / CHECKPOINT) as path:
        torch.save(dict(state), path)


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def read_path(folder: Path) -> list[dict[str, Any]]:
    """What `PathFile` has written; [] before the first step.

    Raises:
        UserError: it is damaged.
    """
    file = folder / PATH
    try:
        steps = list(read_json(file)) if file.is_file() else []
        if not all(isinstance(step, dict) and {"step", "values", "returns"} <= step.keys() for step in steps):
            raise ValueError
        return steps
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged: remove it, asgc-meta learn makes it anew") from error


class PathFile:
    """The way of the vector over the steps, in a file for plots: a list of steps with their options by kind of layer,
    at the start of training (and its end), and the mean returns."""

    def __init__(self, definition: Definition, folder: Path) -> None:
        self._definition, self._file = definition, folder / PATH
        self.steps = read_path(folder)

    def add(self, step: Step) -> None:
        """A step; one that is there already (a learning that goes on) takes its place."""
        preset = preset_of(self._definition, step.vector)
        row = {"step": step.number, "values": dict(preset.values), "late": dict(preset.late), "lr": preset.lr}
        self.steps = [*self.steps[: step.number], {**row, "returns": dict(step.tasks)}]
        write_json(self._file, self.steps)
