"""One option: its record, the check of a value, the words for what is allowed. ``asgc.options`` has the tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Kind",
    "Option",
    "choice",
    "describe_range",
    "flag",
    "in_range",
    "integer",
    "is_tensor",
    "nearest",
    "number",
    "union",
]

Kind = Literal["number", "integer", "flag", "choice", "pair"]
_TYPES: dict[str, Any] = {"number": float, "integer": int, "flag": bool, "pair": tuple[float, float]}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: as a keyword argument.
        default: None for torch.optim's own options: ``rule_defaults`` reads theirs.
        help: one line.
        kind: number (a one-element tensor will do), integer, flag (True or False), choice (a word), pair (of numbers).
        allowed: interval of a number, an integer or each number of a pair, such as "[0, 1)".
        choices: words of a choice.
        optional: None may be given.
        owners: who has it. Base rules, for torch.optim's own; ``optimizers.all_options`` fills it in for the others.
    """

    name: str
    default: Any
    help: str
    kind: Kind = "number"
    allowed: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    owners: tuple[str, ...] = ()

    @property
    def type(self) -> Any:
        """Its Python type; None is allowed besides where it is optional."""
        return Literal[self.choices] if self.kind == "choice" else _TYPES[self.kind]

    @property
    def words(self) -> str:
        """What is allowed, in words: "at least 0 and below 1", "value or norm", "true or false"."""
        if self.kind == "choice":
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        return "true or false" if self.kind == "flag" else describe_range(self.allowed)

    def check(self, value: Any) -> None:
        """TypeError or ValueError, with the option's name and what is allowed, for a wrong value."""
        if value is None and self.optional:
            return
        if self.kind == "choice":
            if not isinstance(value, str):
                raise TypeError(f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}")
            if value not in self.choices:
                hint = nearest(value, self.choices)
                raise ValueError(f"unknown {self.name} {value!r}{hint}: choose from {', '.join(self.choices)}")
        elif self.kind == "flag":
            if not isinstance(value, bool):
                raise TypeError(f"{self.name} must be True or False, got {value!r}")
        elif self.kind == "pair":
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise TypeError(f"{self.name} must be a pair of numbers, got {value!r}")
            for i, item in enumerate(value):
                self._check_number(f"{self.name}[{i}]", item)
        else:
            self._check_number(self.name, value)

    def _check_number(self, name: str, value: Any) -> None:
        words = describe_range(self.allowed)
        if self.kind == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number ({words}), got {value!r}")
        elif is_tensor(value):
            if value.numel() != 1:
                raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
            value = float(value.detach())
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number ({words}), got {value!r}")
        if not in_range(value, self.allowed):
            raise ValueError(f"{name} must be {words}, got {value!r}")


def in_range(value: float, allowed: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"; NaN lies in none."""
    low, high = (float(bound) for bound in allowed[1:-1].split(","))
    above = value >= low if allowed[0] == "[" else value > low
    return above and (value <= high if allowed[-1] == "]" else value < high)


def describe_range(allowed: str) -> str:
    """An interval in words: "[0, 1)" -> "at least 0 and below 1"."""
    low, high = (bound.strip() for bound in allowed[1:-1].split(","))
    parts = []
    if low != "-inf":
        parts.append(f"{'at least' if allowed[0] == '[' else 'above'} {low}")
    if high != "inf":
        parts.append(f"{'at most' if allowed[-1] == ']' else 'below'} {high}")
    elif allowed[-1] == ")":
        parts.append("finite")
    return " and ".join(parts)


def union(a: str, b: str) -> str:
    """The smallest interval that holds two that overlap."""
    low = min((a, b), key=lambda x: (float(x[1:-1].split(",")[0]), x[0] == "("))
    high = max((a, b), key=lambda x: (float(x[1:-1].split(",")[1]), x[-1] == "]"))
    return f"{low.split(',')[0]},{high.split(',')[1]}"


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """`` (did you mean 'x'?)`` for the valid name closest to an unknown one, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def number(name: str, default: float | None, allowed: str, help: str, optional: bool = False) -> Option:
    return Option(name, default, help, "number", allowed, optional=optional)


def integer(name: str, default: int, allowed: str, help: str) -> Option:
    return Option(name, default, help, "integer", allowed)


def flag(name: str, default: bool, help: str) -> Option:
    return Option(name, default, help, "flag")


def choice(name: str, default: str | None, choices: tuple[str, ...], help: str, optional: bool = False) -> Option:
    return Option(name, default, help, "choice", choices=choices, optional=optional)


def is_tensor(value: Any) -> bool:
    return hasattr(value, "numel")  # known without importing torch
