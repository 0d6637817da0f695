"""The runs that a study asks for, as far as the results so far determine them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import show
from evaluation.study import space as spaces
from evaluation.study.search import SEED, Search, Trial
from evaluation.study.spec import DEFAULT, Options, Part, Study

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_=,-]")  # in the name of a folder

Objective = Callable[[str, str], float | None]  # run id, "final" or "curve" -> its value; None: not finished


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its place in the study. `options` is everything beyond the program's defaults."""

    part: str
    kind: str
    task: str
    setting: str
    optimizer: str
    variant: str
    seed: int
    purpose: str
    options: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Unique in the study; also the path of the run folder in the study folder."""
        return "/".join((self.part, self.task, self.setting, self.optimizer, self.variant, f"s{self.seed}"))

    def arguments(self) -> list[str]:
        """The options as command-line arguments of the program's `train`."""
        return [f"--{key.replace('_', '-')}={show(value)}" for key, value in self.options.items()] + [
            f"--seed={self.seed}"
        ]

    def entry(self) -> dict[str, Any]:
        """The run as a line of the study's index."""
        return (
            {"id": self.id, "path": self.id}
            | {
                name: getattr(self, name)
                for name in ("part", "kind", "task", "setting", "optimizer", "variant", "seed", "purpose")
            }
            | {"options": dict(self.options)}
        )


@dataclass
class Plan:
    """The runs known by now, and the ids of those that wait for the end of a search: their options are not known."""

    runs: list[PlannedRun] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


class Planner:
    """Makes plans of one study; keeps its searches between two plans."""

    def __init__(self, study: Study, begun: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """`begun`: the options of runs that have begun, by id (`folder.begun_options`)."""
        self.study = study
        self.faults: list[str] = []  # found by `samples`
        self.searches = {
            (part.name, task, setting, optimizer): Search(part, task, setting, optimizer)
            for part in study.parts.values()
            if part.kind == "search"
            for task, setting, optimizer in itertools.product(part.tasks, part.settings, part.optimizers)
        }
        for run, options in (begun or {}).items():
            *place, variant, _ = run.split("/")
            search = self.searches.get(tuple(place))  # type: ignore[arg-type]
            if search is not None:
                names = [one.name for one in search.space]
                search.begun[int(variant.rpartition("-")[2])] = {
                    name: options[name] for name in names if name in options
                }

    def plan(self, objective: Objective) -> Plan:
        """All runs that are determined, in the order of the parts. In a part the seeds vary slowest (in a search the
        trials), so that a study that is stopped early has every method at the first seeds."""
        plan = Plan()
        for part in self.study.parts.values():
            found: list[PlannedRun] = []
            for task, setting, optimizer in itertools.product(part.tasks, part.settings, part.optimizers):
                if part.kind == "search":
                    runs, missing = self._search(part, task, setting, optimizer, objective)
                else:
                    runs, missing = self._fixed(part, task, setting, optimizer)
                found += runs
                plan.waiting += missing
            order = {seed: i for i, seed in enumerate(part.seeds)}
            plan.runs += sorted(found, key=lambda run: run.variant if part.kind == "search" else order[run.seed])
        return plan

    def samples(self) -> Iterator[PlannedRun]:
        """One run of every combination of options that the definition can produce, tuned values at the ends of their
        ranges: what is to be checked before the first run."""
        for part in self.study.parts.values():
            for task, setting, optimizer in itertools.product(part.tasks, part.settings, part.optimizers):
                tuned: list[Options] = [{}]
                if part.kind == "search":
                    tuned = _corners(part.space, optimizer)
                elif part.tuned is not None:
                    tuned = _corners(self.study.parts[part.tuned].space, optimizer)[:1]
                for values in tuned:
                    base = self._layers(part, task, setting, optimizer) | values
                    try:
                        variants = list(self._variants(part, optimizer, base))
                    except UserError as error:
                        self.faults.append(str(error))
                        continue
                    for variant, options in variants:
                        yield self._runs(part, task, setting, optimizer, variant, base | options)[0]

    def _search(
        self, part: Part, task: str, setting: str, optimizer: str, objective: Objective
    ) -> tuple[list[PlannedRun], list[str]]:
        search = self.searches[part.name, task, setting, optimizer]
        base = self._layers(part, task, setting, optimizer)

        def runs_of(trial: Trial) -> list[PlannedRun]:
            variant = f"trial-{trial.number:03d}"
            return self._runs(part, task, setting, optimizer, variant, base | trial.options)

        def value(trial: Trial) -> float | None:
            values = [objective(run.id, part.objective) for run in runs_of(trial)]
            known = [one for one in values if one is not None]
            return sum(known) / len(known) if len(known) == len(values) else None

        search.advance(value)
        runs = [run for trial in search.trials for run in runs_of(trial)]
        missing = [Trial(number, {}) for number in range(len(search.trials), part.trials)]
        return runs, [run.id for trial in missing for run in runs_of(trial)]

    def _fixed(self, part: Part, task: str, setting: str, optimizer: str) -> tuple[list[PlannedRun], list[str]]:
        base = self._layers(part, task, setting, optimizer)
        known = True
        if part.tuned is not None:
            search = self.searches[part.tuned, task, part.tuned_setting or setting, optimizer]
            known = search.finished
            base |= search.best.options if known else {}
        runs = [
            run
            for variant, options in self._variants(part, optimizer, base, sample=not known)
            for run in self._runs(part, task, setting, optimizer, variant, base | options)
        ]
        return (runs, []) if known else ([], [run.id for run in runs])

    def _layers(self, part: Part, task: str, setting: str, optimizer: str) -> Options:
        study = self.study
        return study.options | study.tasks[task] | study.settings[setting] | study.optimizers[optimizer] | part.options

    def _variants(
        self, part: Part, optimizer: str, base: Options, sample: bool = False
    ) -> Iterator[tuple[str, Options]]:
        """(name, options) of each variant; as a `sample`, factors of values that are not known yet are left out."""
        if part.kind == "ablation":
            yield from part.variants.items()
        elif part.kind == "robustness":
            dimensions = spaces.of(part.space, optimizer)
            for i, point in enumerate(spaces.uniform(part.draws, len(dimensions), SEED)):
                yield f"draw-{i:03d}", {one.name: one.at(float(u)) for one, u in zip(dimensions, point, strict=True)}
        elif part.kind == "grid":
            lists = {**part.values, **part.multiply}
            for cell in itertools.product(*lists.values()):
                chosen = dict(zip(lists, cell, strict=True))
                options = {
                    key: value if key in part.values else self._product(part, key, base, value, sample)
                    for key, value in chosen.items()
                }
                name = ",".join(
                    f"{key.rpartition('.')[2]}{'x' if key in part.multiply else '='}{show(value)}"
                    for key, value in chosen.items()
                )
                yield _UNSAFE.sub("_", name), {key: value for key, value in options.items() if value is not None}
        else:
            yield DEFAULT, {}

    def _product(self, part: Part, key: str, base: Options, factor: float, sample: bool) -> float | None:
        value = base.get(key)
        if isinstance(value, int | float):
            return float(f"{value * factor:.10g}")
        if sample:
            return None
        raise UserError(
            f"{part.name}: multiply {key} has no number to multiply for every optimizer: give it in the options, "
            "or tune it"
        )

    def _runs(
        self, part: Part, task: str, setting: str, optimizer: str, variant: str, options: Options
    ) -> list[PlannedRun]:
        """The run at every seed of the part."""
        return [
            PlannedRun(part.name, part.kind, task, setting, optimizer, variant, seed, part.purpose, options)
            for seed in part.seeds
        ]


def _corners(space: tuple[spaces.Dimension, ...], optimizer: str) -> list[Options]:
    """All low ends, all high ends, and every choice of the discrete ones."""
    dimensions = spaces.of(space, optimizer)
    count = max([2, *(len(one.choices) for one in dimensions)])
    return [
        {
            one.name: one.choices[i % len(one.choices)] if one.choices else one.at(min(i, 1) * (1 - 1e-12))
            for one in dimensions
        }
        for i in range(count)
    ]
