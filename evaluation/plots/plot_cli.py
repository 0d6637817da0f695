"""`asgc-eval plot`: the figures of a study or of a run as files, each with its data beside it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.analysis.data.run_reader import PLOTS
from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText, did_you_mean, words
from evaluation.runs.run_folder import CONFIG

if TYPE_CHECKING:
    from evaluation.plots.learned_figures import LearnedData
    from evaluation.plots.single_run import RunData
    from evaluation.plots.study_data import StudyData

FORMATS = ("png", "svg", "pdf")


def main(argv: Sequence[str]) -> int:
    """Draw the figures; says which files were written and what was left out, and why.

    Exit code 0, or 1 when nothing could be drawn. Raises:
        UserError: what to draw is not named or not there, unknown figures or formats, a missing package.
    """
    namespace = _flags().read(argv)[0]
    if namespace.path is None:
        raise UserError("say what to draw: asgc-eval plot STUDY, or asgc-eval plot RUN")
    formats = _formats(namespace.format)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("pictures need matplotlib: pip install 'asgc[study]'")

    from evaluation.meta.definition import DEFINITION
    from evaluation.plots import catalog, matplotlib_files
    from evaluation.plots.figure import Omitted, write_csv
    from evaluation.plots.learned_figures import LearnedData
    from evaluation.plots.single_run import RunData
    from evaluation.study.spec import results

    path = results(namespace.path, single=True)
    source: RunData | StudyData | LearnedData
    if (path / CONFIG).is_file():
        source = RunData(path)
    elif (path / DEFINITION).is_file():
        source = LearnedData(path)
    else:
        source = open_study(path, namespace.seed, namespace.repetitions, namespace.baseline)
    out = path / PLOTS if namespace.out is None else Path(namespace.out)
    made = 0
    for _, found in catalog.figures(source, words(namespace.only)):
        for figure in found:
            if isinstance(figure, Omitted):
                print(f"left out {figure.name}: {figure.reason}", file=sys.stderr)
                continue
            out.mkdir(parents=True, exist_ok=True)
            paths = matplotlib_files.save(figure, out, formats, source.looks)
            table = out / f"{figure.name}.csv"
            write_csv(figure, table)
            print(*paths, table, sep="\n")
            made += 1
    for problem in [] if isinstance(source, LearnedData) else source.data.left_out():
        print(problem, file=sys.stderr)
    return 0 if made else 1


def open_study(path: Path, seed: int, repetitions: int, baseline: str | None) -> StudyData:
    """A study, folder of runs or archive as figures need it.

    Raises:
        UserError: as `dataset.load`, or no run is of the baseline.
    """
    from evaluation.analysis.data import dataset
    from evaluation.plots.study_data import StudyData

    study = StudyData(dataset.load(path), seed=seed, repetitions=repetitions, baseline=baseline)
    if baseline is not None and baseline not in study.optimizers:
        known = ", ".join(study.optimizers)
        raise UserError(f"--baseline {baseline}: no runs of it{did_you_mean(baseline, study.optimizers)}; {known}")
    return study


def study_options(flags: Flags) -> None:
    """The flags of what a study's intervals are made with."""
    flags.option("statistics", "--baseline", str | None, None, "optimizer to compare with; null: adam where it is")
    flags.option("statistics", "--seed", int, 0, "seed of the bootstrap", allowed="[0, 4294967295]")
    flags.option("statistics", "--repetitions", int, 2000, "bootstrap repetitions of bands", allowed="[100, 1000000]")


def _flags() -> Flags:
    flags = Flags(
        "asgc-eval plot", "STUDY|RUN [options]", "Draw the figures of a study, a single run, or a meta-learning."
    )
    flags.path(
        "path", "STUDY|RUN", "a study (also its name or file), folder of runs, archive, one run, or asgc-meta's folder"
    )
    flags.option("general", "--out", PathText | None, None, f"folder for the files; null: {PLOTS}/ in the study or run")
    flags.option("general", "--only", str | None, None, "names of figures, separated by commas; null: all")
    flags.option("general", "--format", str, "png", "png, svg, pdf, or several separated by commas")
    study_options(flags)
    return flags


def _formats(text: str) -> list[str]:
    found = list(dict.fromkeys(words(text)))
    for name in found:
        if name not in FORMATS:
            raise UserError(f"--format {name}: must be of {', '.join(FORMATS)}")
    if not found:
        raise UserError(f"--format: name at least one of {', '.join(FORMATS)}")
    return found
