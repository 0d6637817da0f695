"""The definition of a study: one YAML file, checked whole, all faults reported together.

    name: control                       # default: the file's name
    question: Does ... ?                # written down before anything runs
    program: asgc-rl                    # runs are `asgc-rl train OPTIONS`
    programs: {digits: asgc-sup}        # those of some tasks are another program's
    options: {total_steps: 40_000}      # of every run
    tasks: {CartPole: {game: CartPole}, Acrobot: {game: Acrobot}}
    settings: {plain: {}, mse: {loss: mse}}
    optimizers: {adam: {optimizer.name: adam}, asgc: {optimizer: {name: asgc, rule: adam}}}
    seconds: {CartPole: 12}             # what a run costs, for --dry-run, until one has finished
    references: {CartPole: [20, 500]}   # scores that count as 0 and 1, where none are published
    plain: {adam: {optimizer.eps: 1e-8}}  # what grids are compared with at equal rate, and how it is but its rule
    parts:
      tuning:     {kind: search, settings: [plain], trials: 16, seeds: [1, 2],
                   space: {optimizer.lr: {low: 1e-5, high: 1}}}
      comparison: {kind: compare, tuned: tuning, seeds: 101-110}

A definition with a single part may write the part's keys at the top instead of `parts`. Later layers win: options,
task, setting, optimizer, the part's options, values of a task and optimizer (`given`, or tuned ones: `tuned`), the
variant (grid cell, draw, ablation, trial).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.cli.config_file import SHIPPED, find_definition, read_yaml
from evaluation.cli.errors import UserError
from evaluation.cli.values import number
from evaluation.files import folder_name
from evaluation.study import space
from evaluation.study.entry import Entry
from evaluation.study.space import Dimension, read_space
from evaluation.study.tuned import Tuned, check_tuned, read_tuned

Options = dict[str, Any]

KINDS = ("compare", "search", "grid", "robustness", "ablation")
DEFINITION, INDEX, FAILED, SEARCH_DB, LOCK, LOGS, ARCHIVES = (  # in the study folder, beside those of the parts
    RESERVED := ("study.yaml", "runs.jsonl", "failed.json", "search.db", "lock", "logs", "archives")
)
OBJECTIVES = ("final", "auc")
RUNS = Path("runs")  # where studies are run
SAMPLERS = ("tpe", "random", "grid")
STARTUP = 8  # trials spread evenly where nothing else is said; not made from `trials`, so that some can be added later
DEFAULT = "default"  # the name of the one setting or variant where there are no others
NAMES = ("name", "question", "note", "tasks", "settings", "optimizers", "tuned", "tuned_setting")  # also 010 and null
_TOP = (
    *("name", "question", "budget", "program", "programs", "options", "tasks", "settings", "optimizers"),
    *("seconds", "near", "references", "plain", "parts"),
)
_PART = (
    *("kind", "tasks", "settings", "optimizers", "seeds", "options", "given", "note"),
    *("tuned", "tuned_setting", "tuned_tasks"),
)
_OF_KIND = {
    "compare": (),
    "search": ("trials", "startup", "batch", "objective", "sampler", "space"),
    "grid": ("values", "multiply"),
    "robustness": ("draws", "space"),
    "ablation": ("variants",),
}


class StudyFaults(UserError):
    """All that is wrong with a definition, one line each."""

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        super().__init__(where)
        self.faults = tuple(dict.fromkeys(faults))

    def __str__(self) -> str:
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        return "\n".join([f"{super().__str__()}: {count}, nothing was run", *(f"  {fault}" for fault in self.faults)])


@dataclass(frozen=True)
class Part:
    """One experiment of a study; see the module for the keys. `tasks`, `settings` and `optimizers` are names."""

    name: str
    kind: str
    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    options: Options = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)  # by task and optimizer
    note: str = ""  # what this part is to show
    tuned: Mapping[str, Tuned] = field(default_factory=dict)  # by optimizer: the search whose best values it takes
    trials: int = 0  # search: for each optimizer the same number
    startup: int = 0  # search: trials spread evenly before the sampler learns from results
    batch: int = 1  # search: trials proposed together, from the results of the batches before
    objective: str = "final"
    sampler: str = "tpe"
    space: tuple[Dimension, ...] = ()  # search, robustness
    draws: int = 0  # robustness
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # grid
    multiply: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # grid, relative to the layers below
    variants: Mapping[str, Options] = field(default_factory=dict)  # ablation

    @property
    def purpose(self) -> str:
        """ "tune" for runs that choose hyperparameters, "test" for runs that are reported."""
        return "tune" if self.kind == "search" else "test"


@dataclass(frozen=True)
class Study:
    """A checked definition; `definition` is the file's mapping as it was read."""

    name: str
    question: str
    programs: Mapping[str, tuple[str, ...]]  # by task
    options: Options
    tasks: Mapping[str, Options]
    settings: Mapping[str, Options]
    optimizers: Mapping[str, Options]
    seconds: Mapping[str, float]
    references: Mapping[str, tuple[float, float]]  # of some tasks: the scores that count as 0 and 1
    parts: Mapping[str, Part]
    definition: Mapping[str, Any]


def find(name: str) -> Path:
    """The file of a study: a path, the name of one of the toolkit's own (`configs/studies/NAME.yaml`), or that of one
    that has been run (runs/NAME)."""
    return find_definition(name, "study file", SHIPPED / "studies", DEFINITION, RUNS)


def default_folder(name: str) -> Path:
    """Where the study of this file, shipped name or study folder is run, unless --dir says otherwise."""
    file = find(name)
    if file.name == DEFINITION and (file.parent == Path(name) or (file.parent / INDEX).is_file()):
        return file.parent
    return RUNS / folder_name(str(read_yaml(file, "the study ", NAMES).get("name", file.stem)))


def results(name: str, single: bool = False) -> Path:
    """The folder that `asgc-eval compare NAME` and its like read: a folder as it is, else that of a study that was run
    under its default name. `UserError`: a run's, unless it may be a `single` one."""
    path = Path(name)
    if not single and (path / "config.yaml").is_file():
        raise UserError(f"{path} is a single run: asgc-eval plot {path} draws it; or name the folder that it lies in")
    if path.is_dir() or (path.exists() and path.suffix not in (".yaml", ".yml")):
        return path
    try:
        folder = default_folder(name)
    except UserError:
        if path.exists():
            raise
        return path  # the reader of folders says that there is none
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; asgc-eval study run {name} makes it, or name the study's folder")
    return folder


def load(path: Path) -> Study:
    """Read and check a definition.

    Raises:
        UserError: the file cannot be read or is no YAML.
        StudyFaults: what is wrong in it, all of it.
    """
    values = read_yaml(path, "the study ", NAMES)
    return parse(values, name=path.stem if path.name != DEFINITION else path.resolve().parent.name, where=str(path))


def parse(values: Mapping[str, Any], *, name: str, where: str) -> Study:
    """A definition from its mapping; `name` is the study's where it gives none, `where` is named in errors."""
    entry = Entry(values)
    single = "parts" not in values
    of_parts = {*_PART, *(key for keys in _OF_KIND.values() for key in keys)} - set(_TOP) if single else set()
    entry.known((*_TOP, *sorted(of_parts)))
    entry.name("name", name := str(values.get("name", name)))
    layers = {key: entry.layers(key) for key in ("tasks", "settings", "optimizers")}
    layers["settings"] = layers["settings"] or {DEFAULT: {}}
    for key in ("tasks", "optimizers"):
        if not layers[key]:
            entry.fault(key, ": is missing: name at least one")
    if single:
        own = {key: value for key, value in values.items() if key in of_parts}
        given = {entry.name("kind", str(values.get("kind", "compare"))): Entry(own, faults=entry.faults)}
    else:
        child = entry.child("parts")
        entry.apart("parts", map(str, child.values))
        given = {child.name(str(part), str(part)): child.child(part) for part in child.values}
    references = _references(entry, layers["tasks"])
    parts: dict[str, Part] = {}
    for part_name, item in given.items():
        if part_name.casefold() in RESERVED:
            entry.faults.append(f"{item.where}: the study folder has a file of that name; choose another")
        part = _part(part_name, item, layers, parts, references)
        if part is not None:
            parts[part_name] = part
    _seeds_apart(parts, entry.faults)
    seconds = entry.numbers("seconds", layers["tasks"], "a number of seconds for one of the tasks")
    entry.numbers("near", layers["tasks"], "a difference of scores for one of the tasks")  # read by `usable_range`
    for optimizer, options in entry.layers("plain").items():  # read by `acting`
        if optimizer not in layers["optimizers"] or not options:
            entry.fault(f"plain.{optimizer}", ": must be one of the optimizers, with at least one option")
    programs = dict.fromkeys(layers["tasks"], _program(entry, "program", values.get("program", "asgc-rl")))
    of_some = entry.child("programs")
    for task, value in of_some.values.items():
        if task not in layers["tasks"]:
            of_some.fault(task, ": must be one of the tasks")
        programs[task] = _program(of_some, task, value)
    study = Study(
        name=name,
        question=" ".join(str(values.get("question", "")).split()),
        programs=programs,
        options=entry.options("options"),
        **layers,
        seconds=seconds,
        references=references,
        parts=parts,
        definition=dict(values),
    )
    if entry.faults:
        raise StudyFaults(where, entry.faults)
    return study


def _program(entry: Entry, key: str, value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) and word for word in words):
        entry.fault(f"{key} {value!r}", ": must be a command, or a list of its words")
    return tuple(map(str, words))


def _references(entry: Entry, tasks: Mapping[str, Options]) -> dict[str, tuple[float, float]]:
    """Also read by `Dataset.reference`."""
    child, found = entry.child("references"), {}
    for task, given in child.values.items():
        ends = [number(end) for end in given] if isinstance(given, list) else []
        known = len(ends) == 2 and all(isinstance(end, int | float) and math.isfinite(end) for end in ends)
        if task not in tasks or not known or not ends[0] < ends[1]:
            child.fault(task, ": must be two scores, [the one that counts as 0, the one that counts as 1], of a task")
        else:
            found[str(task)] = ends[0], ends[1]
    return found


def _part(
    name: str,
    item: Entry,
    layers: Mapping[str, Mapping[str, Options]],
    before: Mapping[str, Part],
    references: Container[str],
) -> Part | None:
    kind = item.word("kind", KINDS)
    if not kind:
        return None
    item.known((*_PART, *_OF_KIND[kind]))
    chosen = {key: item.choice(key, tuple(known)) for key, known in layers.items()}
    part = Part(
        name=name,
        kind=kind,
        **chosen,
        seeds=item.seeds("seeds"),
        options=item.options("options"),
        given=_given(item.child("given"), layers),
        note=" ".join(str(item.values.get("note", "")).split()),
        tuned=read_tuned(item, chosen["optimizers"] or tuple(layers["optimizers"])),
        trials=item.count("trials", None if kind == "search" else 0),
        startup=item.count("startup", STARTUP),
        batch=item.count("batch", 1),
        # "curve" is its name in definitions of earlier versions.
        objective="auc" if item.values.get("objective") == "curve" else item.word("objective", OBJECTIVES),
        sampler=item.word("sampler", SAMPLERS),
        space=read_space(item, "space", tuple(layers["optimizers"])),
        draws=item.count("draws", None if kind == "robustness" else 0),
        values=dict(item.lists("values")),
        multiply=dict(item.lists("multiply")),
        variants=item.layers("variants"),
    )
    for key, factors in part.multiply.items():
        if not all(isinstance(factor, int | float) for factor in factors):
            item.fault(f"multiply.{key}", ": must be a list of factors")
    needed = {"search": "space", "robustness": "space", "ablation": "variants"}.get(kind)
    if needed and not item.values.get(needed):
        item.fault(needed, f": is missing, and {kind} needs it")
    if kind == "grid" and not (part.values or part.multiply):
        item.fault("values", ": give `values` or `multiply`, lists of what an option takes in turn")
    check_tuned(part, item, before, references)
    if part.sampler == "grid":
        _check_grid(part, item)
    return part


def _given(item: Entry, layers: Mapping[str, Mapping[str, Options]]) -> dict[str, dict[str, Options]]:
    """Options by task and optimizer, such as values that another study has tuned."""
    item.known(tuple(layers["tasks"]))
    given = {str(task): item.child(task) for task in item.values}
    for of_task in given.values():
        of_task.known(tuple(layers["optimizers"]))
    return {task: {str(name): of_task.options(name) for name in of_task.values} for task, of_task in given.items()}


def _check_grid(part: Part, item: Entry) -> None:
    """Every optimizer has a whole grid of `trials` points: equal budgets."""
    for one in part.space:
        if not one.choices:
            item.fault(f"space.{one.name}", ": must be a list of choices, or the grid has no end")
            return
    for optimizer in part.optimizers:
        points = math.prod(len(one.choices) for one in space.of(part.space, optimizer))
        if points != part.trials:
            item.fault(f"trials {part.trials}", f": the grid of {optimizer} has {points} points; all must have as many")


def _seeds_apart(parts: Mapping[str, Part], faults: list[str]) -> None:
    tune = {seed: part.name for part in parts.values() if part.purpose == "tune" for seed in part.seeds}
    for part in parts.values():
        shared = sorted(set(part.seeds) & tune.keys()) if part.purpose == "test" else []
        if shared:
            where = f"seed {shared[0]} is a tuning seed of {tune[shared[0]]!r}"
            faults.append(f"{part.name}: {where}; they must be different")
