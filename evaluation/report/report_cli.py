"""`asgc-eval report`: one self-contained HTML page of a study, or of a meta-learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText
from evaluation.files import atomic_write
from evaluation.plots.plot_cli import open_study, study_options

NAME = "report.html"  # in the study's folder


def main(argv: Sequence[str]) -> int:
    """Write the report and say where it is. Exit code 0; `UserError` when there is nothing to report."""
    flags = Flags("asgc-eval report", "STUDY [options]", "Write the report of a study: one HTML page, no network.")
    flags.path("study", "STUDY", "a study (also its name or file), folder of runs, archive, or asgc-meta's folder")
    flags.option("general", "--out", PathText | None, None, f"file to write; null: {NAME} in the study's folder")
    study_options(flags)
    namespace = flags.read(argv)[0]
    if namespace.study is None:
        raise UserError("say which study: asgc-eval report STUDY")

    from evaluation.meta.definition import DEFINITION
    from evaluation.plots.learned_figures import LearnedData
    from evaluation.report.page import build, of_learning
    from evaluation.study.spec import results

    folder = results(namespace.study)
    out = folder / NAME if namespace.out is None else Path(namespace.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file")
    if (folder / DEFINITION).is_file():
        if namespace.baseline is not None:
            raise UserError("--baseline is of a study: a meta-learning compares nothing")
        text = of_learning(LearnedData(folder))
    else:
        text = build(open_study(folder, namespace.seed, namespace.repetitions, namespace.baseline), folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, text)
    print(f"{out} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0
