"""The definition of a study: one YAML file, checked whole, all faults reported together.

    name: control                       # default: the file's name
    question: Does ... ?                # written down before anything runs
    program: asgc-rl                    # runs are `asgc-rl train OPTIONS`
    options: {total_steps: 40_000}      # of every run
    tasks: {CartPole: {game: CartPole}, Acrobot: {game: Acrobot}}
    settings: {plain: {}, mse: {loss: mse}}
    optimizers: {adam: {optimizer.name: adam}, asgc: {optimizer: {name: asgc, rule: adam}}}
    seconds: {CartPole: 12}             # what a run costs, for --dry-run, until one has finished
    parts:
      tuning:     {kind: search, settings: [plain], trials: 16, seeds: [1, 2],
                   space: {optimizer.lr: {low: 1e-5, high: 1}}}
      comparison: {kind: compare, tuned: tuning, seeds: 101-110}

A definition with a single part may write the part's keys at the top instead of `parts`. Later layers win: options,
task, setting, optimizer, the part's options, the tuned values, the variant (grid cell, draw, ablation, trial).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from evaluation.cli.config_file import UniqueKeys
from evaluation.cli.errors import UserError, reason
from evaluation.cli.values import did_you_mean, number, suggestion
from evaluation.study.space import Dimension, read_space

Options = dict[str, Any]

KINDS = ("compare", "search", "grid", "robustness", "ablation")
DEFINITION, INDEX, FAILED, SEARCH_DB, LOCK, LOGS = (  # in the study folder, beside those of the parts
    RESERVED := ("study.yaml", "runs.jsonl", "failed.json", "search.db", "lock", "logs")
)
OBJECTIVES = ("final", "curve")
SAMPLERS = ("tpe", "random")
STARTUP = 8  # trials spread evenly where nothing else is said; not made from `trials`, so that some can be added later
DEFAULT = "default"  # the name of the one setting or variant where there are no others
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
_TOP = ("name", "question", "budget", "program", "options", "tasks", "settings", "optimizers", "seconds", "parts")
_PART = ("kind", "tasks", "settings", "optimizers", "seeds", "options", "tuned", "tuned_setting", "note")
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
    note: str = ""  # what this part is to show
    tuned: str | None = None  # the search whose best values are taken
    tuned_setting: str | None = None  # ... at this setting; None: at the run's own
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
    program: tuple[str, ...]
    options: Options
    tasks: Mapping[str, Options]
    settings: Mapping[str, Options]
    optimizers: Mapping[str, Options]
    seconds: Mapping[str, float]
    parts: Mapping[str, Part]
    definition: Mapping[str, Any]


def find(name: str) -> Path:
    """The file of a study: a path, or the name of one of the toolkit's own (`configs/studies/NAME.yaml`)."""
    path = Path(name)
    if path.is_file():
        return path
    own = resources.files("configs").joinpath("studies")
    shipped = {Path(item.name).stem: item for item in own.iterdir()} if own.is_dir() else {}
    if path.is_dir() and (path / DEFINITION).is_file():
        return path / DEFINITION
    if name in shipped:
        return Path(str(shipped[name]))
    hint = did_you_mean(name, tuple(shipped)) or f"; the toolkit's own are {', '.join(sorted(shipped))}"
    raise UserError(f"no such study file: {name}{hint}")


def load(path: Path) -> Study:
    """Read and check a definition.

    Raises:
        UserError: the file cannot be read or is no YAML.
        StudyFaults: what is wrong in it, all of it.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the study {path}: {reason(error)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: no valid YAML: {getattr(error, 'problem', None) or reason(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return parse(values, name=path.stem if path.name != DEFINITION else path.resolve().parent.name, where=str(path))


def parse(values: Mapping[str, Any], *, name: str, where: str) -> Study:
    """A definition from its mapping; `name` is the study's where it gives none, `where` is named in errors."""
    reader = _Reader(values)
    study = reader.study(name)
    if reader.faults:
        raise StudyFaults(where, reader.faults)
    return study


def flatten(values: Mapping[str, Any], prefix: str = "") -> Options:
    """{"optimizer": {"lr": "1e-3"}} -> {"optimizer.lr": 0.001}: dotted keys, numbers as numbers."""
    flat: Options = {}
    for key, value in values.items():
        path = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = number(value)
    return flat


class _Reader:
    """Turns a mapping into a Study, collecting faults instead of stopping at the first."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.faults: list[str] = []

    def study(self, name: str) -> Study:
        values = self.values
        single = "parts" not in values
        part_keys = {*_PART, *(key for keys in _OF_KIND.values() for key in keys)} if single else set()
        self._known(values, (*_TOP, *sorted(part_keys - set(_TOP))), "")
        name = self._name(str(values.get("name", name)), "name")
        tasks = self._layers("tasks")
        optimizers = self._layers("optimizers")
        settings = self._layers("settings", required=False) or {DEFAULT: {}}
        if single:
            own = {key: value for key, value in values.items() if key in part_keys and key not in _TOP}
            given: Any = {str(values.get("kind", "compare")): own}
        else:
            given = values["parts"]
        parts: dict[str, Part] = {}
        for part_name, item in self._mapping(given, "parts").items():
            where = "" if single else f"parts.{part_name}"
            self._name(str(part_name), where or "kind")
            if part_name in RESERVED:
                self.faults.append(f"{where}: the study folder has a file of that name; choose another")
            part = self._part(str(part_name), item, where, tasks, settings, optimizers, parts)
            if part is not None:
                parts[part.name] = part
        self._seeds_apart(parts)
        seconds = self._mapping(values.get("seconds", {}), "seconds")
        for task, cost in seconds.items():
            if task not in tasks or not isinstance(number(cost), int | float):
                self.faults.append(f"seconds.{task}: must be a number of seconds for one of the tasks")
        program = values.get("program", "asgc-rl")
        words = program if isinstance(program, list) else [program]
        if not words or not all(isinstance(word, str) and word for word in words):
            self.faults.append(f"program {program!r}: must be a command, or a list of its words")
        return Study(
            name=name,
            question=" ".join(str(values.get("question", "")).split()),
            program=tuple(map(str, words)),
            options=flatten(self._mapping(values.get("options", {}), "options")),
            tasks=tasks,
            settings=settings,
            optimizers=optimizers,
            seconds={task: number(cost) for task, cost in seconds.items()},
            parts=parts,
            definition=dict(values),
        )

    def _part(
        self,
        name: str,
        item: Any,
        where: str,
        tasks: Mapping[str, Options],
        settings: Mapping[str, Options],
        optimizers: Mapping[str, Options],
        before: Mapping[str, Part],
    ) -> Part | None:
        at = f"{where}." if where else ""
        item = self._mapping(item, where or "the study")
        kind = item.get("kind", "compare")
        if kind not in KINDS:
            self.faults.append(f"{at}kind {kind!r}: must be {', '.join(KINDS[:-1])} or {KINDS[-1]}")
            return None
        self._known(item, (*_PART, *_OF_KIND[kind]), at)
        tuned, tuned_setting = item.get("tuned"), item.get("tuned_setting")
        for key in ("tuned", "tuned_setting"):
            if not isinstance(item.get(key), str | None):
                self.faults.append(f"{at}{key} {item[key]!r}: must be a name")
                return None
        chosen = {
            "tasks": self._choice(item, "tasks", tasks, at),
            "settings": self._choice(item, "settings", settings, at),
            "optimizers": self._choice(item, "optimizers", optimizers, at),
        }
        space = read_space(item.get("space", {}), f"{at}space", tuple(optimizers), self.faults)
        part = Part(
            name=name,
            kind=kind,
            **chosen,
            seeds=self._seeds(item.get("seeds"), f"{at}seeds"),
            options=flatten(self._mapping(item.get("options", {}), f"{at}options")),
            note=" ".join(str(item.get("note", "")).split()),
            tuned=tuned,
            tuned_setting=tuned_setting,
            trials=self._count(item, "trials", at, needed=kind == "search"),
            startup=self._count(item, "startup", at) or STARTUP,
            batch=self._count(item, "batch", at) or 1,
            objective=self._word(item, "objective", OBJECTIVES, at),
            sampler=self._word(item, "sampler", SAMPLERS, at),
            space=space,
            draws=self._count(item, "draws", at, needed=kind == "robustness"),
            values=self._lists(item, "values", at),
            multiply=self._lists(item, "multiply", at),
            variants={
                self._name(str(key), f"{at}variants"): flatten(self._mapping(value, f"{at}variants.{key}"))
                for key, value in self._mapping(item.get("variants", {}), f"{at}variants").items()
            },
        )
        needed = {"search": "space", "robustness": "space", "ablation": "variants"}.get(kind)
        if needed and not item.get(needed):
            self.faults.append(f"{at}{needed}: is missing, and {kind} needs it")
        if kind == "grid" and not (part.values or part.multiply):
            self.faults.append(f"{at}values: give `values` or `multiply`, lists of what an option takes in turn")
        self._check_tuned(part, at, before)
        return part

    def _check_tuned(self, part: Part, at: str, before: Mapping[str, Part]) -> None:
        if part.tuned is None:
            if part.tuned_setting is not None:
                self.faults.append(f"{at}tuned_setting: goes with tuned")
            return
        search = before.get(part.tuned)
        if search is None or search.kind != "search":
            searches = tuple(name for name, one in before.items() if one.kind == "search")
            hint = did_you_mean(str(part.tuned), searches) or f"; there are {', '.join(searches) or 'none'}"
            self.faults.append(f"{at}tuned: {part.tuned!r} is no search above this part{hint}")
            return
        settings = part.settings if part.tuned_setting is None else (part.tuned_setting,)
        for name, wanted, known in (
            ("task", part.tasks, search.tasks),
            ("optimizer", part.optimizers, search.optimizers),
            ("setting", settings, search.settings),
        ):
            for one in wanted:
                if one not in known:
                    self.faults.append(f"{at}tuned: the search {search.name!r} does not cover the {name} {one!r}")

    def _seeds_apart(self, parts: Mapping[str, Part]) -> None:
        tune = {seed: part.name for part in parts.values() if part.purpose == "tune" for seed in part.seeds}
        for part in parts.values():
            shared = sorted(set(part.seeds) & tune.keys()) if part.purpose == "test" else []
            if shared:
                self.faults.append(
                    f"{part.name}: seed {shared[0]} is a tuning seed of {tune[shared[0]]!r}; they must be different"
                )

    # Values ---------------------------------------------------------------------------------------------------------

    def _known(self, item: Mapping[str, Any], keys: Sequence[str], at: str) -> None:
        for key in item:
            if key not in keys:
                self.faults.append(f"{at}{key}: unknown key{suggestion(str(key), tuple(keys))}")

    def _mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.faults.append(f"{where}: expected `name: value` lines, got {value!r}")
            return {}
        return value

    def _name(self, name: str, where: str) -> str:
        if not _NAME.fullmatch(name):
            self.faults.append(f"{where}: {name!r} is no name (letters, digits, . + _ -)")
        return name

    def _layers(self, key: str, required: bool = True) -> dict[str, Options]:
        found = self._mapping(self.values.get(key), key)
        if required and not found:
            self.faults.append(f"{key}: is missing: name at least one")
        return {
            self._name(str(name), key): flatten(self._mapping(options, f"{key}.{name}"))
            for name, options in found.items()
        }

    def _choice(self, item: Mapping[str, Any], key: str, known: Mapping[str, Any], at: str) -> tuple[str, ...]:
        # A study of one part has no list of names at this key, but the definitions themselves.
        wanted = item.get(key)
        if wanted is None or isinstance(wanted, Mapping):
            return tuple(known)
        names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
        for name in names:
            if name not in known:
                self.faults.append(f"{at}{key}: unknown name {name!r}{suggestion(name, tuple(known))}")
        return tuple(dict.fromkeys(name for name in names if name in known))

    def _seeds(self, value: Any, where: str) -> tuple[int, ...]:
        """[1, 2], 3, or "101-110"."""
        if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*-\s*(\d+)", value)):
            seeds: list[Any] = list(range(int(match[1]), int(match[2]) + 1))
        else:
            seeds = value if isinstance(value, list) else [value]
        if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
            self.faults.append(f"{where} {value!r}: must be whole numbers such as [1, 2, 3] or 101-110")
            return ()
        if len(set(seeds)) < len(seeds):
            self.faults.append(f"{where} {value!r}: a seed is given twice")
        return tuple(dict.fromkeys(seeds))

    def _count(self, item: Mapping[str, Any], key: str, at: str, needed: bool = False) -> int:
        value = number(item.get(key))
        if value is None and not needed:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.faults.append(f"{at}{key} {item.get(key)!r}: must be a whole number of at least 1")
            return 0
        return value

    def _word(self, item: Mapping[str, Any], key: str, words: Sequence[str], at: str) -> str:
        value = item.get(key, words[0])
        if value not in words:
            self.faults.append(f"{at}{key} {value!r}: must be {' or '.join(words)}")
            return words[0]
        return str(value)

    def _lists(self, item: Mapping[str, Any], key: str, at: str) -> dict[str, tuple[Any, ...]]:
        found = {}
        for name, values in flatten(self._mapping(item.get(key, {}), at + key)).items():
            if not isinstance(values, list) or not values:
                self.faults.append(f"{at}{key}.{name}: must be a list of values")
                continue
            found[name] = tuple(number(value) for value in values)
            if key == "multiply" and not all(isinstance(value, int | float) for value in found[name]):
                self.faults.append(f"{at}{key}.{name}: must be a list of factors")
        return found
