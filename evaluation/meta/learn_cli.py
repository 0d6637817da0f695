"""`asgc-meta learn`: from a definition to a preset."""

from __future__ import annotations

import argparse
import functools
import itertools
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.cli.config_file import dump_yaml
from evaluation.cli.errors import EXIT_INTERRUPTED, UserError, tell
from evaluation.cli.parser import Flags
from evaluation.cli.progress import progress
from evaluation.cli.values import PathText, words
from evaluation.files import atomic_write
from evaluation.meta import class_task, definition, learners
from evaluation.meta.definition import DEFINITION, Definition
from evaluation.meta.particles import JOURNAL, PARTICLES, RUN_FOLDERS, Journal, Key, Particles, arguments, seed_of
from evaluation.runs import provenance
from evaluation.runs.lock import FolderLock
from evaluation.study import program
from evaluation.study.engines import choose
from evaluation.study.spec import LOCK, LOGS, RUNS, StudyFaults
from evaluation.study.status import duration

RUNS_OF_META = RUNS / "meta"


def learn_command(argv: Sequence[str]) -> int:
    """`asgc-meta learn`."""
    flags = Flags("asgc-meta learn", "DEFINITION [options]", "Learn a preset; stop and go on at any time.")
    flags.path("definition", "DEFINITION", "YAML file, name of a shipped definition, or folder")
    general = flags.section("general")
    general.add_argument("--dry-run", action="store_true", help="check everything, print the cost, and learn nothing")
    flags.option("general", "--dir", PathText | None, None, "folder; null: runs/meta/NAME")
    flags.option("general", "--tasks", str | None, None, "learn from these of its tasks alone, separated by commas")
    flags.option("general", "--retries", int, 1, "new attempts at a run that was killed or crashed", allowed="[0, 100]")
    choose.add_flags(flags)
    options = flags.read(argv)[0]
    if options.definition is None:
        raise UserError("say what to learn: a YAML file or the name of a shipped definition")
    file = definition.find(options.definition)
    found = definition.load(file)
    if options.tasks is not None:
        found = definition.of_tasks(found, words(options.tasks), str(file))
    folder = Path(options.dir) if options.dir else file.parent if file.name == DEFINITION else RUNS_OF_META / found.name
    evolution = found.learner.name == "evolution"
    programs = programs_of(found) if evolution else {}
    journal = Journal(folder / JOURNAL)
    known = evolution and wanted(found, found.learner.steps, 2 * found.learner.pairs) <= journal.rows.keys()
    if options.dry_run or not known:
        _check(found, file)
    tell(_cost(found, journal, choose.places(options) if evolution else 1))
    if options.dry_run:
        return 0

    def run() -> None:
        _keep(found, folder)
        _learn(found, folder, Journal(folder / JOURNAL), programs, options)  # as it is now that nobody else writes it

    return in_folder(folder, run, f"asgc-meta learn {' '.join(argv)}")


def in_folder(folder: Path, run: Callable[[], None], again: str) -> int:
    """Run what nobody else may do in the folder meanwhile; returns the exit code. `again` is the command that goes on
    after Ctrl-C."""
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder / LOCK)
    try:
        run()
    except KeyboardInterrupt:
        tell(f"stopped; go on with: {again}")
        return EXIT_INTERRUPTED
    finally:
        lock.release()
    return 0


@contextmanager
def workers(
    found: Definition,
    folder: Path,
    journal: Journal,
    programs: Mapping[str, tuple[str, ...]],
    options: argparse.Namespace,
    bar: tuple[str, int, str, str],
) -> Iterator[Particles]:
    """What makes the runs of particles, on the engine that the options ask for, which starts with the first run; in the
    end their folders go.

    Args:
        bar: arguments of `progress`.
    """
    with ExitStack() as stack:
        engine = functools.cache(lambda: stack.enter_context(choose.make(programs.values(), options)))
        how: dict[str, Any] = {"threads": options.threads, "retries": options.retries}
        yield Particles(found, folder, journal, engine, programs, told=stack.enter_context(progress(*bar)), **how)
    for name in (PARTICLES, RUN_FOLDERS):
        shutil.rmtree(folder / name, ignore_errors=True)


def cost(found: Definition, keys: Set[Key], journal: Journal, known: Mapping[str, float], places: int) -> str:
    """What the runs of `keys` that the journal lacks cost, in words, where the seconds of a task's runs are `known`."""
    left = Counter(task for _, _, task in keys - journal.rows.keys())
    words = f"{found.name}: {left.total():,} runs of {len(keys):,} to do"
    if missing := [task for task in found.tasks if task not in known]:
        return f"{words}; what {', '.join(missing)} costs is not known before a run has finished (or give `seconds`)"
    seconds = sum(count * known[task] for task, count in left.items())
    return f"{words}: {duration(seconds)} of one core, {duration(seconds / places)} with {places} runs at a time"


def _learn(
    found: Definition,
    folder: Path,
    journal: Journal,
    programs: Mapping[str, tuple[str, ...]],
    options: argparse.Namespace,
) -> None:
    import torch

    torch.set_num_threads(options.threads)
    began, path = time.monotonic(), learners.PathFile(found, folder)
    known = len(path.steps)

    def told(step: learners.Step) -> None:
        if step.number < known:  # a learning that goes on takes the same way again
            return
        path.add(step)
        done = step.number + 1 - known
        left = (time.monotonic() - began) / done * (found.learner.steps - step.number - 1)
        scores = ", ".join(f"{task} {value:.4g}" for task, value in step.tasks.items())
        tell(f"step {step.number + 1} of {found.learner.steps}: {scores}; {duration(left)} left")

    if found.learner.name == "evolution":
        bar = found.name, _runs_a_step(found), "learning", "runs of a step"
        with workers(found, folder, journal, programs, options, bar) as particles:
            vector = learners.learn(found, folder, particles, told)
    else:
        vector = learners.learn(found, folder, None, told)
    chosen = f" --tasks {options.tasks}" if options.tasks else ""
    command = f"asgc-meta learn {options.definition}{chosen}"
    preset = learners.preset_of(found, vector, _provenance(found, journal, command))
    file = folder / f"{found.name}.json"
    preset.save(file)
    print(f"learned: {file}; see: asgc-meta show {folder}; train with it: --optimizer.preset {file}")


def programs_of(found: Definition) -> dict[str, tuple[str, ...]]:
    """By task, the program that makes its runs, as it is executed."""
    names = {name: task.program or "asgc-meta" for name, task in found.tasks.items()}
    return {name: program.resolve((one,)) for name, one in names.items()}


def _check(found: Definition, where: Path) -> None:
    """Have the trainers check the command lines, and make the classes, before anything runs."""
    places: dict[str, list[str]] = defaultdict(list)  # by program, and beside them the lines
    lines: dict[str, list[list[str]]] = defaultdict(list)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        preset = learners.preset_of(found, found.space.start(found.start))
        file = Path(place) / "start.json"
        preset.save(file)
        for key, tasks in (("tasks", found.tasks), ("held_out", found.held_out)):
            for name, task in tasks.items():
                if task.cls:
                    class_task.make(task.cls, task.options, f"{key}.{name}.class")
                    continue
                places[task.program].append(f"{key}.{name}")
                rate = learners.rate_of(found, preset)
                lines[task.program].append(arguments(task, file, rate, seed_of(found, name, 0)))
        for one, asked in lines.items():  # one process for all lines of a program
            answers = program.ask(program.resolve((one,)), asked)
            for at, answer in zip(places[one], answers, strict=True):
                faults += [f"{at}: {fault}" for fault in answer.get("errors", [])]
    if faults:
        raise StudyFaults(str(where), faults)


def _keep(found: Definition, folder: Path) -> None:
    """The definition in the folder; `UserError` where it holds another."""
    file = folder / DEFINITION
    if file.is_file():
        before, now = (  # steps may grow
            replace(one, learner=replace(one.learner, steps=0)) for one in (definition.load(file), found)
        )
        for what in ("name", "rule", "options", "space", "start", "learner", "tasks"):
            if getattr(before, what) != getattr(now, what):
                raise UserError(f"{folder} was learned with another {what}: choose another --dir")
    atomic_write(file, dump_yaml({"name": found.name, **found.values}))


def _runs_a_step(found: Definition) -> int:
    return 2 * found.learner.pairs * len(found.tasks)


def wanted(found: Definition, steps: int, particles: int, first: int = 0) -> set[Key]:
    """The runs of so many steps from the first one on, of so many particles each."""
    return set(itertools.product(range(first, first + steps), range(particles), found.tasks))


def _cost(found: Definition, journal: Journal, places: int) -> str:
    """What is left, in words."""
    how = found.learner
    if how.name != "evolution":
        inner = how.truncation * how.runs * len(found.tasks) * (2 * how.pairs if how.name == "persistent" else 1)
        return f"{found.name}: {how.name}, {how.steps} steps of {inner:,} inner steps each, in this process"
    keys = wanted(found, how.steps, 2 * how.pairs)
    return cost(found, keys, journal, {**found.seconds, **journal.seconds()}, places)


def _provenance(found: Definition, journal: Journal, command: str) -> dict[str, Any]:
    rows = journal.rows.values()
    own = {"runs": len(rows), "core_seconds": round(sum(row.seconds for row in rows))} if rows else {}
    return {
        "definition": dict(found.values),
        "question": found.question,
        "command": command,
        **own,
        **{key: value for key, value in provenance.own_code().items() if value is not None},
    }
