"""The layers of an optimizer: their numbers, their names in messages, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .placement import is_dtensor, problem

__all__ = [
    "check_gradients",
    "check_parameter",
    "first_dtensor",
    "head_places",
    "layer_name",
    "layer_number",
    "number_layers",
]

Group = dict[str, Any]


def number_layers(params: Iterable[Tensor]) -> None:
    """Give each parameter a number for the noise that it keeps in every optimizer.

    Without it a layer's number is its place among the parameters of its optimizer. So where each parameter has an
    optimizer of its own (a step in the backward pass), or each rank one for its part (ZeroRedundancyOptimizer), several
    layers have the number 0 and the same noise.

    Args:
        params: all parameters that are trained together, ``model.parameters()``: in an order that stays, and when they
            are final (``fully_shard`` makes new ones). One optimizer for all of them would give the same numbers.
    """
    for number, param in enumerate(params):
        param._asgc_layer = number  # type: ignore[attr-defined]


def layer_number(param: Tensor, place: int) -> int:
    """The number from ``number_layers``, or else the place among the parameters of the optimizer."""
    number: int = getattr(param, "_asgc_layer", place)
    return number


def head_places(params: Sequence[Tensor]) -> range:
    """Places among all parameters of the head: the last tensor with two or more dimensions, and its bias, if a vector
    with as many elements as that has rows follows it.

    Where biases are in a group of their own the head's counts as any other. In an optimizer that holds one matrix
    only, that is a head.
    """
    matrices = [place for place, param in enumerate(params) if param.dim() >= 2]
    if not matrices:
        return range(0)
    last = matrices[-1]
    biased = last + 1 < len(params) and params[last + 1].shape == params[last].shape[:1]
    return range(last, last + 1 + biased)


def layer_name(groups: list[Group], group_index: int, index: int) -> str:
    """The parameter's name where named_parameters were given, else its group, index and shape."""
    group = groups[group_index]
    if "param_names" in group:
        return str(group["param_names"][index])
    return f"group {group_index}, parameter {index} (shape {tuple(group['params'][index].shape)})"


def first_dtensor(groups: list[Group]) -> str | None:
    """Name of the first parameter that is a DTensor."""
    for gi, group in enumerate(groups):
        for pi, param in enumerate(group["params"]):
            if is_dtensor(param):
                return layer_name(groups, gi, pi)
    return None


def check_parameter(param: Tensor, name: str) -> None:
    """ValueError for a parameter ASGC cannot optimize."""
    if not param.is_floating_point():
        kind = "complex" if param.is_complex() else str(param.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is {kind}: only real floating-point parameters are supported")
    if param.layout is not torch.strided:
        raise ValueError(f"{name} is sparse: only dense parameters are supported")
    reason = problem(param)
    if reason is not None:
        raise ValueError(f"{name} {reason}")


def check_gradients(groups: list[Group]) -> None:
    """RuntimeError for a gradient ASGC cannot transform."""
    for gi, group in enumerate(groups):
        for pi, param in enumerate(group["params"]):
            grad = param.grad
            if grad is None or (grad.layout is torch.strided and not grad.is_complex()):
                continue
            name = layer_name(groups, gi, pi)
            if grad.layout is not torch.strided:
                raise RuntimeError(
                    f"{name} has a sparse gradient, which is not supported: use dense gradients (sparse=False)"
                )
            raise RuntimeError(f"{name} has a complex gradient: only real floating-point gradients are supported")
