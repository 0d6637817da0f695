"""The runs that a study asks for, as far as the results so far determine them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import flags, show
from evaluation.study import space as spaces
from evaluation.study.run_id import Arm, RunId
from evaluation.study.search import SEED, Objective, Search, best_of_all
from evaluation.study.spec import DEFAULT, Options, Part, Study

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_=,-]")  # in the name of a folder


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its place in the study. `options` is everything beyond the program's defaults."""

    id: RunId
    part: Part
    options: Options

    def arguments(self) -> list[str]:
        """The options as command-line arguments of the program's `train`."""
        return flags({**self.options, "seed": self.id.seed})

    def entry(self) -> dict[str, Any]:
        """The run as a line of the study's index."""
        part, *others = self.id._asdict().items()
        labels = dict([part, ("kind", self.part.kind), *others, ("purpose", self.part.purpose)])
        return {"id": str(self.id), "path": str(self.id), **labels, "options": dict(self.options)}


@dataclass
class Plan:
    """The runs known by now, and the ids of those that wait for the end of a search: their options are not known."""

    runs: list[PlannedRun] = field(default_factory=list)
    waiting: list[RunId] = field(default_factory=list)


class Planner:
    """Makes plans of one study; keeps its searches between two plans."""

    def __init__(self, study: Study, begun: Mapping[RunId, Options] | None = None) -> None:
        """`begun`: the options of runs that have begun (`StudyFiles.begun`)."""
        self.study = study
        self.faults: list[str] = []  # found by `samples`
        searches = [part for part in study.parts.values() if part.kind == "search"]
        self.searches = {arm: Search(part, arm, begun or {}) for part in searches for arm in _arms(part)}

    def plan(self, objective: Objective) -> Plan:
        """All runs that are determined, in the order of the parts. In a part the seeds vary slowest (in a search the
        trials), so that a study that is stopped early has every method at the first seeds."""
        plan = Plan()
        for part in self.study.parts.values():
            found: list[PlannedRun] = []
            for arm in _arms(part):
                runs, missing = self._search(arm, objective) if part.kind == "search" else self._fixed(part, arm)
                found += runs
                plan.waiting += missing
            order = {seed: i for i, seed in enumerate(part.seeds)}
            plan.runs += sorted(found, key=lambda run: run.id.variant if part.kind == "search" else order[run.id.seed])
        return plan

    def samples(self) -> Iterator[PlannedRun]:
        """One run of every combination of options that the definition can produce, tuned values at the ends of their
        ranges: what is to be checked before the first run."""
        for part in self.study.parts.values():
            for arm in _arms(part):
                tuned: list[Options] = [{}]
                if part.kind == "search":
                    tuned = _corners(part.space, arm.optimizer)
                elif (one := part.tuned.get(arm.optimizer)) is not None:
                    tuned = _corners(self.study.parts[one.search].space, one.optimizer)[:1]
                for values in tuned:
                    base = self._layers(part, arm) | values
                    try:
                        runs = [run for run in self._variants(part, arm, base) if run.id.seed == part.seeds[0]]
                    except UserError as error:
                        self.faults.append(str(error))
                        continue
                    yield from runs

    def _search(self, arm: Arm, objective: Objective) -> tuple[list[PlannedRun], list[RunId]]:
        search = self.searches[arm]
        search.advance(objective)
        part, known = search.part, len(search.trials)
        base = self._layers(part, arm)
        runs = [PlannedRun(run, part, base | one.options) for one in search.trials for run in search.runs(one.number)]
        return runs, [run for number in range(known, part.trials) for run in search.runs(number)]

    def _fixed(self, part: Part, arm: Arm) -> tuple[list[PlannedRun], list[RunId]]:
        base = self._layers(part, arm)
        if (one := part.tuned.get(arm.optimizer)) is not None:
            tasks = self.study.parts[one.search].tasks if one.tasks == "all" else (arm.task,)
            setting = one.setting or arm.setting
            searches = [self.searches[Arm(one.search, task, setting, one.optimizer)] for task in tasks]
            if not all(search.finished for search in searches):
                return [], [run.id for run in self._variants(part, arm, base, sample=True)]
            if one.tasks == "all":
                ends = [self.study.references[task] for task in tasks]
                base |= best_of_all(searches, [high - low for low, high in ends]).options
            else:
                base |= searches[0].best.options
        return list(self._variants(part, arm, base)), []

    def _layers(self, part: Part, arm: Arm) -> Options:
        study = self.study
        of_arm = study.tasks[arm.task] | study.settings[arm.setting] | study.optimizers[arm.optimizer]
        given = part.given.get(arm.task, {}).get(arm.optimizer, {})
        return study.options | of_arm | part.options | given

    def _variants(self, part: Part, arm: Arm, base: Options, sample: bool = False) -> Iterator[PlannedRun]:
        """The runs of all variants and seeds; as a `sample`, factors of values that are not known yet are left out."""
        variants: Iterable[tuple[str, Options]] = [(DEFAULT, {})]
        if part.kind == "ablation":
            variants = part.variants.items()
        elif part.kind == "robustness":
            dimensions = spaces.of(part.space, arm.optimizer)
            points = spaces.uniform(part.draws, len(dimensions), SEED)
            variants = [(f"draw-{i:03d}", spaces.options(dimensions, point)) for i, point in enumerate(points)]
        elif part.kind == "grid":
            variants = _grid(part, base, sample)
        for variant, options in variants:
            for seed in part.seeds:
                yield PlannedRun(RunId(*arm, variant, seed), part, base | options)


def _grid(part: Part, base: Options, sample: bool) -> Iterator[tuple[str, Options]]:
    """(name, options) of each point of a grid."""
    lists = {**part.values, **part.multiply}
    cells: set[str] = set()
    for point in itertools.product(*lists.values()):
        names: list[str] = []
        options: Options = {}
        for key, value in zip(lists, point, strict=True):
            names.append(f"{key.rpartition('.')[2]}{'x' if key in part.multiply else '='}{show(value)}")
            before = base.get(key)
            if key in part.values:
                options[key] = value
            elif isinstance(before, int | float):
                options[key] = float(f"{before * value:.10g}")
            elif not sample:
                raise UserError(
                    f"{part.name}: multiply {key} has no number to multiply for every optimizer: give it in the "
                    "options, or tune it"
                )
        cell = _UNSAFE.sub("_", ",".join(names))
        if cell in cells:
            raise UserError(f"{part.name}: two points of the grid would have the folder {cell}: write the values apart")
        cells.add(cell)
        yield cell, {key: value for key, value in options.items() if value is not None}


def _arms(part: Part) -> Iterator[Arm]:
    return (Arm(part.name, *names) for names in itertools.product(part.tasks, part.settings, part.optimizers))


def _corners(space: Sequence[spaces.Dimension], optimizer: str) -> list[Options]:
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
