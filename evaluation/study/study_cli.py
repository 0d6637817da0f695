"""`asgc-eval study`: run a study, or look how far it is."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation.cli.errors import EXIT_INTERRUPTED, UserError
from evaluation.cli.parser import Flags, dispatch
from evaluation.cli.values import PathText, suggestion
from evaluation.cli.values import path as expand
from evaluation.study import archived, program, spec
from evaluation.study.driver import Driver
from evaluation.study.engines import choose
from evaluation.study.plan import Planner
from evaluation.study.progress import UNFINISHED, State, look
from evaluation.study.search import Storage
from evaluation.study.spec import DEFINITION, LOGS, SEARCH_DB, Study
from evaluation.study.study_folder import StudyFiles, StudyFolder

USAGE = """\
asgc-eval study: runs of a study, planned, carried out and resumed as a whole

  asgc-eval study run STUDY       run what is missing of it (`asgc-eval study run --help`)
  asgc-eval study status STUDY    a table of what is finished, running, failed, missing

STUDY is a YAML file, one of the toolkit's own names (control, smoke, ...), or a study folder.
"""
EXIT_FAILED_RUNS = 1
REFRESH_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Dispatch `asgc-eval study ARGV`; returns the exit code."""
    return dispatch(argv, {"run": run_command, "status": status_command}, USAGE, group="study")


def run_command(argv: Sequence[str]) -> int:
    """`asgc-eval study run`: exit code 0 when all runs have finished, 1 when some failed, 130 when interrupted."""
    description = "Run what is missing of a study; stop and go on at any time."
    flags = _flags("run", description, "--dry-run", "print the runs and their cost, and run nothing")
    flags.option("general", "--parts", str | None, None, "run only these parts, separated by commas")
    what = "an exported archive of this study, made elsewhere: it is copied into the folder, its runs count as finished"
    flags.option("general", "--archive", PathText | None, None, what)
    flags.option("general", "--retries", int, 1, "new attempts at a run that was killed or crashed", allowed="[0, 100]")
    database = "database of the searches' trials, postgresql://...; null: SQLite in the folder"
    flags.option("general", "--storage", str | None, None, database)
    choose.add_flags(flags)
    options = flags.read(argv)[0]
    study, path = _study(options)
    programs = program.resolve_all(study)
    with contextlib.ExitStack() as unless_adopted:
        if options.archive is not None:
            if options.dry_run:
                raise UserError("--archive copies runs into the study's folder: leave it out with --dry-run")
            copy, count = archived.add(Path(options.archive), path, study.name)
            unless_adopted.callback(archived.remove, copy)
            print(f"{count} runs taken from {options.archive}")
        return _run(options, study, path, programs, unless_adopted)


def _run(
    options: argparse.Namespace,
    study: Study,
    path: Path,
    programs: program.Programs,
    unless_adopted: contextlib.ExitStack,
) -> int:
    files = StudyFiles(path)
    planner = Planner(study, files.begun())
    parts = _parts(options.parts, study)
    program.check(planner, programs)
    plan = planner.plan(files.objective)
    files.check_lengths([*(run.id for run in plan.runs), *plan.waiting])
    if options.dry_run:
        return dry_run(planner, files, choose.places(options), parts)
    from evaluation.study.status import TerminalDisplay

    with StudyFolder(path, planner.study) as folder:
        plan = planner.plan(folder.objective)
        program.check_begun(folder, plan.runs, programs)
        folder.adopt(plan)
        unless_adopted.pop_all()
        database = path / SEARCH_DB if options.storage is None else _database(options.storage)
        storage = Storage(database) if planner.searches else None
        how = {"threads": options.threads, "retries": options.retries, "storage": storage, "parts": parts}
        with choose.make(programs.values(), options) as engine:
            try:
                with TerminalDisplay(folder, choose.places(options)) as display:
                    progress = Driver(folder, planner, engine, programs, display, **how).run()
            except KeyboardInterrupt:
                again = f"{options.study}{f' --dir {options.dir}' if options.dir else ''}"
                print(f"stopped; go on with: asgc-eval study run {again}", file=sys.stderr)
                return EXIT_INTERRUPTED
    done, failed = len(progress.of(State.FINISHED)), len(progress.of(State.FAILED))
    print(f"{done} of {len(progress.states)} runs finished in {path}; see: asgc-eval report {path}")
    left = progress.of(State.MISSING, parts=parts)
    if left:
        print(f"{len(left)} runs wait for the end of a search: {left[0]}, ...", file=sys.stderr)
    if failed:
        print(f"{failed} failed (logs in {path / LOGS}); run it again to try them once more", file=sys.stderr)
    return EXIT_FAILED_RUNS if failed or left else 0


def status_command(argv: Sequence[str]) -> int:
    """`asgc-eval study status`: on a terminal it follows the study until Ctrl-C or its end."""
    description = "What is finished, running, failed and missing of a study."
    flags = _flags("status", description, "--once", "print it once, on a terminal too")
    options = flags.read(argv)[0]
    study, path = _study(options)
    if not (path / DEFINITION).is_file():
        raise UserError(f"{path} is no study folder yet: asgc-eval study run {options.study} begins it")

    from rich.console import Console
    from rich.live import Live

    from evaluation.study.status import page

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            files = StudyFiles(path)
            progress = look(Planner(study, files.begun()), files)
            live.update(page(progress, files), refresh=True)
            if options.once or not console.is_terminal or not progress.of(*UNFINISHED):
                return 0
            time.sleep(REFRESH_S)


def dry_run(planner: Planner, files: StudyFiles, jobs: int, parts: set[str] | None) -> int:
    """Print every run that is left, and what they cost with `jobs` at a time."""
    from evaluation.study.status import duration

    progress = look(planner, files)
    left = progress.of(*UNFINISHED, parts=parts)
    known = {run.id: run for run in progress.plan.runs}
    for run in left:
        words = [*planner.study.programs[run.task], "train", *known[run].arguments()] if run in known else []
        what = " ".join(words)
        print(f"{run}: {what or 'its options wait for the search'}")
    seconds, unknown = progress.cost(left)
    cost = f": {duration(seconds)} of one core, {duration(seconds / jobs)} with {jobs} runs at a time"
    if unknown:
        cost = f"; what {', '.join(unknown)} costs is not known before a run has finished (or give `seconds`)"
    print(f"{len(left)} runs to do, {len(progress.of(State.FINISHED))} finished{cost}")
    return 0


def _flags(command: str, description: str, switch: str, help: str) -> Flags:
    """What both commands take, with a switch of their own."""
    flags = Flags(f"asgc-eval study {command}", "STUDY [options]", description)
    general = flags.section("general")
    what = "YAML file, name of a shipped study, or study folder"
    flags.path("study", "STUDY", what)
    general.add_argument(switch, action="store_true", help=help)
    flags.option("general", "--dir", PathText | None, None, "study folder; null: runs/NAME")
    return flags


def _study(options: argparse.Namespace) -> tuple[Study, Path]:
    """The study and its folder: named by --dir, or as the study itself, or runs/NAME."""
    if options.study is None:
        raise UserError("say which study: a YAML file or the name of a shipped one")
    study = spec.load(spec.find(options.study))
    return study, spec.default_folder(options.study) if options.dir is None else Path(options.dir)


def _database(storage: str) -> str:
    """What --storage says, with the home folder and variables in the path of a SQLite database."""
    scheme, separator, file = storage.partition("sqlite:///")
    if scheme or not file:
        return storage
    try:
        return separator + expand(file)
    except ValueError as error:
        raise UserError(f"--storage {storage}: {error}") from error


def _parts(names: str | None, study: Study) -> set[str] | None:
    if names is None:
        return None
    chosen = {name.strip() for name in names.split(",")}
    for name in sorted(chosen - study.parts.keys()):
        raise UserError(f"--parts {name}: no such part{suggestion(name, tuple(study.parts))}")
    return chosen
