"""`PROGRAM check`: which command lines of its `train` are right, thousands of them in one process, nothing run.

A study checks all its runs with it before the first one starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, reason
from evaluation.cli.parser import Flags
from evaluation.cli.settings import flag
from evaluation.cli.train_command import C, TrainCommand
from evaluation.files import to_json

NOT_HERE = ("resume", "help", "help_all", "print_config")
TOLD = ("total_steps", "game")  # options told beside the whole configuration, where there are such


def main(argv: Sequence[str], command: TrainCommand[C]) -> int:
    """Read lines from a file or standard input, print one JSON line for each; 0 if all are right, else 2."""
    flags = Flags(
        f"{command.prog} check",
        "[FILE]",
        f"Check command lines of `{command.prog} train` without running them. FILE (default: standard input) holds one "
        'a line, as a JSON list of its arguments: ["--game", "CartPole", "--optimizer.lr", "0.001"]. A JSON line '
        'answers each: "ok" and "total_steps", "game" and "config", or all "errors".',
    )
    flags.section("general").add_argument("file", metavar="FILE", nargs="?", help="lines to check [standard input]")
    namespace, _ = flags.read(argv)
    if namespace.file in (None, "-"):
        lines = sys.stdin.read().splitlines()
    else:
        try:
            lines = Path(namespace.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {namespace.file}: {reason(error)}") from error
    parser = command.flags()
    all_right = True
    for line in lines:
        result = check_line(line, command, parser)
        all_right &= result["ok"]
        print(json.dumps(to_json(result), allow_nan=False))
    return 0 if all_right else 2


def check_line(line: str, command: TrainCommand[C], parser: Flags) -> dict[str, Any]:
    """The answer to one line."""
    try:
        arguments = json.loads(line)
    except ValueError:
        arguments = None
    if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
        return {"ok": False, "errors": [f"expected a JSON list of texts, the arguments of `{command.prog} train`"]}
    config, errors = configured(arguments, command, parser)
    if config is None or errors:
        return {"ok": False, "errors": errors}
    values = config.to_dict()
    return {"ok": True, **{name: values[name] for name in TOLD if name in values}, "config": values}


def configured(arguments: Sequence[str], command: TrainCommand[C], parser: Flags) -> tuple[C | None, list[str]]:
    """The configuration that these arguments of `train` mean, if there is one, and all that is wrong with them."""
    typed, errors = parser.read_all(arguments)
    errors += [f"{flag(name)}: not possible here" for name in NOT_HERE if typed.pop(name, None) is not None]
    try:
        config = command.layers(typed, errors)
    except UserError as error:
        return None, [*errors, *str(error).splitlines()]
    errors += config.faults(together=not errors)
    return config, errors
