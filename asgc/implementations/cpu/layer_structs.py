"""The table of layers and options that the kernel reads: ctypes mirrors of the structs in ``layer.h``."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "GROUP_FIELDS",
    "STATE_KEYS",
    "LayerStruct",
    "Order",
    "group_values",
    "memory_order",
    "state_keys",
    "units_adjacent",
]

MAX_DIMS = 8  # of a tensor whose memory order is not row-major, after merging

RULE_CODES = {"sgd": 0, "adam": 1, "adamw": 1, "rmsprop": 2, "adagrad": 3}
# The rule's tensors in the order of the kernel's state pointers.
STATE_KEYS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "rmsprop": ("square_avg", "grad_avg", "momentum_buffer"),
    "adagrad": ("sum",),
}


class LayerStruct(ctypes.Structure):
    """One layer; the fields of ``struct Layer``."""

    _fields_ = (
        ("param", ctypes.c_void_p),
        ("state", ctypes.c_void_p * 3),
        ("stats", ctypes.c_void_p),
        ("step", ctypes.c_void_p),
        ("noise_step", ctypes.c_void_p),
        ("numel", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("fresh", ctypes.c_int64),
        ("ceiling", ctypes.c_void_p),
        ("dims", ctypes.c_int64),
        ("size", ctypes.c_int64 * MAX_DIMS),
        ("stride", ctypes.c_int64 * MAX_DIMS),
    )


# struct Group, in order; every value is passed as a double.
GROUP_FIELDS = (
    *("rule", "norm", "lr", "weight_decay", "eps", "maximize", "decoupled", "beta1", "beta2", "amsgrad", "momentum"),
    *("dampening", "nesterov", "alpha", "centered", "lr_decay", "clip_factor", "threshold", "clip_sharpness"),
    *("noise_scale", "noise_decay", "noise_zeros", "langevin", "stats_decay", "outlier_share", "seed"),
    *("eps_scale", "element"),
)


def group_values(group: dict[str, Any], fields: tuple[str, ...] = GROUP_FIELDS) -> list[Any]:
    """The options of a parameter group in the order of ``fields``, 0 where its rule has none: numbers and tensors."""
    rule, threshold = group["rule"], group["threshold"]
    beta1, beta2 = group.get("betas", (0.0, 0.0))
    derived = {
        "rule": RULE_CODES[rule],
        "norm": group["mode"] == "norm",
        "decoupled": rule == "adamw" or group.get("decoupled_weight_decay", False),
        "beta1": beta1,
        "beta2": beta2,
        "threshold": math.nan if threshold is None else threshold,
        "langevin": group["noise_at"] == "update",
        "element": group["granularity"] == "element",
    }
    full = {**group, **derived}
    return [full.get(name, 0.0) for name in fields]


def state_keys(group: dict[str, Any]) -> tuple[str | None, ...]:
    """Names of the rule's tensors in use, None where the options need none."""
    rule = group["rule"]
    needed = {
        "momentum_buffer": group.get("momentum", 0) != 0,
        "max_exp_avg_sq": group.get("amsgrad", False),
        "grad_avg": group.get("centered", False),
    }
    return tuple(key if needed.get(key, True) else None for key in STATE_KEYS[rule])


class Order(NamedTuple):
    """How memory order runs through a dense tensor: sizes, and row-major strides, of its dimensions as they lie in
    memory (outermost first, merged where possible). Both are empty where memory order is row-major order."""

    size: tuple[int, ...]
    stride: tuple[int, ...]


def memory_order(tensor: Tensor) -> Order | None:
    """Memory order of a tensor; None if it has gaps or overlaps, or too many dimensions to say."""
    if tensor.is_contiguous():
        return Order((), ())
    logical: list[int] = []
    step = 1
    for size in reversed(tensor.shape):
        logical.insert(0, step)
        step *= size
    dims = sorted((-tensor.stride(d), logical[d], size) for d, size in enumerate(tensor.shape) if size != 1)
    expected = tensor.numel()
    merged: list[tuple[int, int]] = []  # (size, row-major stride)
    for negative, stride, size in dims:
        expected //= size
        if -negative != expected:
            return None
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    if len(merged) > MAX_DIMS:
        return None
    return Order(tuple(size for size, _ in merged), tuple(stride for _, stride in merged))


def units_adjacent(tensor: Tensor, units: int) -> bool:
    """Whether the units of a dense tensor (one, or index along dimension 0) lie one after the other in memory."""
    return units <= 1 or tensor.numel() == 0 or tensor.stride(0) * units == tensor.numel()


def unsupported_order(param: Tensor) -> str | None:
    """Why the kernels cannot walk a parameter in its memory order, or None."""
    order = memory_order(param)
    if order is None:
        return f"a parameter of shape {tuple(param.shape)} has gaps or overlaps in memory (strides {param.stride()})"
    if order.size and param.numel() >= 1 << 32:
        return f"a parameter of shape {tuple(param.shape)} has 2^32 elements or more in an order that is not row-major"
    return None


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold their elements in the same order in memory."""
    if a.is_contiguous():
        return b.is_contiguous()
    sizes, other = a.stride(), b.stride()
    return all(s == o for s, o, size in zip(sizes, other, a.shape, strict=True) if size != 1)


def as_laid_out(tensor: Tensor, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy of ``tensor`` with the memory order and on the device of ``like``."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.preserve_format).copy_(tensor)
