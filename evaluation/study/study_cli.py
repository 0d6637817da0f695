"""`asgc-eval study`: run a study, or look how far it is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.commands import dispatch
from evaluation.cli.errors import EXIT_INTERRUPTED, UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import suggestion
from evaluation.study import program, spec
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
    flags = _flags("run", "Run what is missing of a study; stop and go on at any time.")
    dry = "print the runs and their cost, and run nothing"
    flags.section("general").add_argument("--dry-run", action="store_true", help=dry)
    _dir_option(flags)
    flags.option("general", "--parts", str | None, None, "run only these parts, separated by commas")
    flags.option("general", "--retries", int, 1, "new attempts at a run that was killed or crashed", allowed="[0, 100]")
    database = "database of the searches' trials, postgresql://...; null: SQLite in the folder"
    flags.option("general", "--storage", str | None, None, database)
    choose.add_flags(flags)
    options, _ = flags.read(argv)
    study = _study(options.study)
    command = program.resolve(study.program)
    path = _folder(options, study)
    files = StudyFiles(path)
    planner = Planner(study, files.begun())
    parts = _parts(options.parts, study)
    program.check(planner, command)
    if options.dry_run:
        return dry_run(planner, files, choose.places(options), parts)
    return run(options, planner, path, command, parts)


def run(
    options: argparse.Namespace, planner: Planner, path: Path, command: tuple[str, ...], parts: set[str] | None
) -> int:
    """Run what is missing in a study's folder; `parts` None: of all parts."""
    from evaluation.study.status import TerminalDisplay

    with StudyFolder(path, planner.study) as folder:
        plan = planner.plan(folder.objective)
        program.check_begun(folder, plan.runs, command)
        folder.adopt(plan)
        url = options.storage or f"sqlite:///{(path / SEARCH_DB).absolute()}"
        storage = Storage(url) if planner.searches else None
        with (
            choose.make(command, options) as engine,
            TerminalDisplay(folder, choose.places(options)) as display,
        ):
            driver = Driver(
                folder,
                planner,
                engine,
                command,
                display,
                threads=options.threads,
                retries=options.retries,
                storage=storage,
                parts=parts,
            )
            try:
                progress = driver.run()
            except KeyboardInterrupt:
                again = f"{options.study}{f' --dir {options.dir}' if options.dir else ''}"
                print(f"stopped; go on with: asgc-eval study run {again}", file=sys.stderr)
                return EXIT_INTERRUPTED
    done, failed = len(progress.of(State.FINISHED)), len(progress.of(State.FAILED))
    print(f"{done} of {len(progress.states)} runs finished in {path}; see: asgc-eval report {path}")
    left = [one for one in progress.of(State.MISSING) if parts is None or one.part in parts]
    if left:
        print(f"{len(left)} runs wait for the end of a search: {left[0]}, ...", file=sys.stderr)
    if failed:
        print(f"{failed} failed (logs in {path / LOGS}); run it again to try them once more", file=sys.stderr)
    return EXIT_FAILED_RUNS if failed or left else 0


def status_command(argv: Sequence[str]) -> int:
    """`asgc-eval study status`: on a terminal it follows the study until Ctrl-C or its end."""
    flags = _flags("status", "What is finished, running, failed and missing of a study.")
    flags.section("general").add_argument("--once", action="store_true", help="print it once, on a terminal too")
    _dir_option(flags)
    options, _ = flags.read(argv)
    study = _study(options.study)
    path = _folder(options, study)
    if not (path / DEFINITION).is_file():
        raise UserError(f"{path} is no study folder yet: asgc-eval study run {options.study} begins it")

    from rich.console import Console
    from rich.live import Live

    from evaluation.study.status import page

    def read() -> tuple[Any, bool]:
        files = StudyFiles(path)
        progress = look(Planner(study, files.begun()), files)
        return page(progress, files), not progress.of(*UNFINISHED)

    console = Console(highlight=False)
    content, finished = read()
    if options.once or not console.is_terminal or finished:
        console.print(content)
        return 0
    with Live(content, console=console, auto_refresh=False) as live:
        while not finished:
            time.sleep(REFRESH_S)
            content, finished = read()
            live.update(content, refresh=True)
    return 0


def dry_run(planner: Planner, files: StudyFiles, jobs: int, parts: set[str] | None) -> int:
    """Print every run that is left, and what they cost with `jobs` at a time."""
    from evaluation.study.status import duration

    progress = look(planner, files)
    left = [run for run in progress.of(*UNFINISHED) if parts is None or run.part in parts]
    known = {run.id: run for run in progress.plan.runs}
    for run in left:
        what = f"{' '.join(planner.study.program)} train {' '.join(known[run].arguments())}" if run in known else ""
        print(f"{run}: {what or 'its options wait for the search'}")
    cost = progress.cost(left)
    print(f"{cost.runs} runs to do, {len(progress.of(State.FINISHED))} finished", end="")
    if cost.unknown:
        print(f"; what {', '.join(cost.unknown)} costs is not known before a run has finished (or give `seconds`)")
    else:
        print(f": {duration(cost.seconds)} of one core, {duration(cost.seconds / jobs)} with {jobs} runs at a time")
    return 0


def _flags(command: str, description: str) -> Flags:
    flags = Flags(f"asgc-eval study {command}", "STUDY [options]", description)
    what = "YAML file, name of a shipped study, or study folder"
    flags.section("general").add_argument("study", metavar="STUDY", nargs="?", help=what)
    return flags


def _dir_option(flags: Flags) -> None:
    flags.option("general", "--dir", str | None, None, "study folder; null: runs/NAME")


def _study(name: str | None) -> Study:
    if name is None:
        raise UserError("say which study: a YAML file or the name of a shipped one")
    return spec.load(spec.find(name))


def _folder(options: argparse.Namespace, study: Study) -> Path:
    """The study's folder: named by --dir, or as the study itself, or runs/NAME."""
    if options.dir is not None:
        return Path(options.dir)
    return Path(options.study) if Path(options.study).is_dir() else Path("runs") / study.name


def _parts(names: str | None, study: Study) -> set[str] | None:
    if names is None:
        return None
    chosen = {name.strip() for name in names.split(",")}
    for name in sorted(chosen - study.parts.keys()):
        raise UserError(f"--parts {name}: no such part{suggestion(name, tuple(study.parts))}")
    return chosen
