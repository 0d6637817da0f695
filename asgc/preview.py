"""What the base rule is about to see: the transformed gradients of the coming step, for recorders and plots.

The fast paths never materialize them. ``preview`` computes them anew from the present gradients and state, with the
very noise of the coming step, and changes nothing: call it between ``backward()`` and ``step()``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import adapt, functional, rules
from . import gradient_statistics as statistics
from .implementations import REGISTRY, Stepped
from .layers import first_dtensor
from .options import TRANSFORM_DEFAULTS

__all__ = ["Preview", "preview"]

Stepping: TypeAlias = tuple[Tensor, Mapping[str, Any], Mapping[str, Any]]  # parameter, its state, options


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
    attenuation: float  # norm after the clip over that before it, noise in both: at most 1, which is nothing clipped
    noise_std: float  # of the noise, in the gradient's units; 0: none (with noise_at="update" ``seen`` has none in it)
    clip_factor: float = math.nan  # in use, adapted or given; NaN: this optimizer has none
    clip_sharpness: float = math.nan


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


def preview_asgc(opt: Stepped, make: Callable[..., Any]) -> list[Preview]:
    """``ASGC.preview`` (``make``: ASGC), by the implementation that steps, or by the reference while none is chosen."""
    states = {p: {**opt.state.get(p, {}), "layer": opt.layer_number(p)} for g in opt.param_groups for p in g["params"]}
    if first_dtensor(opt.param_groups) is not None:
        return preview_sharded(opt.param_groups, states, lambda group: group)
    layers: list[Stepping] = [
        (param, states[param], adapt.coming(param.grad, states[param], group))
        for group in opt.param_groups
        for param in group["params"]
        if param.grad is not None
    ]
    implementation = opt.param_groups[0]["implementation"]
    by_element = any(group["granularity"] == "element" for group in opt.param_groups)  # by the rule's moments
    if implementation in REGISTRY and REGISTRY[implementation].fast_preview and not by_element:
        return _preview_fast(make, layers, implementation)
    return preview_transform(layers)


@torch.no_grad()
def preview_transform(layers: Iterable[Stepping]) -> list[Preview]:
    """``functional.transform`` of layers, nothing kept. A state may lack what the first step makes."""
    result: list[tuple[Stepping, Tensor, Tensor]] = []
    for param, state, options in layers:
        if param.grad is not None:
            stats = _statistics(param, state, options)
            elements = rules.element_rms(state, options) if options["granularity"] == "element" else None
            key = (_time(state), state["layer"])
            new = functional.transform(param.grad, stats, *key, options, elements=elements)
            result.append(((param, state, options), new.grad, new.stats))
    return _previews(result)


@torch.no_grad()
def preview_sharded(
    groups: list[dict[str, Any]],
    states: Mapping[Tensor, Mapping[str, Any]],
    options_of: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> list[Preview]:
    """The same where parameters are DTensors; ``seen`` are such, too. Two collectives, so all ranks call it."""
    from .implementations import sharded

    def state_of(param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = states[param]
        return {"noise_step": _time(state), "stats": _statistics(param, state, options_of(group)), **state}

    shards = sharded.make_shards(groups, state_of, options_of)
    if not shards:
        return []
    watched = [shard.options["nonfinite"] != "contain" for shard in shards]
    own = {"nonfinite": "contain", "rule": "sgd"}  # the rule's state, which may not be there yet, does not matter
    shards = [shard._replace(options={**shard.options, **own}) for shard in shards]
    sums = sharded.measure(shards, {}).sums
    transformed = [sharded.transform(shard, x) for shard, x in zip(shards, sums, strict=True)]
    totals, _ = sharded.combine(shards, [new.figures for new in transformed], sums[0].square.new_zeros(1))
    refused = any(not bool(torch.isfinite(x.square).all()) for x, strict in zip(sums, watched, strict=True) if strict)
    result = []
    for shard, new, figures in zip(shards, transformed, totals, strict=True):
        rows = statistics.averages(statistics.complete(new.stats, figures, shard.size)).tolist()
        seen = sharded.placed(torch.zeros_like(new.grad) if refused else new.grad, shard.param)
        attenuation = 0.0 if refused else rows[statistics.ATTENUATION]
        noise, threshold, clipped = rows[statistics.NOISE], rows[statistics.THRESHOLD], rows[statistics.CLIPPED]
        given = (shard.options["clip_factor"], shard.options["clip_sharpness"])  # never adapted here
        result.append(Preview(shard.param, seen, threshold, clipped, attenuation, noise, *given))
    return result


@torch.no_grad()
def _preview_fast(make: Callable[..., Any], layers: list[Stepping], implementation: str) -> list[Preview]:
    """One step of plain SGD at learning rate 1 from zero, behind copies of the statistics: it ends at -seen."""
    if not layers:
        return []
    copies = [torch.zeros_like(param) for param, _, _ in layers]
    groups: dict[int, dict[str, Any]] = {}  # the optimizer's own groups, in their order, as `layers` is
    for copy, (_, _, options) in zip(copies, layers, strict=True):
        own = {name: options[name] for name in TRANSFORM_DEFAULTS}
        if own["noise_at"] == "update":  # added after the rule, which does not see it
            own["noise_scale"] = 0.0
        groups.setdefault(id(options), {"params": [], **own, "nonfinite": "contain"})["params"].append(copy)
    shadow = make(list(groups.values()), lr=1.0, rule="sgd", implementation=implementation)
    members = ((copy, group) for group in shadow.param_groups for copy in group["params"])
    for (copy, group), (param, state, options) in zip(members, layers, strict=True):
        copy.grad = param.grad
        own = shadow.layer_state(copy, group)
        own["layer"] = state["layer"]
        own["stats"].copy_(_statistics(param, state, options))
        own["noise_step"].fill_(_time(state))
    shadow.step()
    stats = [shadow.state[copy]["stats"] for copy in copies]
    for (param, state, options), new in zip(layers, stats, strict=True):
        if options["noise_at"] == "update" and options["noise_scale"] != 0 and param.grad is not None:
            new[statistics.NOISE] = _noise_std(param.grad, _statistics(param, state, options), _time(state), options)
    return _previews([(layer, copy.neg_(), new) for layer, copy, new in zip(layers, copies, stats, strict=True)])


def _statistics(param: Tensor, state: Mapping[str, Any], options: Mapping[str, Any]) -> Tensor:
    if "stats" in state:
        stats: Tensor = state["stats"]
        return stats
    return statistics.init(functional.units(param, options["granularity"]), param.device)


def _time(state: Mapping[str, Any]) -> int:
    return int(state.get("noise_step", 0))


def _previews(layers: list[tuple[Stepping, Tensor, Tensor]]) -> list[Preview]:
    """From (layer, transformed gradient, statistics after the step); zeros where the step will be refused."""
    refused = any(
        options["nonfinite"] != "contain" and param.grad is not None and not bool(torch.isfinite(param.grad).all())
        for (param, _, options), _, _ in layers
    )
    result: list[Preview] = []
    for (param, _, options), seen, new in layers:
        rows = statistics.averages(new).tolist()
        threshold, clipped, attenuation, noise = (
            rows[row] for row in (statistics.THRESHOLD, statistics.CLIPPED, statistics.ATTENUATION, statistics.NOISE)
        )
        if refused:
            seen, attenuation = torch.zeros_like(seen), 0.0
        own = (options["clip_factor"], options["clip_sharpness"])
        result.append(Preview(param, seen, threshold, clipped, attenuation, noise, *own))
    return result


def _noise_std(grad: Tensor, stats: Tensor, t: int, options: Mapping[str, Any]) -> Tensor:
    """Standard deviation of the noise of a step at time t, by unit, as ``functional.transform`` has it."""
    sums = statistics.measure(grad, stats[statistics.MEAN])
    started, _ = statistics.start(stats, sums)
    c_t = float(options["noise_scale"] * (1 + t) ** (-options["noise_decay"] / 2))
    return (c_t * statistics.noise_level(started, sums, options["noise_zeros"])).to(stats.dtype)
