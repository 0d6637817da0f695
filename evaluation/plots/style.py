"""How things look, in every figure the same: colours, line styles and markers of optimizers, shared text sizes.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind eyes tell apart. Where two
optimizers share a colour, or on grey paper, the line style and the marker tell them apart.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#B8A800", "#0072B2", "#D55E00", "#CC79A7"),
)  # YELLOW is darker than the original #F0E442, which vanishes on white paper
GREY, PALE = "#767676", "#9a9a9a"
BEFORE, AFTER, THRESHOLD = GREY, BLUE, VERMILION

# Lengths of dash and gap in points, as both libraries take them; () is a solid line.
SOLID, DASHED, DOTTED, DASH_DOT = (), (5.0, 2.0), (1.2, 1.6), (6.0, 2.0, 1.2, 2.0)
LONG, DASH_DOT_DOT = (9.0, 2.5), (6.0, 1.8, 1.2, 1.8, 1.2, 1.8)


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn: an "#rrggbb" colour, a dash pattern (points) and a matplotlib marker."""

    colour: str
    dash: tuple[float, ...]
    marker: str


# What is ours is warm and solid or long, the baselines are cold.
KNOWN = {
    "asgc": Look(VERMILION, SOLID, "o"),
    "asgc-adam": Look(VERMILION, SOLID, "o"),
    "asgc-sgd": Look(ORANGE, LONG, "s"),
    "asgc-clip": Look(PURPLE, DASH_DOT, "D"),
    "asgc-noise": Look(YELLOW, DOTTED, "p"),
    "adam": Look(BLUE, DASHED, "^"),
    "adam+clip": Look(SKY, DASH_DOT, "v"),
    "adamw": Look(BLUE, DOTTED, "<"),
    "sgd": Look(BLACK, DASHED, "X"),
    "sgd+clip": Look(BLACK, DOTTED, "x"),
    "rmsprop": Look(GREEN, DASHED, "P"),
    "rmsprop+clip": Look(GREEN, DOTTED, "+"),
    "adagrad": Look(PURPLE, DOTTED, "h"),
}
# Series that are no optimizer's.
ROLES = {
    "before": Look(BEFORE, SOLID, ""),
    "after": Look(AFTER, SOLID, ""),
    "threshold": Look(THRESHOLD, DASHED, ""),
    "baseline": Look(PALE, SOLID, ""),  # behind each of many optimizers
}
COLOURS = (GREEN, PURPLE, SKY, ORANGE, BLACK, YELLOW, BLUE, VERMILION)
_DASHES = (DASH_DOT_DOT, LONG, SOLID, DASH_DOT, DASHED, DOTTED)
_MARKERS = ("*", "d", ">", "1", "H", "8", "2", "3")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each optimizer of a study. Known names always have their own; the others take, by name, the colour
    that the fewest have, in the first line style that is free with it."""
    found = {name: KNOWN[name] for name in order(names) if name in KNOWN}
    for name in order(names):
        if name not in found:
            colours = Counter(look.colour for look in found.values())
            pairs = {(look.dash, look.colour) for look in found.values()}
            options = itertools.product(_DASHES, COLOURS)
            dash, colour = min(options, key=lambda option: (option in pairs, colours[option[1]]))
            found[name] = Look(colour, dash, _MARKERS[len(found) % len(_MARKERS)])
    return found


def order(names: Iterable[str]) -> list[str]:
    """Optimizers in the order of every legend and axis: the known ones as in `KNOWN`, then the others by name."""
    known = list(KNOWN)
    return sorted(set(names), key=lambda name: (known.index(name) if name in KNOWN else len(known), name))


def natural_order(names: Iterable[str]) -> list[str]:
    """Settings or variants: the usual one ("plain", "default", "full") first, then by name."""
    return sorted(set(names), key=lambda name: (name not in ("plain", "default", "full"), name))
