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
            b: root mean square of the buffer after the step before;
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
from typing import Any

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from .singular import first_vector, iterate
from .smooth_clip import shrinkage

__all__ = ["LEFT", "SINGULAR", "UPDATE", "factor", "follow", "forget"]

# In the state of a layer, where it has a ceiling: what U is made from, s of the last step, the singular vector.
UPDATE, LEFT, SINGULAR = "update_rms", "step_left", "singular_vector"

Options = Mapping[str, Any]
State = Mapping[str, Any]


def _rms(x: Tensor) -> Tensor:
    """fp64, 0-dimensional; 0 of no elements."""
    return statistics.safe_sqrt(statistics.wide(x).square().sum() / max(1, x.numel()))


def factor(
    param: Tensor, grad: Tensor, state: State, options: Options, stats: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """By what the learning rate is multiplied in this step, fp64, 0-dimensional; and the new singular vector.

    Args:
        param, grad: the layer's parameter and raw gradient.
        state: before the step.
        options: complete, with ``lr`` and ``ceiling``.
        stats: the statistics after the step: its threshold, its noise.
    """
    size, kept = _size(param, state, options)
    reach = options["lr"] * _update(param, grad, state, options, stats)
    allowed = options["ceiling"] * torch.clamp(size, min=options["weight_floor"])
    return torch.where(reach > allowed, allowed / torch.where(reach > 0, reach, 1.0), 1.0), kept


def follow(param: Tensor, new_param: Tensor, left: Tensor, new_state: State, options: Options) -> dict[str, Tensor]:
    """What the coming step has to know of this one.

    Args:
        param, new_param: before and after the step, in the precision of the step.
        left: ``factor``.
        new_state: of the rule.
        options: with the ``lr`` that the step was taken with.
    """
    if options["rule"] == "sgd":
        buffer = new_state.get("momentum_buffer")
        found = _rms(buffer) if buffer is not None else torch.zeros_like(left)
    else:
        lr = torch.as_tensor(options["lr"], dtype=torch.float64, device=left.device)
        decoupled = options["rule"] == "adamw" or options.get("decoupled_weight_decay", False)
        start = param * (1 - options["lr"] * options["weight_decay"]) if decoupled else param
        moved = _rms(start - new_param)
        found = torch.where(lr > 0, moved / torch.where(lr > 0, lr, 1.0), _expected(options))
    return {UPDATE: found.detach().float(), LEFT: left.detach().float()}


def forget(state: dict[str, Any]) -> None:
    """The rule's moments begin anew: so do its updates."""
    state.pop(UPDATE, None)


def _expected(options: Options) -> float:
    """|u| of a first step."""
    return float((1 - options["alpha"]) ** -0.5) if options["rule"] == "rmsprop" else 1.0


def _update(param: Tensor, grad: Tensor, state: State, options: Options, stats: Tensor) -> Tensor:
    """U, fp64."""
    before = state.get(UPDATE)
    if options["rule"] != "sgd":
        return torch.full_like(stats[0, :1], _expected(options))[0].double() if before is None else before.double()
    noise = stats[statistics.NOISE].double()
    after = noise if options["noise_at"] == "update" else torch.zeros_like(noise)
    rho = _gradient(grad, options, stats, noise - after)
    if options["weight_decay"] != 0:
        rho = rho + options["weight_decay"] * _rms(param)
    bound = rho
    if options["momentum"] != 0:
        momentum = rho if before is None else options["momentum"] * before + (1 - options["dampening"]) * rho
        bound = rho + options["momentum"] * momentum if options["nesterov"] else momentum
    return statistics.safe_sqrt(bound.square() + after.square().mean())


def _gradient(grad: Tensor, options: Options, stats: Tensor, noise: Tensor) -> Tensor:
    """Bound on the root mean square of the transformed gradient, fp64."""
    tau = stats[statistics.THRESHOLD].double()
    if options["mode"] == "value":
        return statistics.safe_sqrt(tau.square().mean())
    g = grad if grad.dtype == torch.float64 else grad.to(torch.float32)
    square = statistics.measure(g, stats[statistics.MEAN]).square
    square = torch.where(torch.isfinite(square), square, 0.0)
    left = shrinkage(statistics.safe_sqrt(square), tau, options["clip_sharpness"])
    return statistics.safe_sqrt(((square + noise.square()) * left.square()).mean())


def _size(weights: Tensor, state: State, options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    if options["ceiling_norm"] == "rms" or weights.dim() < 2 or weights.numel() == 0:
        return _rms(weights), {}
    before = state.get(SINGULAR)
    value, vector = iterate(weights, first_vector(weights, state["layer"]) if before is None else before)
    return value / math.sqrt(weights.numel()), {SINGULAR: vector}
