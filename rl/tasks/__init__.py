"""What an agent can play: Atari games and control tasks, each a `Task` record that `find` gives by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl.tasks.lookup import FAMILIES, family, find, names
    from rl.tasks.task import Family, ObservationSpec, Task

__all__ = ["FAMILIES", "Family", "ObservationSpec", "Task", "family", "find", "names"]


def __getattr__(name: str) -> Any:
    """Import on first use: help pages and most error messages need neither tasks nor NumPy."""
    if name not in __all__:
        raise AttributeError(f"module 'rl.tasks' has no attribute {name!r}")
    from rl.tasks import lookup, task

    return getattr(lookup if hasattr(lookup, name) else task, name)
