"""The definition of a meta-learning: one YAML file, checked whole, all faults reported together.

    name: control                        # default: the file's name; the preset's, too
    question: Does ... ?
    rule: adam                           # ASGC's base rule
    options: {mode: norm}                # of ASGC, fixed
    learn: [lr, clip_factor, noise_scale]
    start: {lr: 1e-3}                    # where it begins; null: ASGC's defaults
    kinds: [weights, vectors, head, embeddings]   # of layers that have offsets of their own
    by_share: false                      # whether options change with the share of training that is done
    learner: {name: evolution, steps: 40, pairs: 4, sigma: 0.3, lr: 0.1}
    tasks:                               # meta-training
      CartPole: {program: asgc-rl, options: {preset: control}}          # a trainer's runs, by their mean score
      digits: {class: supervised.learned_tasks:Digits, options: {hidden: 32}}
    held_out: {Acrobot: {program: asgc-rl, options: {preset: control, game: Acrobot}}}   # for a study: not learned from
    seconds: {CartPole: 12}              # what a run costs, for the estimate before one has finished

Learners: `evolution` (whole runs of all tasks, on workers), `persistent` (evolution over truncations) and `unrolled`
(derivatives of training), the latter two of tasks by class whose loss is differentiable (`asgc.meta.unrolled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asgc.meta import KINDS, PARAMETERS, Space
from asgc.option import nearest
from asgc.options import RULES, resolve
from evaluation.cli.config_file import SHIPPED, find_definition, read_yaml
from evaluation.cli.errors import UserError
from evaluation.cli.values import number, suggestion
from evaluation.study.entry import Entry
from evaluation.study.spec import StudyFaults

DEFINITION = "meta.yaml"  # in the folder that it is learned in
LEARNERS = ("evolution", "persistent", "unrolled")
_TOP = ("name", "question", "rule", "options", "learn", "start", "kinds", "by_share", "learner", "tasks", "held_out")
_LEARNER = ("name", "steps", "pairs", "sigma", "lr", "seed", "truncation", "runs")
_DEFAULTS = {"clip_factor": 2.0, "eps_scale": 1e-3, "noise_scale": 0.1, "lr": 1e-3}


@dataclass(frozen=True)
class TaskEntry:
    """One task: the runs of a trainer, or a class.

    Attributes:
        program: trainer, "asgc-rl"; "": none.
        cls: "package.module:Class"; "": none.
        options: of the trainer's `train`, or keyword arguments of the class.
    """

    name: str
    program: str
    cls: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class LearnerEntry:
    """How it is learned.

    Attributes:
        steps: of the meta-parameters.
        pairs: of particles (evolution, persistent).
        sigma: of their perturbations, in units of z (`asgc.meta.space`).
        lr: of the meta-parameters' Adam, in the same units.
        seed: of all of it.
        truncation: inner steps (persistent, unrolled).
        runs: of each task side by side (persistent, unrolled).
    """

    name: str = "evolution"
    steps: int = 40
    pairs: int = 4
    sigma: float = 0.3
    lr: float = 0.1
    seed: int = 0
    truncation: int = 20
    runs: int = 4


@dataclass(frozen=True)
class Definition:
    """A checked definition; `values` is the file's mapping as it was read."""

    name: str
    question: str
    rule: str
    options: Mapping[str, Any]
    space: Space
    start: Mapping[str, float]
    learner: LearnerEntry
    tasks: Mapping[str, TaskEntry]
    held_out: Mapping[str, TaskEntry]
    seconds: Mapping[str, float]
    values: Mapping[str, Any]


def find(name: str) -> Path:
    """The file of a definition: a path, the name of one of the toolkit's own (`configs/meta/NAME.yaml`), or a folder
    that one was learned in."""
    return find_definition(name, "definition", SHIPPED / "meta", DEFINITION)


def load(path: Path) -> Definition:
    """Read and check a definition.

    Raises:
        UserError: the file cannot be read or is no YAML.
        StudyFaults: what is wrong in it, all of it.
    """
    values = read_yaml(path, "the definition ", ("name", "question", "tasks", "held_out"))
    name = path.stem if path.name != DEFINITION else path.resolve().parent.name
    return parse(values, name=name, where=str(path))


def parse(values: Mapping[str, Any], *, name: str, where: str) -> Definition:
    """A definition from its mapping; `name` is its own where it gives none, `where` is named in errors."""
    entry = Entry(values)
    entry.known((*_TOP, "seconds"))
    name = entry.name("name", str(values.get("name", name)))
    rule = entry.word("rule", ("adam", *(rule for rule in RULES if rule != "adam")))
    space = _space(entry)
    tasks, held_out = (_tasks(entry, key) for key in ("tasks", "held_out"))
    if not tasks:
        entry.fault("tasks", ": is missing: name at least one")
    for task in sorted(set(tasks) & set(held_out)):
        entry.fault(f"held_out.{task}", ": is one of the tasks that are learned from")
    learner = _learner(entry.child("learner"))
    if learner.name in ("persistent", "unrolled"):
        for one in tasks.values():
            if not one.cls:
                entry.fault(f"tasks.{one.name}", f": {learner.name} needs a class whose loss is differentiable")
    options = entry.options("options")
    start = _start(entry, rule, options, space)
    seconds = entry.numbers("seconds", {**tasks, **held_out}, "a number of seconds for one of the tasks")
    if entry.faults:
        raise StudyFaults(where, entry.faults)
    question = " ".join(str(values.get("question", "")).split())
    return Definition(name, question, rule, options, space, start, learner, tasks, held_out, seconds, dict(values))


def of_tasks(found: Definition, names: Sequence[str], where: str) -> Definition:
    """The definition that learns from these of its tasks alone (held-out ones, too), named after them.

    Raises:
        UserError: an unknown task, or none.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise UserError("--tasks: name at least one")
    given = {**found.values["tasks"], **(found.values.get("held_out") or {})}
    for name in names:
        if name not in given:
            raise UserError(f"--tasks {name}: no such task{suggestion(name, list(given))}")
    left_out = {name: one for name, one in given.items() if name not in names}
    chosen = {"name": "-".join([found.name, *names]), "tasks": {name: given[name] for name in names}}
    return parse({**found.values, **chosen, "held_out": left_out}, name=found.name, where=where)


def _space(entry: Entry) -> Space:
    learn = entry.choice("learn", tuple(PARAMETERS)) if entry.values.get("learn") else ()
    if not learn:
        entry.fault("learn", f": is missing: name some of {', '.join(PARAMETERS)}")
    by_share = entry.values.get("by_share", False)
    if not isinstance(by_share, bool):
        entry.fault(f"by_share {by_share!r}", ": must be true or false")
    return Space(learn or ("clip_factor",), entry.choice("kinds", KINDS), by_share is True)


def _start(entry: Entry, rule: str, options: Mapping[str, Any], space: Space) -> dict[str, float]:
    """Where the learned options begin; faults of the fixed ones."""
    given, before = entry.options("start"), len(entry.faults)
    for key, value in given.items():
        if key not in space.names:
            entry.fault(f"start.{key}", f": is not learned{nearest(key, space.names)}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            entry.fault(f"start.{key} {value!r}", ": must be a number")
        elif not (one := PARAMETERS[key]).low <= value <= one.high:
            entry.fault(f"start.{key} {value!r}", f": is learned from {one.low:g} to {one.high:g}")
    for key, reason in (("rule", "it stands by itself, as `rule`"), ("threshold", "a fixed one leaves no clip_factor")):
        if key in options:
            entry.fault(f"options.{key}", f": {reason}")
            return {}
    for key in options:
        if key in space.names:
            entry.fault(f"options.{key}", ": is learned: say where it begins at `start`")
    if "lr" not in space.names and "lr" not in options:
        entry.fault("options.lr", ": is missing, as lr is not learned")
    try:
        taken = resolve({"rule": rule or "adam", **options} if rule else {})
    except (TypeError, ValueError) as error:
        entry.fault("options", f": {error}")
        return {}
    if "eps_scale" in space.names and "eps" not in taken:
        entry.fault("learn", f": eps_scale needs a rule that has an eps, not {rule!r}")
    usual = {
        **_DEFAULTS,
        **{key: taken[key] for key in ("clip_factor", "clip_sharpness", "outlier_share", "noise_decay")},
    }
    usual["ceiling"] = PARAMETERS["ceiling"].high
    return {name: float(given.get(name, usual[name])) for name in space.names} if len(entry.faults) == before else {}


def _tasks(entry: Entry, key: str) -> dict[str, TaskEntry]:
    child = entry.child(key)
    found = {}
    for name in child.values:
        own = child.child(name)
        own.known(("program", "class", "options"))
        program, cls = (own.values.get(word, "") for word in ("program", "class"))
        if not isinstance(program, str) or not isinstance(cls, str) or bool(program) == bool(cls):
            own.faults.append(f"{own.where}: give a program (asgc-rl, asgc-sup), or a class as package.module:Class")
            continue
        options = own.options("options") if program else dict(own.child("options").values)
        for owned in ("optimizer", "seed", "run_dir"):
            if any(f"{option}.".startswith(f"{owned}.") for option in options) and program:
                own.fault(f"options.{owned}", ": is the learner's to set")
        found[child.name(str(name), str(name))] = TaskEntry(str(name), program, cls, options)
    return found


def _learner(entry: Entry) -> LearnerEntry:
    entry.known(_LEARNER)
    usual = LearnerEntry()

    def positive(key: str, default: float) -> float:
        value = number(entry.values.get(key, default))
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            entry.fault(f"{key} {value!r}", ": must be a number above 0")
            return default
        return float(value)

    seed = entry.values.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        entry.fault(f"seed {seed!r}", ": must be a whole number of at least 0")
        seed = 0
    return LearnerEntry(
        entry.word("name", LEARNERS),
        steps=entry.count("steps", usual.steps),
        pairs=entry.count("pairs", usual.pairs),
        sigma=positive("sigma", usual.sigma),
        lr=positive("lr", usual.lr),
        seed=seed,
        truncation=entry.count("truncation", usual.truncation),
        runs=entry.count("runs", usual.runs),
    )
