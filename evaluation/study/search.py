"""Tuning: what a search tries next, a pure function of what it has tried.

A grid is tried whole. Of any other search the first `startup` trials are one Latin hypercube, the same for every
optimizer. After them Optuna's TPE (Bergstra et al., 2011) proposes, in batches: a batch is proposed from the results of
the batches before it and from nothing else.
So a search gives the same trials on one core and on a cluster, killed and resumed, and more trials can be added later.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evaluation.cli.errors import UserError, reason
from evaluation.files import sqlite_url
from evaluation.runs.seeding import derive
from evaluation.study import space as spaces
from evaluation.study.run_id import Arm, RunId
from evaluation.study.space import Dimension
from evaluation.study.spec import Options, Part

if TYPE_CHECKING:
    import optuna

Objective = Callable[[RunId, str], float | None]  # "final" or "auc" -> its value; None: not finished

HUGE = 1e300
SEED = 0  # of the points and the sampler: a definition, not a random choice


@dataclass
class Trial:
    """One proposal: options, and the mean objective over the tuning seeds (None: not finished)."""

    number: int
    options: Options
    value: float | None = None


class Extent(NamedTuple):
    """How far a search is: how many trials it has proposed, and how many of them have finished."""

    trials: int
    finished: int


@dataclass
class Search:
    """The tuning of one optimizer on one task in one setting."""

    part: Part
    arm: Arm
    begun: Mapping[RunId, Options]  # options of runs that have begun: another version of Optuna may propose others
    trials: list[Trial] = field(default_factory=list)

    @property
    def space(self) -> tuple[Dimension, ...]:
        """The options that are tuned."""
        return spaces.of(self.part.space, self.arm.optimizer)

    @property
    def extent(self) -> Extent:
        """How far it is."""
        return Extent(len(self.trials), sum(trial.value is not None for trial in self.trials))

    @property
    def finished(self) -> bool:
        """Whether every trial has its value."""
        return len(self.trials) == self.part.trials and all(trial.value is not None for trial in self.trials)

    @property
    def best(self) -> Trial:
        """The finished trial of highest value; the earliest of equals. A diverged one is below all others."""
        return max(self.trials, key=_ranked)

    def runs(self, number: int) -> list[RunId]:
        """The runs of a trial, one for each tuning seed."""
        return [RunId(*self.arm, f"trial-{number:03d}", seed) for seed in self.part.seeds]

    def advance(self, objective: Objective) -> None:
        """Take in the values of finished trials and propose the next batch if all before it have finished."""
        while True:
            for trial in self.trials:
                if trial.value is None:
                    values = [objective(run, self.part.objective) for run in self.runs(trial.number)]
                    known = [value for value in values if value is not None]
                    trial.value = sum(known) / len(known) if len(known) == len(values) else None
            if len(self.trials) >= self.part.trials or any(trial.value is None for trial in self.trials):
                return
            self.trials += self._propose()

    def _propose(self) -> list[Trial]:
        first, part = len(self.trials), self.part
        if part.sampler == "grid":
            return [Trial(number, options) for number, options in enumerate(spaces.grid(self.space))]
        if first == 0:  # the points are the same whatever the number of trials, so that trials can be added later
            points = spaces.latin_hypercube(part.startup, len(self.space), SEED)[: part.trials]
            return [Trial(number, spaces.options(self.space, point)) for number, point in enumerate(points)]
        numbers = range(first, min(first + part.batch, part.trials))
        if part.sampler == "random":
            points = spaces.uniform(part.trials, len(self.space), SEED + 1)  # the first ones are always the same
            return [Trial(number, spaces.options(self.space, points[number])) for number in numbers]
        return [Trial(number, self._begun(number) or self._suggest(number)) for number in numbers]

    def _begun(self, number: int) -> Options:
        """What a trial's runs have begun with, if they have."""
        options = next((self.begun[run] for run in self.runs(number) if run in self.begun), {})
        return {one.name: options[one.name] for one in self.space if one.name in options}

    def _suggest(self, number: int) -> Options:
        """TPE's proposal for one trial, from the trials that have finished."""
        optuna = quiet_optuna()
        seed = derive(SEED, *self.arm, number)
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=len(self.space) > 1),
        )
        study.add_trials([self.record(trial) for trial in self.trials if trial.value is not None])
        asked = study.ask(self.distributions())
        return {one.name: one.rounded(asked.params[one.name]) for one in self.space}

    def distributions(self) -> dict[str, Any]:
        """The space in Optuna's words."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        return {
            one.name: CategoricalDistribution(one.choices)
            if one.choices
            else IntDistribution(int(one.low), int(one.high), log=one.log)
            if one.integer
            else FloatDistribution(one.low, one.high, log=one.log)
            for one in self.space
        }

    def record(self, trial: Trial) -> optuna.trial.FrozenTrial:
        """A finished trial as Optuna keeps it. Values are finite there: infinite ones and NaN become very large."""
        return quiet_optuna().trial.create_trial(
            params=trial.options,
            distributions=self.distributions(),
            value=min(max(_ranked(trial), -HUGE), HUGE),
            user_attrs={"number": trial.number},
        )


def best_of_all(searches: Sequence[Search], ranges: Sequence[float]) -> Trial:
    """The one setting for all tasks: of finished searches that tried the same points, one for each task, the first's
    trial of highest mean value in units of the tasks' reference ranges. One that diverged anywhere is below all others.
    """
    means = [
        sum(_ranked(trial) / size for trial, size in zip(trials, ranges, strict=True)) / len(ranges)
        for trials in zip(*(search.trials for search in searches), strict=True)
    ]
    return searches[0].trials[means.index(max(means))]


def _ranked(trial: Trial) -> float:
    """A trial's value, -inf for one that diverged (in one of its seeds, NaN or infinite) or has none."""
    return -math.inf if trial.value is None or not math.isfinite(trial.value) else trial.value


class Storage:
    """The trials in an Optuna database, for its dashboard and for other programs; SQLite by default.

    The run folders are what a study goes on from. Only finished trials are written, whole and in order, so a killed
    study leaves no half of one.
    """

    def __init__(self, database: str | Path) -> None:
        """Connect to a database's URL or a file of SQLite; `UserError` if there is none."""
        optuna = quiet_optuna()
        try:
            self.url = url = sqlite_url(database) if isinstance(database, Path) else database
        except ValueError as error:
            raise UserError(f"no database in {database}: {error}; choose another --dir, or a --storage") from error
        try:
            self._storage = optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}"))  # Optuna formats it
        except Exception as error:  # SQLAlchemy's and the drivers' own kinds
            why = reason(error)
            if isinstance(error, ImportError):
                driver = getattr(error.__cause__, "name", None) or "its driver"
                why = f"{driver} is not installed; for PostgreSQL: pip install 'asgc[cluster]'"
            raise UserError(f"--storage {_shown(url)}: cannot open the database ({why})") from error

    def add(self, study: str, search: Search) -> None:
        """Write the finished trials that the database lacks.

        Raises:
            UserError: it holds a study of that name with other trials.
        """
        name = f"{study}/{search.arm}"
        try:
            stored = quiet_optuna().create_study(
                storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
            )
            known = {trial.user_attrs.get("number"): trial.params for trial in stored.get_trials(deepcopy=False)}
            for trial in itertools.takewhile(lambda trial: trial.value is not None, search.trials):
                if trial.number not in known:
                    stored.add_trial(search.record(trial))
                elif known[trial.number] != trial.options:
                    raise UserError(
                        f"--storage {_shown(self.url)}: the search {name} there has other trials; name another database"
                    )
        except UserError:
            raise
        except Exception as error:
            why = reason(error.__cause__ or error)
            raise UserError(f"--storage {_shown(self.url)}: cannot write to the database ({why})") from error


def _shown(url: str) -> str:
    """A database URL without its password."""
    from sqlalchemy.engine import make_url

    try:
        return make_url(url).render_as_string(hide_password=True)
    except Exception:  # not a URL at all: there is no password in it to hide
        return url


def quiet_optuna() -> Any:
    """optuna without its log and warnings of experimental features; UserError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs optuna: pip install 'asgc[study]'") from error
    import warnings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna
