"""Command-line flags with short help pages and errors of one line that name the nearest flag.

argparse holds the flags and writes the pages; reading is our own. It finds all faults of a line, takes "1e6", "32,64"
and -1e-4 as people write them, and a fiftieth of the time that jsonargparse or tyro take for our dataclasses.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import check_range, coerce, did_you_mean, show


class _HelpFormatter(argparse.HelpFormatter):
    """Flags and texts in two columns; argparse leaves the flags 24 characters, ours are longer."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class Flags(argparse.ArgumentParser):
    """A parser in which dashes and underscores are the same, and whose errors are `UserError`.

    Args:
        prog: what was typed, for the usage line.
        usage: what follows it there.
        aliases: other spellings of flags, such as {"--optimizer.name": "--optimizer"}.
        add_help: add -h and --help.
    """

    def __init__(
        self,
        prog: str,
        usage: str,
        description: str,
        *,
        epilog: str = "",
        aliases: dict[str, str] | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(prog, f"{prog} {usage}", description, epilog, formatter_class=_HelpFormatter, add_help=False)
        self._aliases = aliases or {}
        self._shows_help = add_help
        if add_help:
            self.section("general").add_argument("-h", "--help", action="store_true", help="show this page")

    def section(self, title: str) -> Any:
        """The group of flags with this heading, made on first use."""
        for group in self._action_groups:
            if group.title == title:
                return group
        return self.add_argument_group(title)

    def option(
        self,
        section: str,
        name: str,
        hint: Any,
        default: Any,
        help: str,
        *,
        allowed: str = "",
        read: Callable[[Any], Any] | None = None,
        hidden: bool = False,
    ) -> None:
        """Add one flag.

        Args:
            name: with the dashes, as shown on the help page.
            hint: type of the value, as `evaluation.cli.values.coerce` understands it.
            default: shown on the help page unless it is None.
            allowed: interval of a number, as in `evaluation.cli.values.in_range`.
            read: in place of hint and interval: text -> value, with a ValueError that says what is allowed.
            hidden: leave it out of the help page.
        """

        def reader(text: Any) -> Any:
            value = coerce(text, hint)
            check_range(value, allowed)
            return value

        text = help if default is None else f"{help} [{show(default)}]"
        self.section(section).add_argument(
            self._aliases.get(name, name),
            dest=name.lstrip("-").replace("-", "_"),
            type=read or reader,
            default=default,
            metavar=_metavar(name, hint),
            help=argparse.SUPPRESS if hidden else text.replace("%", "%%"),
            **({"nargs": "?", "const": True} if hint is bool else {}),
        )

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """Parse; returns the namespace of all values, and of the flags that were typed their {dotted path: value}.

        Raises:
            UserError: an unknown flag, a missing or a wrong value.
            SystemExit: after the help page, where one was asked for.
        """
        typed, faults = self.read_all(argv)
        for fault in faults:
            raise UserError(fault)
        if self._shows_help and "help" in typed:
            self.print_help()
            raise SystemExit(0)
        return argparse.Namespace(**{action.dest: action.default for action in self._actions} | typed), typed

    def read_all(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Like `read`, but goes on after a fault.

        Returns:
            The right values of what was typed, {dotted path: value}; a line for each fault.
        """
        values: dict[str, Any] = {}
        faults: list[str] = []
        positionals = [action for action in self._actions if not action.option_strings]
        tokens = list(argv)
        while tokens:
            token = tokens.pop(0)
            if not _is_flag(token):
                if positionals:
                    values[positionals.pop(0).dest] = token
                else:
                    faults.append(f"unexpected argument {token!r}: options start with --")
                continue
            name, equals, text = token.partition("=")
            action = self._named(name)
            if not equals and tokens and not _is_flag(tokens[0]) and (action is None or action.nargs != 0):
                text, equals = tokens.pop(0), "="  # an unknown flag takes what may be its value with it
            if action is None:
                faults.append(self._unknown(name))
            elif equals and action.type is not None:
                try:
                    values[action.dest] = action.type(text)  # type: ignore[operator]
                except ValueError as error:
                    faults.append(f"{action.option_strings[-1]} {show(text)}: {error}")
            elif equals and action.nargs != 0:
                values[action.dest] = text
            elif equals:
                faults.append(f"{action.option_strings[-1]}: takes no value")
            elif action.const is None:
                faults.append(f"{action.option_strings[-1]}: expected a value")
            else:
                values[action.dest] = action.const
        return values, faults

    def _named(self, name: str) -> argparse.Action | None:
        spelled = name.replace("_", "-")
        return self._option_string_actions.get(self._aliases.get(spelled, spelled))

    def _unknown(self, name: str) -> str:
        candidates = [flag for flag in (*self._option_string_actions, *self._aliases) if flag.startswith("--")]
        hint = did_you_mean(name.replace("_", "-"), candidates).replace("'", "")
        return f"unknown option {name}{hint or f'; `{self.prog} --help` lists them'}"


def _is_flag(token: str) -> bool:
    if not token.startswith("-") or token == "-":
        return False
    try:
        float(token)
    except ValueError:
        return True
    return False


def _metavar(name: str, hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    if "Literal" in text:
        return "NAME"
    if "bool" in text:
        return "BOOL"
    if "list" in text or "tuple" in text:
        return "N,N,..."
    return "N" if "int" in text or "float" in text else re.split("[.-]", name)[-1].upper()
