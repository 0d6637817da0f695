"""Search spaces: the range of each option, and points in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.config_file import leaves
from evaluation.cli.values import number, read
from evaluation.study.entry import Entry

_KEYS = ("low", "high", "log", "integer", "choices", "optimizers")


@dataclass(frozen=True)
class Dimension:
    """One option and what it may be: an interval (logarithmic by default), or some choices."""

    name: str  # dotted, "optimizer.lr"
    low: float = 0.0
    high: float = 0.0
    log: bool = True  # uniform in the logarithm
    integer: bool = False
    choices: tuple[Any, ...] = ()  # empty for an interval
    optimizers: tuple[str, ...] = ()  # those that have this option; empty: all

    def at(self, u: float) -> Any:
        """The value at `u` in [0, 1): the inverse of the distribution function, rounded to four digits."""
        if self.choices:
            return self.choices[int(u * len(self.choices))]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + u * (high - low)
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: Any) -> Any:
        """`value` as it is handed to a run: four significant digits, within the interval."""
        if self.choices:
            return value
        if self.integer:
            return round(value)
        return min(max(float(f"{value:.4g}"), self.low), self.high)


def of(space: Sequence[Dimension], optimizer: str) -> tuple[Dimension, ...]:
    """The dimensions that an optimizer has."""
    return tuple(one for one in space if not one.optimizers or optimizer in one.optimizers)


def options(dimensions: Sequence[Dimension], point: NDArray[np.float64]) -> dict[str, Any]:
    """The options at a point of the unit cube, one coordinate a dimension."""
    return {one.name: one.at(float(u)) for one, u in zip(dimensions, point, strict=True)}


def grid(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """All combinations of the choices of dimensions, none of which is an interval; the last one's vary first."""
    names = [one.name for one in dimensions]
    combinations = itertools.product(*(one.choices for one in dimensions))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def latin_hypercube(points: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Points (points, dimensions) in the unit cube: in every dimension one in each of `points` equal strata (McKay et
    al., 1979). The first dimensions are the same whatever their number, so that optimizers with more options share
    the points of those with fewer."""
    rngs = [np.random.default_rng([seed, dimension]) for dimension in range(dimensions)]
    columns = [(rng.permutation(points) + rng.random(points)) / points for rng in rngs]
    return np.array(columns).reshape(dimensions, points).T


def uniform(points: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Independent uniform points (points, dimensions); the first points and dimensions are the same whatever their
    number, so that draws can be added later."""
    columns = [np.random.default_rng([seed, dimension]).random(points) for dimension in range(dimensions)]
    return np.array(columns).reshape(dimensions, points).T


def read_space(entry: Entry, key: str, optimizers: Sequence[str]) -> tuple[Dimension, ...]:
    """The dimensions at a key of a definition. An option's range is a mapping (low, high, ...), a list of choices, or
    a list of such mappings for different optimizers."""
    space = entry.child(key)
    found: list[Dimension] = []
    for option, item in leaves(space.values, is_leaf=lambda value: any(key in value for key in _KEYS)):
        name = option.replace("-", "_")
        several = isinstance(item, list) and item and all(isinstance(one, Mapping) for one in item)
        for index, one in enumerate(item if several else [item]):
            at = space.at(f"{name}[{index}]" if several else name)
            if isinstance(one, list):
                one = {"choices": one}
            if isinstance(one, Mapping):
                found += _dimension(name, Entry(one, at, space.faults), optimizers)
            else:
                space.faults.append(f"{at}: give low and high, or a list of choices")
    for optimizer in optimizers:
        names = [one.name for one in of(found, optimizer)]
        for name in names:
            if names.count(name) > 1:
                space.fault(name, f": has several ranges for {optimizer}")
    return tuple(found)


def _dimension(name: str, entry: Entry, optimizers: Sequence[str]) -> list[Dimension]:
    """The dimension that a range describes, if it does."""
    item, before = entry.values, len(entry.faults)
    entry.known(_KEYS)
    owners = entry.choice("optimizers", optimizers) if item.get("optimizers") else ()
    if "choices" in item:
        choices = item["choices"]
        if isinstance(choices, list) and choices:
            found = tuple(map(number, choices))
            entry.once("choices", found)
            return [Dimension(name, choices=found, optimizers=owners)]
        entry.fault("choices", ": must be a list of values")
        return []
    try:
        low, high = read(item.get("low", ""), float), read(item.get("high", ""), float)
        log, integer = read(item.get("log", True), bool), read(item.get("integer", False), bool)
    except ValueError as error:
        what = "low and high must be numbers, log and integer true or false"
        entry.faults.append(f"{entry.where}: {what} ({error})")
        return []
    if not low < high or not math.isfinite(low) or not math.isfinite(high):
        entry.faults.append(f"{entry.where}: low {low:g} must be below high {high:g}, both finite")
    elif log and low <= 0:
        entry.faults.append(f"{entry.where}: a logarithmic range needs low above 0, not {low:g} (or log: false)")
    return [Dimension(name, low, high, log, integer, optimizers=owners)] if len(entry.faults) == before else []
