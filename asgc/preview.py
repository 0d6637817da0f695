"""What the base rule is about to see: the transformed gradients of the coming step, for recorders and plots.

The fast paths never materialize them. ``preview`` computes them anew from the present gradients and state, with the
very noise of the coming step, and changes nothing: call it between ``backward()`` and ``step()``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import functional, statistics

__all__ = ["Preview", "preview"]


class Preview(NamedTuple):
    """One layer in the coming step.

    ``threshold`` bounds the elements in value mode and the layer's root mean square in norm mode. With the global norm
    of ``NAME+clip`` it is the root mean square at which this layer would begin to be scaled if all layers grew alike,
    so that in both norm forms the layer is clipped where its root mean square is above it. With granularity="unit"
    threshold, clipped, attenuation and noise_std are means over the units, as in ``diagnostics()``.
    """

    param: Tensor
    seen: Tensor  # what the base rule gets; shape of the gradient, not to be written into (it may be the gradient)
    threshold: float  # inf: none
    clipped: float  # share of elements, or of units in norm mode, beyond the threshold
    attenuation: float  # |seen| / |gradient|, noise included; 1 where the gradient is zero
    noise_std: float  # c_t sigma (before the rule, or after it with noise_at="update"); 0: none


def preview(optimizer: Optimizer) -> list[Preview]:
    """What every parameter with a gradient will give to the base rule in the coming ``step()``.

    An optimizer that changes gradients before its rule has a method ``preview`` (``ASGC``, ``wrap``, ``NAME+clip``);
    any other one sees the gradients as they are. Costs a few passes over the gradients.
    """
    method = getattr(optimizer, "preview", None)
    if method is not None:
        layers: list[Preview] = method()
        return layers
    params = (param for group in optimizer.param_groups for param in group["params"])
    return [Preview(param, param.grad, math.inf, 0.0, 1.0, 0.0) for param in params if param.grad is not None]


@torch.no_grad()
def preview_transform(layers: Iterable[tuple[Tensor, Mapping[str, Any], Mapping[str, Any]]]) -> list[Preview]:
    """The same for the ASGC transform of (parameter, its state, options): ``functional.transform``, nothing kept.

    A state may lack what the first step makes. A step that ``nonfinite`` "skip" or "raise" will refuse gives zeros.
    """
    layers = [layer for layer in layers if layer[0].grad is not None]
    refused = any(
        options["nonfinite"] != "contain" and not bool(torch.isfinite(param.grad).all())
        for param, _, options in layers
        if param.grad is not None
    )
    result: list[Preview] = []
    for param, state, options in layers:
        grad = param.grad
        assert grad is not None
        stats = state.get("stats")
        if stats is None:
            stats = statistics.init(functional.units(param, options["granularity"]), param.device)
        t = int(state.get("noise_step", 0))
        new = functional.transform(grad, stats, t, state["layer"], options)
        seen = torch.zeros_like(new.grad) if refused else new.grad
        rows = (statistics.THRESHOLD, statistics.CLIPPED, statistics.ATTENUATION)
        threshold, clipped, attenuation = (float(new.stats[row].to(torch.float64).mean()) for row in rows)
        result.append(
            Preview(
                param, seen, threshold, clipped, 0.0 if refused else attenuation, _noise_std(grad, stats, t, options)
            )
        )
    return result


def _noise_std(grad: Tensor, stats: Tensor, t: int, options: Mapping[str, Any]) -> float:
    """c_t sigma of the coming step, the mean over units; the first gradient sets its own scale."""
    if options["noise_scale"] == 0:
        return 0.0
    if bool((stats[statistics.N] == 0).any()):
        stats, _ = statistics.start(stats, statistics.measure(grad, stats[statistics.MEAN]))
    c_t = float(options["noise_scale"] * (1 + t) ** (-options["noise_decay"] / 2))
    return c_t * float(stats[statistics.VAR].to(torch.float64).sqrt().mean())
