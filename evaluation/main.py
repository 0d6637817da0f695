"""`asgc-eval`: run studies, look at their results, draw and report them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evaluation.cli.errors import main_guard
from evaluation.cli.parser import dispatch

USAGE = """\
asgc-eval: studies, statistics, pictures and reports of training runs

  asgc-eval study run STUDY       run a study (a YAML file or a shipped name), or go on with it
  asgc-eval study status STUDY    what is finished, running, failed, missing
  asgc-eval plot STUDY|RUN        draw the figures, with their data as CSV
  asgc-eval report STUDY          one HTML page: figures, tables, claims with intervals, provenance
  asgc-eval compare STUDY         the claims and their tables in the terminal
  asgc-eval export STUDY FOLDER   the results in a few small files

  STUDY is a YAML file, a shipped name or a folder; runs are looked for in runs/NAME

  asgc-eval COMMAND --help        options of a command
  asgc-eval --version             version
"""
COMMANDS = {
    "study": "evaluation.study.study_cli:main",
    "plot": "evaluation.plots.plot_cli:main",
    "report": "evaluation.report.report_cli:main",
    "compare": "evaluation.analysis.compare_cli:main",
    "export": "evaluation.analysis.compare_cli:export_main",
}


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Run `asgc-eval` with these arguments; returns the exit code (0 done, 1 runs failed, 2 the user can mend it)."""
    return dispatch(sys.argv[1:] if argv is None else argv, COMMANDS, USAGE)


if __name__ == "__main__":
    sys.exit(main())
