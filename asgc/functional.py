"""ASGC as pure functions: the smooth clip, the gradient transform and the whole step.

Nothing is changed in place, and everything is differentiable, also in the options where they are given as tensors
(clip_factor, clip_sharpness, threshold, noise_scale, noise_decay, stats_decay, outlier_share, lr, weight_decay, ...):
unrolling ``step`` differentiates through training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import adapt, ceiling, rules
from . import gradient_statistics as statistics
from . import options as _options
from .noise import noise_like
from .smooth_clip import clip, shrinkage

__all__ = ["Transformed", "clip", "init", "options", "relative", "shrinkage", "step", "transform", "units"]

Scalar = float | Tensor


def units(param: Tensor, granularity: str) -> int:
    """Number of units with statistics of their own: one a layer, or one an index along dimension 0."""
    return param.shape[0] if granularity == "unit" and param.dim() >= 2 else 1


class Whole(NamedTuple):
    """The whole layer, where ``transform`` is given a piece of it (a shard)."""

    sums: statistics.Sums  # of the whole layer
    rows: slice | Tensor  # which of its units the piece holds
    eps: Callable[[int, int, int], Tensor]  # (seed, t, layer) -> noise of the piece's elements, in its shape, fp32


class Transformed(NamedTuple):
    grad: Tensor  # the transformed gradient, in fp32 (fp64 for fp64 gradients)
    noise: Tensor | None  # to be added after the rule (noise_at="update")
    stats: Tensor  # the statistics after this step; of a piece: without the two that ``figures`` give
    figures: Tensor  # what ``gradient_statistics.complete`` takes: fp64, (3, units of the piece)
    threshold: Tensor  # of this step, and the standard deviation of its noise: fp64, (units,), differentiable
    noise_std: Tensor


def transform(
    grad: Tensor,
    stats: Tensor,
    t: int,
    layer: int,
    options: Mapping[str, Any],
    whole: Whole | None = None,
    denominator: Tensor | None = None,
    elements: Tensor | None = None,
) -> Transformed:
    """Statistics, threshold, noise and clip: what ASGC does to one layer's gradient before the base rule.

    Args:
        grad: raw gradient of the layer.
        stats: its statistics, shape (len(STATISTICS), units) (``gradient_statistics.init``).
        t: steps this layer has done so far (0, 1, ...), the time of the noise.
        layer: the layer's number, for the noise.
        options: complete options (``asgc.functional.options``).
        whole: given where ``grad`` is only a piece of the layer. Then ``figures`` of all pieces, added up, complete the
            statistics by ``gradient_statistics.complete``.
        denominator: ``rules.denominator`` of the units, fp64, for the noise of noise_at="update"; None: 1.
        elements: ``rules.element_rms`` for granularity="element"; None: there is none yet.
    """
    mode, noise_scale = options["mode"], options["noise_scale"]
    g = grad if grad.dtype == torch.float64 else grad.to(torch.float32)
    rows = slice(None) if whole is None else whole.rows
    count = stats[0, rows].numel()  # units here

    def spread(x: Tensor) -> Tensor:  # one value a unit, against the gradient
        return x[rows].view((count,) + (1,) * (g.dim() - 1)) if g.dim() else x.view(())

    sums = statistics.measure(g, stats[statistics.MEAN]) if whole is None else whole.sums
    finite = torch.isfinite(sums.square)
    current, first = statistics.start(stats, sums)
    unseen = current[statistics.N] == 0
    fixed = options["threshold"]
    if fixed is not None:
        tau = torch.as_tensor(fixed, dtype=torch.float64, device=g.device).expand(stats.shape[1])
    else:
        tau = statistics.threshold(current, mode, options["clip_factor"])
        tau = torch.where(~finite & unseen, math.inf, tau)  # no scale is known yet: finite elements pass

    bad = ~torch.isfinite(g)
    if mode == "norm":
        bad = bad | ~spread(finite)
    clean = torch.where(bad, 0.0, g)

    noise: Tensor | None = None
    c_t, level = noise_scale, torch.zeros_like(tau)
    if isinstance(noise_scale, Tensor) or noise_scale != 0:
        c_t = noise_scale * (1 + t) ** (-options["noise_decay"] / 2)
        level = statistics.noise_level(current, sums, options["noise_zeros"])
        added = c_t * level
        if options["noise_at"] == "update" and denominator is not None:
            added = c_t * relative(level, denominator)
        key = (options["seed"], t, layer)
        eps = (noise_like(g, *key) if whole is None else whole.eps(*key)).to(g.dtype)
        noise = spread(added.to(g.dtype)) * eps
        if not options["noise_zeros"]:
            noise = torch.where(clean != 0, noise, 0.0)
    h = clean
    if noise is not None and options["noise_at"] == "gradient":
        h = clean + noise
        noise = None
    noisy = h

    if mode == "value":
        # An infinite element is clipped to +-tau; without a threshold or a scale it contributes nothing, as NaN does.
        limit = spread(tau.to(g.dtype))
        if elements is not None:
            limit = torch.where(elements > 0, options["clip_factor"] * elements.to(g.dtype), limit)
            mean = statistics.wide(limit.detach()).square().sum() / max(1, limit.numel())
            tau = mean.sqrt().reshape(1)
        infinite = torch.isinf(g) & torch.isfinite(limit) & ~spread(unseen)
        h = torch.where(infinite, g, h)
        beyond = h.abs() > limit
        h = clip(h, limit, options["clip_sharpness"])
    else:
        r = statistics.safe_sqrt(torch.where(finite, sums.square, 0.0))
        beyond = spread(r > tau).expand_as(h)
        if h.dtype == torch.float64:  # what r is the root mean square of
            h = torch.where(spread(torch.isfinite(tau)), statistics.wide(h), h)
        h = h * spread(shrinkage(r, tau, options["clip_sharpness"]).to(g.dtype))

    updated = statistics.update(current, sums, first, options["stats_decay"], options["outlier_share"])
    new = list(statistics.count_nonfinite(updated, ~finite).unbind())
    new[statistics.THRESHOLD] = tau.detach().to(stats.dtype)
    new[statistics.NOISE] = (c_t * level).detach().to(stats.dtype)
    after_and_before = (torch.where(torch.isfinite(g), x, 0.0) for x in (h, noisy))
    figures = torch.stack([_by_unit(x.detach(), count) for x in (beyond, *after_and_before)])
    after = torch.stack(new)
    if whole is None:
        after = statistics.complete(after, figures, sums.size)
    return Transformed(h, noise, after, figures, tau, c_t * level)


def _by_unit(x: Tensor, units: int) -> Tensor:
    """Sum of squares of each unit, in fp64."""
    return statistics.wide(x).square().reshape(units, x.numel() // max(1, units)).sum(1)


def _eps(grad: Tensor, stats: Tensor, options: Mapping[str, Any]) -> Tensor:
    """eps + eps_scale sigma of each unit, fp64: the standard deviation of the steps before, or of the first step."""
    g = grad if grad.dtype == torch.float64 else grad.to(torch.float32)
    current, _ = statistics.start(stats, statistics.measure(g, stats[statistics.MEAN]))
    sigma = statistics.safe_sqrt(current[statistics.VAR].to(torch.float64))
    eps: Tensor = options["eps"] + options["eps_scale"] * sigma
    return eps.clamp(min=torch.finfo(torch.float32).tiny)  # a layer without a gradient yet, with eps=0: 0/0


def relative(level: Tensor, denominator: Tensor) -> Tensor:
    """``noise_level`` in units of the rule's update, by its denominator: at most 1.

    Where the gradient has just grown beyond the denominator, which knows the steps before only, it divides by itself.
    """
    largest = torch.maximum(level, denominator)
    return level / torch.where(largest > 0, largest, 1.0)


def options(rule: str = "adam", lr: Scalar | None = None, **given: Any) -> dict[str, Any]:
    """Complete, checked options for ``step``: ASGC's and torch.optim's defaults where nothing is given.

    Raises:
        TypeError, ValueError: as ``asgc.ASGC``.
    """
    lr_option = {} if lr is None else {"lr": lr}
    return _options.resolve({"rule": rule, **lr_option, **given})


def init(param: Tensor, layer: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """State of one layer before its first step: the rule's own, the statistics, the layer number and time."""
    return {
        "layer": layer,
        "noise_step": torch.tensor(0, dtype=torch.int64, device="cpu"),
        "stats": statistics.init(units(param, options["granularity"]), param.device),
        **rules.init(param.detach(), options),
        **(adapt.init(param.detach()) if options["adapt"] is not None else {}),
    }


def step(
    param: Tensor, grad: Tensor, state: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """One ASGC step of one layer.

    Args:
        param, grad: the layer's parameter and gradient.
        state: from ``init`` or from the previous step. For gradients through several steps in fp64, give the
            statistics in fp64 too: ``state["stats"] = state["stats"].double()``.
        options: from ``options``, with ``lr``.

    Returns:
        The new parameter (param's dtype; lower precisions are updated in fp32 and rounded) and the new state.
    """
    own, measuring = dict(state), adapt.is_due(state, options)
    if measuring:
        own["adapted"] = adapt.follow(grad, state, options)
    if options["adapt"] is not None:
        options = adapt.in_use(options, own["adapted"])
    t, number, before = int(state["noise_step"]), state["layer"], state["stats"]
    denominator = None
    if isinstance(options["eps_scale"], Tensor) or options["eps_scale"] != 0:
        options = {**options, "eps": _eps(grad, before, options)}
    if options["noise_at"] == "update" and (isinstance(options["noise_scale"], Tensor) or options["noise_scale"] != 0):
        size = max(1, param.numel() // max(1, before.shape[1]))
        denominator = rules.denominator(rules.squares(own, options, before.shape[1]), size, own, options)
    elements = rules.element_rms(own, options) if options["granularity"] == "element" else None
    new = transform(grad, before, t, number, options, None, denominator, elements)
    full = param if param.dtype == torch.float64 else param.to(torch.float32)
    if isinstance(options.get("eps"), Tensor) and options["eps"].dim():  # one a unit, against the parameter
        shape = (-1,) + (1,) * (full.dim() - 1) if full.dim() else ()
        options = {**options, "eps": options["eps"].to(full.dtype).reshape(shape)}
    held: dict[str, Any] = {}
    if options["ceiling"] is not None:
        left, held = ceiling.factor(full, grad, own, options, before, new.threshold, new.noise_std)
        options = {**options, "lr": options["lr"] * left}
    new_param, rule_state = rules.step(full, new.grad, own, options, new.noise)
    if options["ceiling"] is not None:
        held |= ceiling.follow(full, new.grad, own, options, new.noise, before.dtype)
    measured = adapt.measure(full, grad, new.grad, own, options) if measuring else {}
    new_state = {**own, **rule_state, **measured, **held, "stats": new.stats, "noise_step": state["noise_step"] + 1}
    return new_param.to(param.dtype), new_state
