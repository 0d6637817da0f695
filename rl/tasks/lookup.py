"""Tasks by their names, in any spelling."""

from __future__ import annotations

import difflib
import functools
import re

from evaluation.cli.errors import UserError
from rl.tasks.families import ATARI, CONTROL_TASKS, atari_tasks
from rl.tasks.own_tasks import GYMNASIUM, find_own
from rl.tasks.task import Family, Task

_NAME = re.compile(r"(?:ALE/)?(?P<task>.+?)(?:NoFrameskip)?(?:-v\d+)?", re.IGNORECASE)


def find(name: str) -> Task:
    """The task of this name in any spelling: "breakout", "space_invaders", "ALE/Pong-v5", "PongNoFrameskip-v4",
    "cartpole", "CartPole-v1". With a colon it is Gymnasium's or the user's own (`own_tasks`): "gym:Blackjack-v1".

    Raises:
        UserError: no such task; the message gives the nearest names.
    """
    if ":" in name:
        return find_own(name)
    key = _key(name)
    if key in _KNOWN:
        return _KNOWN[key]
    tasks = _tasks()
    if key in tasks:
        return tasks[key]
    near = [tasks[other].name for other in difflib.get_close_matches(key, tasks, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`asgc-rl games` lists all of them"
    if re.fullmatch(r"\S+-v\d+", name.strip()):
        hint += f"; an environment of Gymnasium's is --game gym:{name.strip()}"
    raise UserError(f"unknown game {name!r}: {hint}")


def family(name: str) -> Family:
    """The family of a task's name in any spelling: Gymnasium's with a colon; whatever no other family knows is taken
    for an Atari game's.

    EnvPool's registry is not looked at: help pages use it.
    """
    if ":" in name:
        return GYMNASIUM
    task = known(name)
    return ATARI if task is None else task.family


def known(name: str) -> Task | None:
    """The task of this name in any spelling, if it is known without EnvPool's registry, whose import takes a second."""
    return _KNOWN.get(_key(name))


def names(of: Family) -> tuple[str, ...]:
    """Canonical names ("SpaceInvaders") of a family's tasks, sorted."""
    return tuple(sorted(task.name for task in _tasks().values() if task.family is of))


@functools.cache
def _tasks() -> dict[str, Task]:
    """All tasks by what the spellings of their names have in common."""
    return _KNOWN | {_key(task.name): task for task in atari_tasks()}


def _key(name: str) -> str:
    """What all spellings of a name have in common; "" for no name at all."""
    match = _NAME.fullmatch(name.strip())
    return re.sub(r"[^a-z0-9]", "", match["task"].lower()) if match else ""


_KNOWN: dict[str, Task] = {_key(task.name): task for task in CONTROL_TASKS}
