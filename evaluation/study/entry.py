"""Reading a study's definition: its mappings, each with its place, and all that is wrong in one list."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.cli.config_file import leaves
from evaluation.cli.values import number, show, suggestion

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"optimizer": {"lr": "1e-3"}} -> {"optimizer.lr": 0.001}: dotted keys, numbers as numbers."""
    return {name.replace("-", "_"): number(value) for name, value in leaves(values)}


@dataclass
class Entry:
    """A mapping at a place of the definition ("" at its top). What is wrong is added to `faults`, and reading goes on
    with what is empty or the default."""

    values: Mapping[str, Any]
    where: str = ""
    faults: list[str] = field(default_factory=list)

    def at(self, key: object) -> str:
        return f"{self.where}.{key}" if self.where else str(key)

    def fault(self, key: object, text: str) -> None:
        self.faults.append(f"{self.at(key)}{text}")

    def known(self, keys: Sequence[str]) -> None:
        """There may be no other keys."""
        for key in self.values:
            if key not in keys:
                self.fault(key, f": unknown key{suggestion(str(key), tuple(keys))}")

    def child(self, key: object) -> Entry:
        """The mapping at a key; an empty one where there is none."""
        value = self.values.get(key)  # type: ignore[call-overload]
        if not isinstance(value, Mapping | None):
            self.fault(key, f": expected `name: value` lines, got {value!r}")
        return Entry(value if isinstance(value, Mapping) else {}, self.at(key), self.faults)

    def name(self, key: str, name: str) -> str:
        """A name at a key, fit for a folder."""
        if not _NAME.fullmatch(name):
            self.fault(key, f": {name!r} is no name (letters, digits, . + _ -)")
        return name

    def apart(self, key: str, names: Iterable[str]) -> None:
        """Names of folders in one folder may not differ in case only."""
        known: dict[str, str] = {}
        for name in names:
            other = known.setdefault(name.casefold(), name)
            if other != name:
                self.fault(key, f": {other!r} and {name!r} are one folder where case makes no difference: rename one")

    def options(self, key: object) -> dict[str, Any]:
        """Options of runs, flat."""
        child = self.child(key)
        names = [name.replace("-", "_") for name, _ in leaves(child.values)]
        for name in {name for name in names if names.count(name) > 1}:
            child.fault(name, ": is given twice")
        return flatten(child.values)

    def layers(self, key: str) -> dict[str, dict[str, Any]]:
        """Names with their options."""
        child = self.child(key)
        self.apart(key, map(str, child.values))
        return {self.name(key, str(name)): child.options(name) for name in child.values}

    def lists(self, key: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Options with the values that each takes in turn."""
        child = self.child(key)
        for option, values in flatten(child.values).items():
            if not isinstance(values, list) or not values:
                child.fault(option, ": must be a list of values")
                continue
            found = tuple(map(number, values))
            child.once(option, found)
            yield option, found

    def once(self, key: object, values: Sequence[Any]) -> None:
        """No value may be there twice, however it is written."""
        seen: dict[Any, Any] = {}
        for value in values:
            plain = value if isinstance(value, int | float) and not isinstance(value, bool) else show(value)
            if plain in seen:
                twice = "" if show(seen[plain]) == show(value) else f" (as {show(seen[plain])})"
                self.fault(key, f": {show(value)} is given twice{twice}")
            seen.setdefault(plain, value)

    def choice(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        """Some of the known names; all of them where none is given. A study of one part has the definitions
        themselves at some keys."""
        wanted = self.values.get(key)
        if wanted is None or isinstance(wanted, Mapping):
            return tuple(known)
        names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
        for name in names:
            if name not in known:
                self.fault(key, f": unknown name {name!r}{suggestion(name, tuple(known))}")
        return tuple(dict.fromkeys(name for name in names if name in known))

    def word(self, key: str, words: Sequence[str]) -> str:
        """One of some words; the first where none is given."""
        value = self.values.get(key, words[0])
        if value in words:
            return str(value)
        *others, last = words
        self.fault(f"{key} {value!r}", f": must be {', '.join(others)} or {last}")
        return ""

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; without a default it is needed."""
        value = number(self.values.get(key))
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.fault(f"{key} {self.values.get(key)!r}", ": must be a whole number of at least 1")
        return 0

    def numbers(self, key: str, names: Container[str], what: str) -> dict[str, Any]:
        """A number for some of the names; `what` it must be, for faults."""
        child = self.child(key)
        for name, value in child.values.items():
            if name not in names or not isinstance(number(value), int | float):
                child.fault(name, f": must be {what}")
        return {name: number(value) for name, value in child.values.items()}

    def seeds(self, key: str) -> tuple[int, ...]:
        """[1, 2], 3, or "101-110"."""
        value = self.values.get(key)
        if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*-\s*(\d+)", value)):
            seeds: list[Any] = list(range(int(match[1]), int(match[2]) + 1))
        else:
            seeds = list(map(number, value if isinstance(value, list) else [value]))
        if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
            self.fault(f"{key} {value!r}", ": must be whole numbers such as [1, 2, 3] or 101-110")
            return ()
        if len(set(seeds)) < len(seeds):
            self.fault(f"{key} {value!r}", ": a seed is given twice")
        return tuple(dict.fromkeys(seeds))
