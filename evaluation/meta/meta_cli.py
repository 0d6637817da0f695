"""`asgc-meta`: learn a preset, show one, train with one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evaluation.cli.errors import main_guard
from evaluation.cli.parser import dispatch

USAGE = """\
asgc-meta: learn ASGC's own parameters over a distribution of tasks

  asgc-meta learn DEFINITION      learn a preset (a YAML file or a shipped name), or go on with it
  asgc-meta around FOLDER         how much it matters: runs with one option at a time moved away
  asgc-meta show PRESET           what it says: options by kind of layer, how it came about
  asgc-meta apply PRESET COMMAND  train with it: asgc-meta apply PRESET asgc-rl train --game Pong

  PRESET is a file, the name of one that comes with asgc, or the folder that it was learned in

  asgc-meta COMMAND --help        options of a command
  asgc-meta --version             version
"""
# What is imported once and forked for every run of a task by class (evaluation.study.engines.forked).
PRELOAD = ("evaluation.meta.class_task", "asgc.optimizer", "asgc.meta", "asgc.implementations.cpu")
COMMANDS = {
    "learn": "evaluation.meta.learn_cli:learn_command",
    "around": "evaluation.meta.around_cli:around_command",
    "show": "evaluation.meta.preset_cli:show_command",
    "apply": "evaluation.meta.preset_cli:apply_command",
    "train": "evaluation.meta.class_task:train_command",  # for workers
}


@main_guard
def main(argv: Sequence[str] | None = None) -> int:
    """Run `asgc-meta` with these arguments; returns the exit code (0 done, 2 the user can mend it, 130 interrupted)."""
    return dispatch(sys.argv[1:] if argv is None else argv, COMMANDS, USAGE)


if __name__ == "__main__":
    sys.exit(main())
