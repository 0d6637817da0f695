"""A ceiling on a layer's step: at most a share of the size of its weights (``ceiling``).

LARS (You et al. 2017, arXiv 1708.03888) and AGC (Brock et al. 2021, 2102.06171) bound a layer's gradient by its
weights; here it is the step itself, lr u, u the base rule's update (noise_at="update": with its noise), so that it
holds behind momentum and Adam, too. The step is taken with a learning rate lowered by

    s = min(1, ceiling W / (lr U))

W: the size of the layer's weights, at least ``weight_floor`` (new biases are zero). With ceiling_norm="rms" their root
mean square; with "spectral" their largest singular value over the root of their number (the spectral norm as a measure
of how far a layer may move: Gogianu et al. 2021, 2105.05246), by one power iteration a step. s holds in that norm, too:
a step's largest singular value is at most its 2-norm.

U bounds rms(u) by what is known before the step, so that a fast path needs no pass over memory of its own:

    sgd     U = rho, with momentum M = momentum b + (1 - dampening) rho, nesterov rho + momentum M;
            b: root mean square of the buffer before the step;
            rho: of the transformed gradient, in norm mode sqrt(r^2 + n^2) phi(r)/r (r: of the gradient, n: of its
            noise), in value mode the threshold; and weight_decay W besides
    others  rms(u) of the step before; in the first what |u| is there: 1, rmsprop (1 - alpha)^(-1/2)

So sgd's bound holds in each step (noise and gradient taken as uncorrelated). That of the others is exceeded in a step
in which u itself grows: of rmsprop and adagrad by up to about clip_factor, as a burst passes the clip at so many times
the scale that it is divided by; of Adam by less, for its momentum. Weight decay that AdamW takes besides u is lowered
with lr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from . import rules
from .singular import first_vector, iterate
from .smooth_clip import shrinkage

__all__ = ["LEFT", "SINGULAR", "UPDATE", "Bounds", "bounds", "factor", "follow", "forget"]

# In the state of a layer, where it has a ceiling: rms(u) (not of sgd), s of the last step, the singular vector.
UPDATE, LEFT, SINGULAR = "update_rms", "step_left", "singular_vector"

Options = Mapping[str, Any]
State = Mapping[str, Any]


def _rms(x: Tensor) -> Tensor:
    """fp64, 0-dimensional; 0 of no elements."""
    return statistics.safe_sqrt(statistics.wide(x).square().sum() / max(1, x.numel()))


def factor(
    param: Tensor, grad: Tensor, state: State, options: Options, stats: Tensor, threshold: Tensor, noise_std: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """By what the learning rate is multiplied in this step, fp64, 0-dimensional; what has to be kept besides.

    Args:
        param, grad: the layer's parameter and raw gradient.
        state: before the step.
        options: complete, with ``lr`` and ``ceiling``.
        stats: the statistics before the step.
        threshold, noise_std: of this step, by unit, fp64.
    """
    size, kept = _size(param, state, options)
    if options["rule"] == "sgd":
        update = _momentum(param, grad, state, options, stats, threshold, noise_std)
    else:
        before = state.get(UPDATE)
        update = size.new_full((), _expected(options)) if before is None else before.double()
    reach = options["lr"] * update
    allowed = options["ceiling"] * torch.clamp(size, min=options["weight_floor"])
    left = torch.where(reach > allowed, allowed / torch.where(reach > 0, reach, 1.0), 1.0)
    return left, {**kept, LEFT: left.detach().float()}


def follow(
    param: Tensor, grad: Tensor, state: State, options: Options, noise: Tensor | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What the coming step has to know of this one.

    Args:
        param, grad, state, options, noise: as ``rules.step`` was given them.
        dtype: of what is kept.
    """
    if options["rule"] == "sgd":
        return {}  # the buffer tells
    # The update by itself: of a parameter of 0 at a learning rate of 1, coupled weight decay in its gradient. What the
    # step changed in the parameter would be rounded away where that is far larger.
    decoupled = options["rule"] == "adamw" or options.get("decoupled_weight_decay", False)
    if options["weight_decay"] != 0 and not decoupled:
        decay = options["weight_decay"] * param
        grad = grad - decay if options["maximize"] else grad + decay
    bare = {**options, "lr": 1.0, "weight_decay": 0.0}
    moved, _ = rules.step(torch.zeros_like(param), grad, dict(state), bare, noise)
    return {UPDATE: _rms(moved).to(dtype)}


def forget(state: dict[str, Any]) -> None:
    """The rule's moments begin anew: so do its updates."""
    state.pop(UPDATE, None)


class Bounds(NamedTuple):
    """What a fast path has to know of a layer before its step, as numbers."""

    allowed: float  # root mean square of the step
    decayed: float  # weight_decay times the root mean square of the weights: of sgd, where it is part of U
    before: float  # root mean square of the momentum buffer (sgd; 0: none), of the update before (others)


def bounds(param: Tensor, state: dict[str, Any], options: Options) -> Bounds:
    """The numbers of ``Bounds``; moves the state's singular vector on, where there is one."""
    if options["ceiling_norm"] == "rms":
        size = _rms_fast(param)
    else:
        spectral, kept = _size(param, state, options)
        size = float(spectral)
        state.update(kept)
    allowed = options["ceiling"] * max(size, options["weight_floor"])
    if options["rule"] != "sgd":
        before = state.get(UPDATE)
        return Bounds(allowed, 0.0, _expected(options) if before is None else float(before))
    decay, buffer = options["weight_decay"], state.get("momentum_buffer")
    decayed = decay * _rms_fast(param) if decay != 0 else 0.0
    return Bounds(allowed, decayed, 0.0 if buffer is None else _rms_fast(buffer))


def _rms_fast(x: Tensor) -> float:
    """``_rms`` of fp32 or less, without a copy in fp64, which takes 40 times as long."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / math.sqrt(max(1, x.numel()))


def _expected(options: Options) -> float:
    """|u| of a first step."""
    return max(1 - options["alpha"], 1e-12) ** -0.5 if options["rule"] == "rmsprop" else 1.0


def _momentum(
    param: Tensor, grad: Tensor, state: State, options: Options, stats: Tensor, threshold: Tensor, noise_std: Tensor
) -> Tensor:
    """U of sgd, fp64."""
    after = noise_std if options["noise_at"] == "update" else torch.zeros_like(noise_std)
    rho = _gradient(grad, options, stats, threshold, noise_std - after)
    if options["weight_decay"] != 0:
        rho = rho + options["weight_decay"] * _rms(param)
    bound, buffer = rho, state.get("momentum_buffer")
    if options["momentum"] != 0:
        momentum = rho
        if buffer is not None:
            momentum = options["momentum"] * _rms(buffer) + (1 - options["dampening"]) * rho
        bound = rho + options["momentum"] * momentum if options["nesterov"] else momentum
    return statistics.safe_sqrt(bound.square() + _mean(after.square()))


def _gradient(grad: Tensor, options: Options, stats: Tensor, threshold: Tensor, noise: Tensor) -> Tensor:
    """Bound on the root mean square of the transformed gradient, fp64."""
    if options["mode"] == "value":
        return statistics.safe_sqrt(_mean(threshold.square()))
    g = grad if grad.dtype == torch.float64 else grad.to(torch.float32)
    square = statistics.measure(g, stats[statistics.MEAN]).square
    square = torch.where(torch.isfinite(square), square, 0.0)
    left = shrinkage(statistics.safe_sqrt(square), threshold, options["clip_sharpness"])
    return statistics.safe_sqrt(_mean((square + noise.square()) * left.square()))


def _mean(x: Tensor) -> Tensor:
    """Over the units; 0 of none."""
    return x.sum() / max(1, x.numel())


def _size(weights: Tensor, state: State, options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    if options["ceiling_norm"] == "rms" or weights.dim() < 2 or weights.numel() == 0:
        return _rms(weights), {}
    before = state.get(SINGULAR)
    value, vector = iterate(weights, first_vector(weights, state["layer"]) if before is None else before)
    return value / math.sqrt(weights.numel()), {SINGULAR: vector}
