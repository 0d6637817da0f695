"""`asgc-rl check`: which command lines of `asgc-rl train` are right, thousands of them in one process, nothing run.

A study checks all its runs with it before the first one starts.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluation.cli.errors import UserError, reason
from evaluation.cli.parser import Flags
from evaluation.files import to_json
from rl import config_check, config_io, tasks
from rl.config import EnvConfig, TrainConfig, leaves
from rl.train_flags import layers, nested, train_flags


def main(argv: Sequence[str]) -> int:
    """Read lines from a file or standard input, print one JSON line for each; 0 if all are right, else 2."""
    flags = Flags(
        "asgc-rl check",
        "[FILE]",
        "Check command lines of `asgc-rl train` without running them. FILE (default: standard input) holds one a line, "
        'as a JSON list of its arguments: ["--game", "CartPole", "--optimizer.lr", "0.001"]. A JSON line answers each: '
        '"ok" and "total_steps", "game" and "config", or all "errors".',
    )
    flags.section("general").add_argument("file", metavar="FILE", nargs="?", help="lines to check [standard input]")
    namespace, _ = flags.read(list(argv))
    if namespace.file in (None, "-"):
        lines = sys.stdin.read().splitlines()
    else:
        try:
            lines = Path(namespace.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {namespace.file}: {reason(error)}") from error
    parser = train_flags(TrainConfig())
    all_right = True
    for line in lines:
        result = check_line(line, parser)
        all_right &= result["ok"]
        print(json.dumps(to_json(result), allow_nan=False))
    return 0 if all_right else 2


def check_line(line: str, parser: Flags) -> dict[str, Any]:
    """The answer to one line."""
    try:
        arguments = json.loads(line)
    except ValueError:
        arguments = None
    if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
        return {"ok": False, "errors": ["expected a JSON list of texts, the arguments of `asgc-rl train`"]}
    config, errors = configured(arguments, parser)
    if config is None or errors:
        return {"ok": False, "errors": errors}
    return {"ok": True, "total_steps": config.total_steps, "game": config.game, "config": config.to_dict()}


def configured(arguments: Sequence[str], parser: Flags) -> tuple[TrainConfig | None, list[str]]:
    """The configuration that these arguments of `train` mean, if there is one, and all that is wrong with them."""
    typed, errors = parser.read_all(arguments)
    below = SimpleNamespace(
        preset=typed.get("preset"), config=typed.get("config"), resume=None, run_dir=typed.get("run_dir")
    )
    try:
        config = layers(below, typed.get("game"), errors)
    except UserError as error:
        return None, [*errors, *str(error).splitlines()]
    known = {path for path, _, _ in leaves(config)}
    values = nested({path: value for path, value in typed.items() if path in known})
    config_io.update(config, values, "flags")
    errors += config_check.faults(config, together=not errors)
    if not errors:
        errors += _faults_of_flavour(config.game, config.env.mode, config.env.difficulty)
    return config, errors


@functools.cache
def _faults_of_flavour(game: str, mode: int | None, difficulty: int | None) -> tuple[str, ...]:
    """Whether the game has this mode and difficulty: only its environments know."""
    if mode is None and difficulty is None:
        return ()
    try:
        tasks.find(game).check(EnvConfig(mode=mode, difficulty=difficulty))
    except UserError as error:
        return (str(error),)
    return ()
