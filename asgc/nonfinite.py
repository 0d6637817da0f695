"""``nonfinite="skip"`` and ``"raise"``: look at all gradients before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from .layers import layer_name

__all__ = ["found_nonfinite"]

Group = dict[str, Any]


def found_nonfinite(
    groups: list[Group],
    options_of: Callable[[Group], Mapping[str, Any]],
    state_of: Callable[[Tensor, Group], dict[str, Any]],
) -> bool:
    """Whether this step must be skipped: a gradient of a group with nonfinite="skip" has an infinite element or NaN.

    The layers concerned count it in their statistics' ``nonfinite``; nothing else changes.

    Raises:
        RuntimeError: the same in a group with nonfinite="raise", with the parameter's name.
    """
    layers: list[tuple[str, Tensor, Group, str]] = []
    for gi, group in enumerate(groups):
        policy = options_of(group)["nonfinite"]
        if policy != "contain":
            for pi, param in enumerate(group["params"]):
                if param.grad is not None:
                    layers.append((policy, param, group, layer_name(groups, gi, pi)))
    if not layers:
        return False
    grads = [param.grad for _, param, _, _ in layers if param.grad is not None]
    flags = [not finite for finite in torch.stack([torch.isfinite(g).all().cpu() for g in grads]).tolist()]
    for bad, (policy, _, _, name) in zip(flags, layers, strict=True):
        if bad and policy == "raise":
            raise RuntimeError(f"{name} has a non-finite gradient (nonfinite='raise')")
    for bad, grad, (_, param, group, _) in zip(flags, grads, layers, strict=True):
        if bad:
            stats = state_of(param, group)["stats"]
            rows = stats.shape[1]
            stats[statistics.NONFINITE] += ~torch.isfinite(grad.reshape(rows, -1)).all(1)
    return any(flags)
