"""Callbacks of the user's own: `--callbacks my_package.callbacks:Stop,other:Callback`.

A callback is a subclass of `rl.Callback` (`watchers.Watcher`, which says what it is told and when), made without
arguments. What its `state_dict` returns is saved in every checkpoint and given back at a resume. What it raises ends
the run in one line that names it, at the end of the step (or the evaluation) that it was told of, saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import load, users
from evaluation.runs.watchers import Watcher

Callback = Watcher
FLAG = "--callbacks"
EVENTS = tuple(name for name in vars(Watcher) if not name.startswith("_") and name != "name")


class _Guarded(Watcher):
    """A callback whose errors are told apart from the program's."""

    def __init__(self, path: str, member: Watcher) -> None:
        self.path, self.member = path, member
        keeps = type(member).state_dict is not Watcher.state_dict
        self.name = member.name or (path if keeps else "")


def _guarded(event: str) -> Any:
    def tell(self: _Guarded, *arguments: Any) -> Any:
        with users(f"callback {self.path}: its {event}"):
            return getattr(self.member, event)(*arguments)

    return tell


for _event in EVENTS:
    setattr(_Guarded, _event, _guarded(_event))


def load_callbacks(paths: Iterable[str]) -> list[Watcher]:
    """The callbacks at these paths.

    Raises:
        UserError: there is no such class, it cannot be made, it is no callback, or comes twice with a state.
    """
    found: list[Watcher] = []
    for path in paths:
        made = load(path, FLAG)
        if not isinstance(made, Watcher):
            if not callable(made):
                raise UserError(f"{FLAG} {path}: is no class")
            with users(f"{FLAG} {path}: making it"):
                made = made()
        if not isinstance(made, Watcher):
            raise UserError(f"{FLAG} {path}: a {type(made).__name__} is no subclass of rl.Callback")
        guarded = _Guarded(path, made)
        if guarded.name and guarded.name in {one.name for one in found}:
            raise UserError(f"{FLAG} {path}: another callback is called {guarded.name!r}, too: give it a `name`")
        found.append(guarded)
    return found
