"""The user's own code: found by its path, and its errors told apart from the program's."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, reason

_HERE = Path(__file__).parents[2]  # the toolkit's packages


class UserCodeError(UserError):
    """Code of the user's has raised: its own error is the `__cause__`, with the traceback that helps."""


@contextlib.contextmanager
def users(what: str) -> Iterator[None]:
    """Where the user's code runs: what it raises becomes a `UserCodeError` that begins with `what` it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserCodeError(f"{what} failed: {named(error)}") from error


def named(error: BaseException) -> str:
    """An error in a line: its type, its text, and the last line of the user's own files on its way."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "<" not in frame.filename]
    theirs = [frame for frame in frames if not _is_installed(Path(frame.filename))]
    place = (theirs or frames)[-1:]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in place)
    text = reason(error)
    name = type(error).__name__
    return f"{name}{where}" if text == name else f"{name}: {text}{where}"


def _is_installed(path: Path) -> bool:
    """Whether a file is a package's or the toolkit's."""
    toolkit = any(path.is_relative_to(_HERE / package) for package in ("asgc", "evaluation", "rl", "supervised"))
    return toolkit or "site-packages" in path.parts or path.is_relative_to(Path(inspect.__file__).parent)


@functools.cache
def load(path: str, flag: str) -> Any:
    """What "package.module:name" names; the folder that the program was started in is searched, too.

    Args:
        flag: where it was given, in errors: "--network.cls".

    Raises:
        UserError: no such path, module or name, or the module cannot be imported.
    """
    module_name, colon, name = path.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise UserError(f"{flag} {path}: must be package.module:name")
    module = import_module(module_name, f"{flag} {path}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{flag} {path}: {module.__file__ or module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def import_module(name: str, what: str) -> Any:
    """A module of the user's, also from the folder that the program was started in.

    Raises:
        UserError: there is none of this name, or it raises while it is imported; begins with `what` asked for it.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a file there must not take the place of an installed package
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(f"{what}: there is no module {error.name!r} (looked for in {here}, too)") from error
        raise UserError(f"{what}: {name} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:
        raise UserError(f"{what}: importing {name} failed: {named(error)}") from error


def call_with(function: Any, **known: Any) -> Any:
    """Call `function` with those of the `known` arguments that it has a name for."""
    return function(**{name: value for name, value in known.items() if accepts(function, name)})


def accepts(function: Any, name: str) -> bool:
    """Whether a function or class takes an argument of this name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some that are built in
        return False
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return any(
        one.kind is inspect.Parameter.VAR_KEYWORD or (one.name == name and one.kind in named)
        for one in parameters.values()
    )
