"""The engines by name. A new one is a file beside this one and a line here."""

from __future__ import annotations

import argparse

from evaluation.cli.errors import UserError
from evaluation.study.engines.base import Engine, Flag
from evaluation.study.engines.forked import ForkedEngine
from evaluation.study.engines.local import LocalEngine
from evaluation.study.engines.ray import RayEngine

# The first that supports the program is taken.
ENGINES: dict[str, tuple[type[Engine], ...]] = {"local": (ForkedEngine, LocalEngine), "ray": (RayEngine,)}
FLAGS: tuple[Flag, ...] = tuple(
    dict.fromkeys(flag for kinds in ENGINES.values() for one in kinds for flag in one.flags)
)


def make(name: str, program: tuple[str, ...], options: argparse.Namespace) -> Engine:
    """The engine of this name for a program, as the options ask for it.

    Raises:
        UserError: there is none of that name, or it cannot start.
    """
    if name not in ENGINES:
        raise UserError(f"--engine {name}: there are {' and '.join(ENGINES)}")
    return next(kind for kind in ENGINES[name] if kind.supports(program)).of(program, options)
