"""Whose tuned values a part takes.

    tuned: grid              # every optimizer the best of its own search in the part `grid`, on each task
    tuned_setting: plain     # ... at this setting; without it at the run's own
    tuned_tasks: all         # ... one setting for all tasks of the search, also on tasks that it has not seen
    tuned: {adam-single: {search: grid, optimizer: adam, tasks: all}}   # by optimizer; the others have nothing tuned

A search is a part above of kind `search`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evaluation.cli.values import did_you_mean
from evaluation.study.entry import Entry

if TYPE_CHECKING:
    from evaluation.study.spec import Part

TASKS = ("each", "all")
_BESIDE = ("tuned_setting", "tuned_tasks")


@dataclass(frozen=True)
class Tuned:
    """The best trial of a search.

    Attributes:
        search: the part.
        optimizer: whose trials.
        setting: at which setting; None: at the run's own.
        tasks: "each": on the run's own task; "all": one setting, the best over all tasks of the search, by the mean in
            units of their `references`.
    """

    search: str
    optimizer: str
    setting: str | None = None
    tasks: str = "each"

    def __str__(self) -> str:
        at = f" at {self.setting}" if self.setting else ""
        return f"{self.search}{at}" + (", one setting for all its tasks" if self.tasks == "all" else "")


def read_tuned(item: Entry, optimizers: Sequence[str]) -> dict[str, Tuned]:
    """What a part's definition says, by optimizer."""
    value = item.values.get("tuned")
    if not isinstance(value, Mapping):
        one = _read(item, "tuned", "tuned_setting", "tuned_tasks")
        if value is None:
            for key in _BESIDE:
                if item.values.get(key) is not None:
                    item.fault(key, ": goes with tuned")
        return {name: replace(one, optimizer=name) for name in optimizers} if one is not None else {}
    for key in _BESIDE:
        if item.values.get(key) is not None:
            item.fault(key, ": is said for each optimizer, in tuned")
    child, result = item.child("tuned"), {}
    child.known(tuple(optimizers))
    for name in (one for one in value if one in optimizers):
        own = child.child(name)
        own.known(("search", "optimizer", "setting", "tasks"))
        if "search" not in own.values:
            own.fault("search", ": is missing: the part that has tuned it")
        found = _read(own, "search", "setting", "tasks")
        if found is not None:
            result[name] = replace(found, optimizer=found.optimizer or name)
    return result


def _read(item: Entry, search: str, setting: str, tasks: str) -> Tuned | None:
    """What stands at these keys, and at `optimizer` ("": nothing); None: there is no search, or it is wrong."""
    names = [item.values.get(key) for key in (search, setting, "optimizer")]
    for key, name in zip((search, setting, "optimizer"), names, strict=True):
        if not isinstance(name, str | None):
            item.fault(f"{key} {name!r}", ": must be a name")
            return None
    each_or_all = item.word(tasks, TASKS)
    return None if names[0] is None else Tuned(names[0], names[2] or "", names[1], each_or_all)


def check_tuned(part: Part, item: Entry, before: Mapping[str, Part], compared: Container[str]) -> None:
    """Every search is there, above the part, and covers what is taken from it; of one setting for all tasks, these have
    references (`compared`)."""
    short = not isinstance(item.values.get("tuned"), Mapping)
    for name, one in part.tuned.items():
        place = "tuned" if short else f"tuned.{name}"
        search = before.get(one.search)
        if search is None or search.kind != "search":
            searches = tuple(name for name, other in before.items() if other.kind == "search")
            hint = did_you_mean(one.search, searches) or f"; there are {', '.join(searches) or 'none'}"
            item.fault(place, f": {one.search!r} is no search above this part{hint}")
            if short:
                return
            continue
        if one.tasks == "all" and search.sampler == "tpe":
            others = f"the search {search.name!r} tries other settings on each task"
            item.fault("tuned_tasks" if short else f"{place}.tasks", f": {others}: sampler grid or random")
        wanted = (
            ("task", part.tasks if one.tasks == "each" else (), search.tasks),
            ("optimizer", (one.optimizer,), search.optimizers),
            ("setting", part.settings if one.setting is None else (one.setting,), search.settings),
        )
        for what, names, known in wanted:
            for missing in (other for other in names if other not in known):
                item.fault(place, f": the search {search.name!r} does not cover the {what} {missing!r}")
        if one.tasks == "all" and (without := [task for task in search.tasks if task not in compared]):
            has = f"compares tasks by `references`, which {', '.join(without)} has not"
            item.faults.append(f"{item.where}: one setting for all tasks {has}")
