"""Online adaptation (``asgc.adapt``) in front of the kernel: the table that ``adapt.h`` reads."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from ... import adapt
from .layer_structs import as_laid_out, same_order

__all__ = ["AdaptStruct", "fill", "unsupported"]

_PAIR = ctypes.c_double * 2


class AdaptStruct(ctypes.Structure):
    """One layer; the fields of ``struct Adapt``."""

    _fields_ = (
        ("adapted", ctypes.c_void_p),
        ("direction", ctypes.c_void_p * 2),
        ("every", ctypes.c_int64),
        ("rate", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("kept", ctypes.c_double),
        ("low", _PAIR),
        ("high", _PAIR),
        ("memory", ctypes.c_double),
        ("pull", ctypes.c_double),
        ("significance", ctypes.c_double),
        ("outlier", ctypes.c_double),
    )


def unsupported(group: dict[str, Any]) -> str | None:
    """Why ``adapt.h`` cannot serve a group, or None."""
    if group["adapt"] is None:
        return None
    if group["granularity"] != "layer":
        return f"adapt={group['adapt']!r} with granularity={group['granularity']!r} (only 'layer' is in the kernel)"
    if group["noise_at"] != "gradient" and group["noise_scale"] != 0:
        return f"adapt={group['adapt']!r} with noise_at={group['noise_at']!r} (only 'gradient' is in the kernel)"
    return None


def fill(row: AdaptStruct, param: Tensor, state: dict[str, Any] | None, group: dict[str, Any]) -> None:
    """Write one layer's row. ``state`` is None where the layer does not adapt or is not stepped.

    Raises:
        RuntimeError: its tensors do not fit the parameter.
    """
    if state is None:
        row.adapted = None
        return
    vector: Tensor = state["adapted"]
    if vector.dtype is not torch.float64 or vector.numel() != len(adapt.ADAPTED) or not vector.is_cpu:
        raise RuntimeError(f"the adapted values of a parameter of shape {tuple(param.shape)} do not fit it")
    for j, name in enumerate(adapt.DERIVATIVES):
        tensor: Tensor = state[name]
        if tensor.shape != param.shape or not tensor.is_cpu:
            raise RuntimeError(f"the state {name!r} of a parameter of shape {tuple(param.shape)} does not fit it")
        if tensor.dtype is not torch.bfloat16 or not same_order(param, tensor):
            tensor = state[name] = as_laid_out(tensor, param).to(torch.bfloat16)
        row.direction[j] = tensor.data_ptr()
    decay = adapt.second_moment_decay(group)
    low, high = adapt.bounds(group)
    row.adapted, row.every, row.rate = vector.data_ptr(), group["adapt_every"], group["adapt_lr"]
    row.decay = math.nan if decay is None else decay ** group["adapt_every"]
    row.kept = adapt.momentum(group) ** group["adapt_every"]
    row.low[:], row.high[:] = low, high
    row.memory, row.pull = adapt.MEMORY, adapt.PULL
    row.significance, row.outlier = adapt.SIGNIFICANCE, adapt.OUTLIER
