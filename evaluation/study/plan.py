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
from evaluation.study.run_id import Cell, RunId
from evaluation.study.search import SEED, Search, Trial
from evaluation.study.spec import DEFAULT, Options, Part, Study

_UNSAFE = re.compile(r"[^A-Za-z0-9.+_=,-]")  # in the name of a folder

Objective = Callable[[RunId, str], float | None]  # "final" or "curve" -> its value; None: not finished


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its place in the study. `options` is everything beyond the program's defaults."""

    id: RunId
    kind: str
    purpose: str
    options: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """The options as command-line arguments of the program's `train`."""
        options = {**self.options, "seed": self.id.seed}
        return [f"--{key.replace('_', '-')}={show(value)}" for key, value in options.items()]

    def entry(self) -> dict[str, Any]:
        """The run as a line of the study's index."""
        part, *others = self.id._asdict().items()
        labels = dict([part, ("kind", self.kind), *others, ("purpose", self.purpose)])
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
        self.searches: dict[Cell, Search] = {}
        for part in study.parts.values():
            for cell in _cells(part) if part.kind == "search" else ():
                search = self.searches[cell] = Search(part, cell)
                for number, seed in itertools.product(range(part.trials), part.seeds):
                    options = (begun or {}).get(_trial(cell, number, seed))
                    if options is not None:
                        names = [one.name for one in search.space]
                        search.begun[number] = {name: options[name] for name in names if name in options}

    def plan(self, objective: Objective) -> Plan:
        """All runs that are determined, in the order of the parts. In a part the seeds vary slowest (in a search the
        trials), so that a study that is stopped early has every method at the first seeds."""
        plan = Plan()
        for part in self.study.parts.values():
            found: list[PlannedRun] = []
            for cell in _cells(part):
                runs, missing = self._search(cell, objective) if part.kind == "search" else self._fixed(part, cell)
                found += runs
                plan.waiting += missing
            order = {seed: i for i, seed in enumerate(part.seeds)}
            plan.runs += sorted(found, key=lambda run: run.id.variant if part.kind == "search" else order[run.id.seed])
        return plan

    def samples(self) -> Iterator[PlannedRun]:
        """One run of every combination of options that the definition can produce, tuned values at the ends of their
        ranges: what is to be checked before the first run."""
        for part in self.study.parts.values():
            for cell in _cells(part):
                tuned: list[Options] = [{}]
                if part.kind == "search":
                    tuned = _corners(part.space, cell.optimizer)
                elif part.tuned is not None:
                    tuned = _corners(self.study.parts[part.tuned].space, cell.optimizer)[:1]
                for values in tuned:
                    base = self._layers(part, cell) | values
                    try:
                        variants = list(self._variants(part, cell, base))
                    except UserError as error:
                        self.faults.append(str(error))
                        continue
                    for variant, options in variants:
                        yield _planned(part, RunId(*cell, variant, part.seeds[0]), base | options)

    def _search(self, cell: Cell, objective: Objective) -> tuple[list[PlannedRun], list[RunId]]:
        search = self.searches[cell]
        part, base = search.part, self._layers(search.part, cell)

        def value(trial: Trial) -> float | None:
            values = [objective(_trial(cell, trial.number, seed), part.objective) for seed in part.seeds]
            known = [one for one in values if one is not None]
            return sum(known) / len(known) if len(known) == len(values) else None

        search.advance(value)
        runs = [
            _planned(part, _trial(cell, trial.number, seed), base | trial.options)
            for trial in search.trials
            for seed in part.seeds
        ]
        missing = itertools.product(range(len(search.trials), part.trials), part.seeds)
        return runs, [_trial(cell, number, seed) for number, seed in missing]

    def _fixed(self, part: Part, cell: Cell) -> tuple[list[PlannedRun], list[RunId]]:
        base = self._layers(part, cell)
        known = True
        if part.tuned is not None:
            search = self.searches[cell._replace(part=part.tuned, setting=part.tuned_setting or cell.setting)]
            known = search.finished
            base |= search.best.options if known else {}
        runs = [
            _planned(part, RunId(*cell, variant, seed), base | options)
            for variant, options in self._variants(part, cell, base, sample=not known)
            for seed in part.seeds
        ]
        return (runs, []) if known else ([], [run.id for run in runs])

    def _layers(self, part: Part, cell: Cell) -> Options:
        study = self.study
        of_cell = study.tasks[cell.task] | study.settings[cell.setting] | study.optimizers[cell.optimizer]
        return study.options | of_cell | part.options

    def _variants(self, part: Part, cell: Cell, base: Options, sample: bool = False) -> Iterator[tuple[str, Options]]:
        """(name, options) of each variant; as a `sample`, factors of values that are not known yet are left out."""
        if part.kind == "ablation":
            yield from part.variants.items()
        elif part.kind == "robustness":
            dimensions = spaces.of(part.space, cell.optimizer)
            for i, point in enumerate(spaces.uniform(part.draws, len(dimensions), SEED)):
                yield f"draw-{i:03d}", {one.name: one.at(float(u)) for one, u in zip(dimensions, point, strict=True)}
        elif part.kind == "grid":
            lists = {**part.values, **part.multiply}
            for point in itertools.product(*lists.values()):
                chosen = dict(zip(lists, point, strict=True))
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


def _cells(part: Part) -> Iterator[Cell]:
    return (Cell(part.name, *names) for names in itertools.product(part.tasks, part.settings, part.optimizers))


def _trial(cell: Cell, number: int, seed: int) -> RunId:
    return RunId(*cell, f"trial-{number:03d}", seed)


def _planned(part: Part, run: RunId, options: Options) -> PlannedRun:
    return PlannedRun(run, part.kind, part.purpose, options)


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
