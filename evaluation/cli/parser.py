"""Programs with commands, and their flags: short help pages, and errors of one line that name the nearest flag.

argparse holds the flags and writes the pages; reading is our own. It finds all faults of a line, takes "1e6", "32,64"
and -1e-4 as people write them, and takes a hundredth of the time that jsonargparse or tyro do for our dataclasses
(0.05 ms a line; 26 and 110).
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import PathText, did_you_mean, read, show, suggestion

Command = Callable[[list[str]], int]  # of arguments, to an exit code

# Flags and texts in two columns: argparse leaves the flags 24 characters, ours are longer.
_FORMATTER = functools.partial(argparse.HelpFormatter, max_help_position=34)


class Flags(argparse.ArgumentParser):
    """A parser in which dashes and underscores are the same, and whose errors are `UserError`.

    Args:
        prog: what was typed, for the usage line.
        usage: what follows it there.
        add_help: add -h and --help.
    """

    def __init__(self, prog: str, usage: str, description: str, *, epilog: str = "", add_help: bool = True) -> None:
        super().__init__(prog, f"{prog} {usage}", description, epilog, formatter_class=_FORMATTER, add_help=False)
        if add_help:
            self.section("general").add_argument("-h", "--help", action="store_true", help="show this page")

    def section(self, title: str) -> Any:
        """The group of flags with this heading, made on first use."""
        known = {group.title: group for group in self._action_groups}
        return known.get(title) or self.add_argument_group(title)

    def option(
        self, section: str, name: str, hint: Any, default: Any, help: str, *, allowed: str = "", hidden: bool = False
    ) -> None:
        """Add one flag.

        Args:
            name: with the dashes, as shown on the help page; `--GROUP.name` goes by `--GROUP`, too, and is shown so.
            hint, allowed: type and interval of the value, as `evaluation.cli.values.read` understands them.
            default: shown on the help page unless it is None.
            hidden: leave it out of the help page.
        """
        text = help if default is None else f"{help} [{show(default)}]"
        self.section(section).add_argument(
            name.removesuffix(".name"),
            dest=name.lstrip("-").replace("-", "_"),
            type=functools.partial(read, hint=hint, allowed=allowed),
            default=default,
            metavar=_metavar(name, hint),
            help=argparse.SUPPRESS if hidden else text.replace("%", "%%"),
            **({"nargs": "?", "const": True} if "bool" in str(hint) else {}),
        )

    def path(self, name: str, metavar: str, help: str) -> None:
        """Add an argument that names a file or folder, None where it is left out."""
        kind = functools.partial(read, hint=PathText)
        self.section("general").add_argument(name, metavar=metavar, nargs="?", help=help, type=kind)

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """Parse; returns the namespace of all values, and of the flags that were typed their {dotted path: value}.

        Raises:
            UserError: an unknown flag, a missing or a wrong value.
            SystemExit: after the help page, where one was asked for.
        """
        typed, faults = self.read_all(argv)
        for fault in faults:
            raise UserError(fault)
        if "help" in typed:
            self.print_help()
            raise SystemExit(0)
        return argparse.Namespace(**{action.dest: action.default for action in self._actions} | typed), typed

    def read_all(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Like `read`, but goes on after a fault: the right values that were typed by path, a line for each fault."""
        values: dict[str, Any] = {}
        faults: list[str] = []
        positionals = [action for action in self._actions if not action.option_strings]
        tokens = list(argv)
        while tokens:
            token = tokens.pop(0)
            if not _is_flag(token):
                if not positionals:
                    faults.append(f"unexpected argument {token!r}: options start with --")
                    continue
                positional = positionals.pop(0)
                try:
                    values[positional.dest] = _value(positional, token)
                except ValueError as error:
                    faults.append(f"{positional.metavar} {show(token)}: {error}")
                continue
            name, equals, text = token.partition("=")
            action = self._option(name)
            off = self._option(f"--{name[5:]}") if action is None and name.startswith(("--no-", "--no_")) else None
            if off is not None and off.nargs == "?" and off.const is True:
                if equals:
                    faults.append(f"{name} {show(text)}: takes no value")
                values[off.dest] = False
                continue
            if not equals and tokens and not _is_flag(tokens[0]) and (action is None or action.nargs != 0):
                text, equals = tokens.pop(0), "="  # an unknown flag takes what may be its value with it
            if action is None:
                flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
                hint = did_you_mean(name, flags).replace("'", "")
                faults.append(f"unknown option {name}{hint or f'; `{self.prog} --help` lists them'}")
                continue
            try:
                values[action.dest] = _value(action, text if equals else None)
            except ValueError as error:
                value = f" {show(text)}" if equals else ""
                faults.append(f"{action.option_strings[-1]}{value}: {error}")
        return values, faults

    def _option(self, name: str) -> argparse.Action | None:
        return self._option_string_actions.get(name.replace("_", "-").removesuffix(".name"))


def _value(action: argparse.Action, text: str | None) -> Any:
    """What a flag means with this text behind it, or with none; ValueError: what is expected."""
    if text is None:
        if action.const is None:
            raise ValueError("expected a value")
        return action.const
    if action.nargs == 0:
        raise ValueError("takes no value")
    return text if action.type is None else action.type(text)  # type: ignore[operator]


def _is_flag(token: str) -> bool:
    """Whether it starts with a dash, and is neither a dash alone nor a number below 0."""
    try:
        float(token)
    except ValueError:
        return token.startswith("-") and token != "-"
    return False


def _metavar(name: str, hint: Any) -> str:
    text, lists = hint.__name__ if isinstance(hint, type) else str(hint), [("list", "N,N,..."), ("tuple", "N,N,...")]
    for part, shown in (("Literal", "NAME"), ("bool", "BOOL"), ("list[str]", "NAME,NAME,..."), *lists, ("int", "N")):
        if part in text:
            return shown
    return "N" if "float" in text else re.split("[.-]", name)[-1].upper()


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
