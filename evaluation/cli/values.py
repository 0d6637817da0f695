"""Values that a person typed, in a file or on a command line: their types, their ranges, the nearest known name."""

from __future__ import annotations

import contextlib
import difflib
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from asgc.options import describe_range, in_range

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """ "; did you mean 'x'?" with the nearest known name, compared whole and by its last part; "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not near:
        by_last = {path.rpartition(".")[2]: path for path in reversed(known)}
        near = [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1, cutoff=0.7)]
    return f"; did you mean {near[0]!r}?" if near else ""


def suggestion(name: str, known: Sequence[str]) -> str:
    """`did_you_mean`, or where nothing is near "; there are a, b, c"."""
    return did_you_mean(name, known) or f"; there are {', '.join(known)}"


def read(value: Any, hint: Any, allowed: str = "", optional: bool = False) -> Any:
    """`value` or what its text means ("1e6" is a whole number), as the type `hint` and within the interval `allowed`
    ("" allows all; of a list each number): the one way in which flags, files and Python give values to options. A hint
    with None in it is `optional`.

    Raises:
        ValueError: what was expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none", "~")):
            return None
        return read(value, next(arg for arg in args if arg is not types.NoneType), allowed, optional=True)
    if origin is Literal:
        if value in args:
            return value
        *others, last = map(str, (*args, "null") if optional and len(args) == 1 else args)
        raise ValueError(f"must be {', '.join(others)} or {last}" if others else f"must be {last}")
    if origin in (list, tuple):
        if isinstance(value, str):
            value = [part.strip() for part in value.strip("[]() ").split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not value or (origin is tuple and len(value) != len(args)):
            count = f"{len(args)} " if origin is tuple else ""
            kind = "whole numbers such as 32,64" if args[0] is int else "numbers such as 0.9,0.999"
            raise ValueError(f"must be {count}{kind}")
        return origin(read(item, args[0], allowed) for item in value)
    if hint is bool:
        text = str(value).lower()
        if text not in ("true", "yes", "on", "false", "no", "off"):
            raise ValueError("must be true or false")
        return text in ("true", "yes", "on")
    if hint is str:
        if isinstance(value, str) and value:
            return value
        raise ValueError("must be text")
    found = _as_number(value, whole=hint is int)
    if allowed and not in_range(found, allowed):
        raise ValueError(f"must be {describe_range(allowed)}")
    return found


def _as_number(value: Any, whole: bool) -> int | float:
    found = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        if whole and not isinstance(value, float):
            with contextlib.suppress(ValueError):
                return int(value)  # exact, also beyond 2^53
        with contextlib.suppress(ValueError, OverflowError):
            found = float(value)
    if found is None or (whole and not found.is_integer()):
        raise ValueError(f"must be {'a whole number' if whole else 'a number'}")
    return int(found) if whole else found


def show(value: Any) -> str:
    """A value as the user would have typed it."""
    if isinstance(value, list | tuple):
        return ",".join(map(show, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if str(value) else "''"


def number(value: Any) -> Any:
    """Text that is a number as that number (YAML 1.1 reads 1e-3 as text); everything else as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value.replace("_", "")) if value.lstrip("+-").replace("_", "").isdigit() else float(value)
