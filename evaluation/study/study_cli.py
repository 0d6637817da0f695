"""`asgc-eval study`: run a study, or look how far it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.commands import dispatch
from evaluation.cli.config_file import differences, read_config
from evaluation.cli.errors import EXIT_INTERRUPTED, UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import suggestion
from evaluation.runs.run_folder import CONFIG
from evaluation.study import spec
from evaluation.study.cost import cost, seconds_per_run
from evaluation.study.engines.jobs import resolve_program
from evaluation.study.plan import PlannedRun, Planner
from evaluation.study.spec import Study, StudyFaults
from evaluation.study.study_folder import DEFINITION, SEARCH_DB, Results, StudyFolder, begun_options

USAGE = """\
asgc-eval study: runs of a study, planned, carried out and resumed as a whole

  asgc-eval study run STUDY       run what is missing of it (`asgc-eval study run --help`)
  asgc-eval study status STUDY    a table of what is finished, running, failed, missing

STUDY is a YAML file, one of the toolkit's own names (control, smoke, ...), or a study folder.
"""
STUDY_HELP = "YAML file, name of a shipped study, or study folder"
EXIT_FAILED_RUNS = 1
REFRESH_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Dispatch `asgc-eval study ARGV`; returns the exit code."""
    return dispatch(argv, {"run": run_command, "status": status_command}, USAGE, group="study")


def run_command(argv: list[str]) -> int:
    """`asgc-eval study run`: exit code 0 when all runs have finished, 1 when some failed, 130 when interrupted."""
    flags = Flags(
        "asgc-eval study run", "STUDY [options]", "Run what is missing of a study; stop and go on at any time."
    )
    general = flags.section("general")
    general.add_argument("study", metavar="STUDY", nargs="?", help=STUDY_HELP)
    general.add_argument("--dry-run", action="store_true", help="print the runs and their cost, and run nothing")
    flags.option("general", "--dir", str | None, None, "study folder; null: runs/NAME")
    flags.option("general", "--parts", str | None, None, "run only these parts, separated by commas")
    flags.option("general", "--retries", int, 1, "new attempts at a run that was killed or crashed", allowed="[0, 100]")
    flags.option(
        "general",
        "--storage",
        str | None,
        None,
        "database of the searches' trials, postgresql://...; null: SQLite in the folder",
    )
    flags.option("engine", "--engine", str, "local", "local (this machine) or ray (a cluster)")
    flags.option(
        "engine", "--jobs", int | None, None, "runs at a time; null: as many as cores (local)", allowed="[1, 100000]"
    )
    flags.option("engine", "--threads", int, 1, "CPU threads of each run", allowed="[1, 1024]")
    flags.option("engine", "--gpus", str | None, None, "local: GPUs to spread the runs over, such as 0,1")
    flags.option("engine", "--runs-per-gpu", int, 1, "runs that share one GPU", allowed="[1, 1000]")
    flags.option("engine", "--gpu-share", float, 0.0, "ray: GPUs of each run, such as 0.25", allowed="[0, 64]")
    flags.option("engine", "--address", str, "auto", "ray: auto (a cluster that runs), local (a new one), or HOST:PORT")
    options, _ = flags.read(argv)
    study = _study(options.study)
    program = resolve_program(study.program)
    path = _folder(options, study)
    planner = Planner(study, begun_options(path))
    parts = _parts(options.parts, study)
    check(study, planner, program)
    if options.dry_run:
        return dry_run(study, planner, path, options.jobs or _jobs(options), parts)

    from evaluation.study.driver import Driver
    from evaluation.study.search import Storage
    from evaluation.study.status import TerminalDisplay

    with StudyFolder(path, study) as folder:
        results = Results(path)
        plan = planner.plan(results.objective)
        check_begun(folder, plan.runs, program)
        folder.adopt(plan)
        storage = None
        if planner.searches:
            storage = Storage(options.storage or f"sqlite:///{(path / SEARCH_DB).absolute()}")
        engine = _engine(options, program)
        try:
            with TerminalDisplay(study, results, options.jobs or _jobs(options)) as display:
                driver = Driver(
                    folder,
                    planner,
                    engine,
                    program,
                    display,
                    threads=options.threads,
                    retries=options.retries,
                    storage=storage,
                    parts=parts,
                )
                progress = driver.run()
        except KeyboardInterrupt:
            again = f"{options.study}{f' --dir {options.dir}' if options.dir else ''}"
            print(f"stopped; go on with: asgc-eval study run {again}", file=sys.stderr)
            return EXIT_INTERRUPTED
        finally:
            engine.close()
    done, total = len(progress.finished), progress.total
    print(f"{done} of {total} runs finished in {path}; see: asgc-eval report {path}")
    undone = [run.id for run in progress.plan.runs if run.id not in progress.finished] + progress.plan.waiting
    left = [run for run in undone if run not in progress.failed and (parts is None or run.split("/")[0] in parts)]
    if left:
        print(f"{len(left)} runs wait for the end of a search: {left[0]}, ...", file=sys.stderr)
    if progress.failed:
        print(
            f"{len(progress.failed)} failed (logs in {path / 'logs'}); run it again to try them once more",
            file=sys.stderr,
        )
    return EXIT_FAILED_RUNS if progress.failed or left else 0


def status_command(argv: list[str]) -> int:
    """`asgc-eval study status`: on a terminal it follows the study until Ctrl-C or its end."""
    flags = Flags(
        "asgc-eval study status", "STUDY [options]", "What is finished, running, failed and missing of a study."
    )
    general = flags.section("general")
    general.add_argument("study", metavar="STUDY", nargs="?", help=STUDY_HELP)
    general.add_argument("--once", action="store_true", help="print it once, on a terminal too")
    flags.option("general", "--dir", str | None, None, "study folder; null: runs/NAME")
    options, _ = flags.read(argv)
    study = _study(options.study)
    path = _folder(options, study)
    if not (path / DEFINITION).is_file():
        raise UserError(f"{path} is no study folder yet: asgc-eval study run {options.study} begins it")

    from rich.console import Console, Group
    from rich.live import Live

    from evaluation.study.status import duration, failure_lines, look, running_lines, table

    def page() -> tuple[Any, bool]:
        progress, states, left = look(study, path)
        known = f"about {duration(left.seconds)} of one core" if not left.unknown else "cost unknown"
        lines = [*running_lines(states, path), *failure_lines(progress.failed)]
        lines.append(f"{left.runs} runs to do, {known}")
        return Group(table(states), *lines), left.runs == 0

    console = Console(highlight=False)
    content, finished = page()
    if options.once or not console.is_terminal or finished:
        console.print(content)
        return 0
    with Live(content, console=console, auto_refresh=False) as live:
        while not finished:
            time.sleep(REFRESH_S)
            content, finished = page()
            live.update(content, refresh=True)
    return 0


def check(study: Study, planner: Planner, program: Sequence[str]) -> None:
    """Have the program check every combination of options, in one process, before the first run.

    Raises:
        StudyFaults: all that it finds, each with the runs' place in the study.
    """
    runs: dict[tuple[str, ...], PlannedRun] = {}
    for run in planner.samples():
        runs.setdefault(tuple(run.arguments()), run)
    answers = _ask(program, runs)
    faults: dict[str, PlannedRun] = {}
    for answer, run in zip(answers, runs.values(), strict=True):
        for fault in answer.get("errors", []):
            faults.setdefault(fault, run)
    found = [f"{'/'.join(run.id.split('/')[:4])}: {fault}" for fault, run in faults.items()]
    if found or planner.faults:
        raise StudyFaults(study.name, planner.faults + found)


def check_begun(folder: StudyFolder, runs: Sequence[PlannedRun], program: Sequence[str]) -> None:
    """Refuse to go on with runs whose options mean something else by now: a preset or a default has changed.

    Raises:
        UserError: names the first runs with what differs.
    """
    begun = [run for run in runs if (folder.path / run.id / CONFIG).is_file()]
    conflicts = []
    for run, answer in zip(begun, _ask(program, [run.arguments() for run in begun]), strict=True):
        if "config" in answer:  # the program says what a command line comes to
            before = read_config(folder.path / run.id / CONFIG)
            found = differences(before, answer["config"], ignore=("run_dir",))
            conflicts += [f"{run.id} {key} {old!r} -> {new!r}" for key, (old, new) in found.items()]
    folder.refuse(conflicts)


def _ask(program: Sequence[str], lines: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    """What the program's `check` says of command lines, one answer each."""
    asked = [json.dumps(list(arguments)) + "\n" for arguments in lines]
    if not asked:
        return []
    try:
        done = subprocess.run([*program, "check"], input="".join(asked), capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot start {program[0]}: {error.strerror}") from error
    answers = done.stdout.splitlines()
    if len(answers) != len(asked):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"`{' '.join(program)} check` failed: {last}")
    return [json.loads(answer) for answer in answers]


def dry_run(study: Study, planner: Planner, path: Path, jobs: int, parts: set[str] | None) -> int:
    """Print every run that is left, and what they cost."""
    from evaluation.study.status import duration

    results = Results(path)
    plan = planner.plan(results.objective)
    seconds = seconds_per_run(plan, results, study.seconds)
    todo = [run for run in plan.runs if results.summary(run.id) is None and (parts is None or run.part in parts)]
    waiting = [run for run in plan.waiting if parts is None or run.split("/")[0] in parts]
    for run in todo:
        print(f"{run.id}: {' '.join(study.program)} train {' '.join(run.arguments())}")
    for name in waiting:
        print(f"{name}: its options wait for the search")
    left = cost([run.id for run in todo] + waiting, seconds)
    finished = len(plan.runs) - sum(results.summary(run.id) is None for run in plan.runs)
    print(f"{left.runs} runs to do, {finished} finished", end="")
    if left.unknown:
        print(f"; what {', '.join(left.unknown)} costs is not known before a run has finished (or give `seconds`)")
    else:
        print(f": {duration(left.seconds)} of one core, {duration(left.wall(jobs))} with {jobs} runs at a time")
    return 0


def _study(name: str | None) -> Study:
    if name is None:
        raise UserError("say which study: a YAML file or the name of a shipped one")
    return spec.load(spec.find(name))


def _folder(options: Any, study: Study) -> Path:
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


def _gpus(options: Any) -> list[str]:
    return [gpu.strip() for gpu in (options.gpus or "").split(",") if gpu.strip()]


def _jobs(options: Any) -> int:
    from evaluation.study.engines.local import cores

    gpus = _gpus(options)
    return len(gpus) * options.runs_per_gpu if gpus else max(1, cores() // options.threads)


def _engine(options: Any, program: tuple[str, ...]) -> Any:
    if options.engine == "local":
        from evaluation.study.engines.forked import ForkServer
        from evaluation.study.engines.jobs import Process
        from evaluation.study.engines.local import LocalEngine

        server = ForkServer.of(program, options.threads)
        return LocalEngine(options.jobs or _jobs(options), _gpus(options), server.start if server else Process)
    if options.engine == "ray":
        from evaluation.study.engines.ray import RayEngine

        return RayEngine(
            options.address, jobs=options.jobs, threads=options.threads, gpus=options.gpu_share, retries=options.retries
        )
    raise UserError(f"--engine {options.engine}: there are local and ray")
