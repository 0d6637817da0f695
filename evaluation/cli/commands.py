"""Programs with commands: `PROGRAM COMMAND ARGUMENTS`."""

from __future__ import annotations

import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping, Sequence

from evaluation.cli.errors import UserError
from evaluation.cli.values import suggestion

Command = Callable[[list[str]], int]


def dispatch(arguments: Sequence[str], commands: Mapping[str, Command | str], usage: str, *, group: str = "") -> int:
    """Run the command that the first argument names on the others; returns its exit code.

    Without arguments, or with a plea for help, `usage` is printed. A command that is text is a function at
    "module:name", imported when it is called. `group` is the command whose commands these are; only a whole program
    has a version.

    Raises:
        UserError: no such command; names the nearest, or all.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage, end="")
        return 0
    name, *rest = arguments
    if not group and name in ("--version", "-V"):
        print(f"asgc {importlib.metadata.version('asgc')}")
        return 0
    if name not in commands:
        raise UserError(f"unknown command {f'{group} {name}'.strip()!r}{suggestion(name, tuple(commands))}")
    found = commands[name]
    command: Command = pkgutil.resolve_name(found) if isinstance(found, str) else found
    return command(rest)
