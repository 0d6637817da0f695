"""Command-line flags: jsonargparse with short help pages and errors of one line that name the nearest flag."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import jsonargparse

from evaluation.cli.errors import UserError
from evaluation.cli.values import check_range, coerce, did_you_mean, show


class _HelpFormatter(argparse.HelpFormatter):
    """Flags and texts in two columns; argparse leaves the flags 24 characters, ours are longer."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class Flags(jsonargparse.ArgumentParser):  # type: ignore[misc]
    """A parser in which dashes and underscores are the same, and whose errors are `UserError`.

    Args:
        prog: what was typed, for the usage line.
        usage: what follows it there.
        aliases: other spellings, such as {"--optimizer": "--optimizer.name"}.
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
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            exit_on_error=False,
            allow_abbrev=False,
            default_env=False,
            add_help=False,
        )
        self._aliases = aliases or {}
        # dest -> what `option` reads its value with, and the value of the flag alone
        self._readers: dict[str, tuple[Callable[[Any], Any], Any]] = {}
        if add_help:
            self.section("general").add_argument("-h", "--help", action="help", help="show this page")

    def section(self, title: str) -> Any:
        """The group of flags with this heading, made on first use."""
        for group in self._action_groups:
            if group.title == title:
                return group
        return self.add_argument_group(title)

    def option(
        self, section: str, name: str, hint: Any, default: Any, help: str, *, allowed: str = "", hidden: bool = False
    ) -> None:
        """Add one flag.

        Args:
            name: with the dashes, as shown on the help page.
            hint: type of the value, as `evaluation.cli.values.coerce` understands it.
            default: shown on the help page unless it is None.
            allowed: interval of a number, as in `evaluation.cli.values.in_range`.
            hidden: leave it out of the help page.
        """
        text = help if default is None else f"{help} [{show(default)}]"
        extra: dict[str, Any] = {"nargs": "?", "const": True} if hint is bool else {}
        reader = _reader(name, hint, allowed)
        action = self.section(section).add_argument(
            name,
            type=reader,
            default=default,
            metavar=_metavar(name, hint),
            help=argparse.SUPPRESS if hidden else text.replace("%", "%%"),
            **extra,
        )
        self._readers[action.dest] = reader, extra.get("const")

    def read(self, argv: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        """Parse; returns the namespace of all values, and of the flags that were typed their {dotted path: value}.

        Raises:
            UserError: an unknown flag, a missing or a wrong value.
        """
        tokens = self._tokens(argv)
        namespace = self.parse_args(tokens)
        typed = [token.partition("=")[0] for token in tokens if token.startswith("-")]
        paths = [self._option_string_actions[name].dest for name in typed]
        return namespace, {path: namespace[path] for path in paths if path in namespace}

    def read_all(self, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Like `read`, but goes on after a fault, and takes a fiftieth of the time.

        Returns:
            The right values of the flags that were typed, {dotted path: value}; a line for each fault.
        """
        faults: list[str] = []
        values: dict[str, Any] = {}
        for token in self._tokens(argv, faults):
            name, equals, text = token.partition("=")
            action = self._option_string_actions.get(name)
            if action is None or action.dest not in self._readers:
                faults.append(f"{name}: not possible here")
                continue
            read, alone = self._readers[action.dest]
            value = text if equals else alone
            try:
                if value is None:
                    raise UserError(f"{name}: expected a value")
                values[action.dest] = read(value)
            except UserError as error:
                faults.append(str(error))
        return values, faults

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help page; a flag with an alias goes by that."""
        text = super().format_help(formatter)
        for alias, name in self._aliases.items():
            text = text.replace(f"  {name} NAME", f"  {alias} NAME".ljust(len(f"  {name} NAME")))
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by jsonargparse for what `_tokens` has let through."""
        message = message.replace("argument ", "", 1).replace("expected one argument", "expected a value")
        raise UserError(message) from ex

    def _tokens(self, argv: Iterable[str], faults: list[str] | None = None) -> list[str]:
        """Flags in the parser's spelling, each in one token with its value: then "-1e-4" is never taken for a flag.

        Faults go into the list `faults`; without one the first is raised.
        """
        positionals = [action for action in self._actions if not action.option_strings]
        tokens: list[str] = []
        pending: str | None = None  # a flag that may take the next token as its value
        skip = False  # the next token may be an unknown flag's value
        for token in argv:
            if not _is_flag(token):
                if pending is not None:
                    tokens[-1] = f"{pending}={token}"
                    pending = None
                elif positionals:
                    tokens.append(token)
                    positionals.pop()
                elif not skip:
                    _fault(f"unexpected argument {token!r}: options start with --", faults)
                skip = False
                continue
            name, equals, value = token.partition("=")
            try:
                name, skip = self._spelling(name), False
            except UserError as error:
                _fault(str(error), faults)
                pending, skip = None, not equals
                continue
            tokens.append(name + equals + value)
            action = self._option_string_actions[name]
            pending = None if equals or action.nargs == 0 else name
        return tokens

    def _spelling(self, name: str) -> str:
        spelled = name.replace("_", "-")
        spelled = self._aliases.get(spelled, spelled)
        known = self._option_string_actions
        if spelled in known:
            return spelled
        candidates = [flag for flag in (*self._aliases, *known) if flag.startswith("--")]
        hint = did_you_mean(spelled, candidates).replace("'", "")
        raise UserError(f"unknown option {name}{hint or f'; `{self.prog} --help` lists them'}")


def _fault(message: str, faults: list[str] | None) -> None:
    if faults is None:
        raise UserError(message)
    faults.append(message)


def _is_flag(token: str) -> bool:
    if not token.startswith("-") or token == "-":
        return False
    try:
        float(token)
    except ValueError:
        return True
    return False


def _reader(name: str, hint: Any, allowed: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            result = coerce(value, hint)
            check_range(result, allowed)
        except ValueError as error:
            raise UserError(f"{name} {show(value)}: {error}") from error
        return result

    return read


def _metavar(name: str, hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    if "Literal" in text:
        return "NAME"
    if "bool" in text:
        return "BOOL"
    if "list" in text or "tuple" in text:
        return "N,N,..."
    return "N" if "int" in text or "float" in text else re.split("[.-]", name)[-1].upper()
