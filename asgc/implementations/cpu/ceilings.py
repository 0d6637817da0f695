"""Ceilings on the layers' steps (``asgc.ceiling``) for the kernel: the sizes it goes by, and what it gives back."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

from ... import ceiling

__all__ = ["CeilingRow", "fill", "keep", "unsupported"]

State = dict[str, Any]
Group = dict[str, Any]


class CeilingRow(ctypes.Structure):
    """One layer; ``allowed``, ``decayed`` and ``before`` go in, the others come out.

    allowed: largest root mean square of the step; decayed: weight_decay times that of the weights (sgd); before: that
    of the momentum buffer (sgd), or of the update before (others); left: factor on the learning rate; update: root mean
    square of this step's update (not of sgd).
    """

    _fields_ = tuple((name, ctypes.c_double) for name in ("allowed", "decayed", "before", "left", "update"))


def unsupported(group: Group) -> str | None:
    """Why the kernel cannot bound the steps of a group, or None."""
    if group["ceiling"] is not None and group["granularity"] == "unit":
        return f"ceiling={group['ceiling']!r} with granularity='unit' (only whole layers are in the kernel)"
    return None


def fill(row: CeilingRow, param: Tensor, state: State, group: Group) -> None:
    """Write one layer's row before the step."""
    bounds = ceiling.bounds(param, state, group)
    row.allowed, row.decayed, row.before = bounds.allowed, bounds.decayed, bounds.before


def keep(row: CeilingRow, state: State, group: Group) -> None:
    """Take from it what the state holds of the step."""
    found = {ceiling.LEFT: row.left} | ({} if group["rule"] == "sgd" else {ceiling.UPDATE: row.update})
    for name, value in found.items():
        if name in state:
            state[name].fill_(value)
        else:
            state[name] = state["stats"].new_tensor(value)
