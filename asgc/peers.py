"""The published clipping rules that ASGC is compared with, each from its paper: clips for ``asgc.clips.Clipped``.
``asgc.scaling`` has those that scale whole gradients.

They take gradients as their papers do, so a non-finite gradient does to them what it does there. Those that need a norm
on the host (AutoClip, ZClip) synchronize a GPU once a step.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from . import scaling
from .clips import EPS, Bound, Clip, GlobalNormClip, LayerGradient, NormClip, Scalar, ValueClip, average, norms
from .layers import head_places, layer_number
from .noise import noise_like

__all__ = ["AGC", "CLASSES", "AdaGC", "AutoClip", "GradientNoise", "Spamp", "ZClip"]


class AGC(Clip):
    """Adaptive gradient clipping of NFNets (Brock et al. 2021, arXiv 2102.06171, equation 3): an output unit's gradient
    norm is at most ``clip_ratio`` max(norm of its weights, ``weight_floor``). A unit is an index of dimension 0, or a
    whole tensor with fewer than two dimensions. The head (the last tensor with two or more dimensions and its bias) is
    left as it is, as in the paper, unless ``exclude_head`` is False.
    """

    name = "agc"
    clip_ratio: float
    weight_floor: float
    exclude_head: bool
    head = range(0)  # numbers of its tensors

    def begin(self, params: Sequence[Tensor]) -> None:
        self.head = head_places(params) if self.exclude_head else range(0)

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        bounds = []
        for number, param, grad, _ in layers:
            if number in self.head:
                bounds.append(Bound())
                continue
            largest = self.clip_ratio * _unit_norms(param.detach()).clamp(min=self.weight_floor)
            found = _unit_norms(grad)
            grad.mul_(torch.where(found > largest, largest / found, 1.0))
            limit = average(largest) / math.sqrt(max(1, grad.numel() // max(1, found.numel())))
            bounds.append(Bound(limit, clipped=average((found > largest).float())))
        return bounds


def _unit_norms(x: Tensor) -> Tensor:
    """2-norm of every output unit, kept as dimensions of size 1."""
    dims = tuple(range(1, x.dim())) if x.dim() >= 2 else None
    found: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return found


class AutoClip(GlobalNormClip):
    """AutoClip (Seetharaman et al. 2020, arXiv 2007.14469): the global norm is clipped to a percentile of all norms so
    far, this step's included. Norms that are not finite do not enter."""

    name = "autoclip"
    percentile: float
    norms: list[float]  # sorted
    fresh = MappingProxyType({"norms": []})

    def bound(self, total: Tensor) -> Scalar:
        norm = float(total)
        if math.isfinite(norm):
            bisect.insort(self.norms, norm)
        if not self.norms:
            return math.inf
        place = self.percentile / 100 * (len(self.norms) - 1)
        low, high = self.norms[math.floor(place)], self.norms[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))


class ZClip(GlobalNormClip):
    """ZClip (Kumar et al. 2025, arXiv 2504.02507): running mean and variance of the global norm; a norm whose z-score
    is above ``z_threshold`` is clipped to mean + z_threshold^2 std / z ("adaptive scaling"), and enters the statistics
    so clipped. The first ``warmup_steps`` norms set the statistics; ``max_norm`` bounds every step besides (the
    authors' code defaults to 1 there, made for language models).
    """

    name = "zclip"
    z_threshold: float
    ema_decay: float
    warmup_steps: int
    max_norm: float
    first: list[float]
    mean: float
    var: float
    fresh = MappingProxyType({"first": [], "mean": 0.0, "var": 0.0})

    def bound(self, total: Tensor) -> Scalar:
        norm = float(total)
        if len(self.first) < self.warmup_steps:
            self.first.append(norm)
            if len(self.first) == self.warmup_steps:
                self.mean = sum(self.first) / self.warmup_steps
                self.var = sum((x - self.mean) ** 2 for x in self.first) / self.warmup_steps
            return self.max_norm
        std = math.sqrt(self.var)
        z = (norm - self.mean) / (std + EPS)
        taken = self.mean + self.z_threshold * std / (z / self.z_threshold) if z > self.z_threshold else norm
        self.mean = self.ema_decay * self.mean + (1 - self.ema_decay) * taken
        self.var = self.ema_decay * self.var + (1 - self.ema_decay) * (taken - self.mean) ** 2
        return min(taken if z > self.z_threshold else math.inf, self.max_norm)


class AdaGC(Clip):
    """AdaGC (Wang et al. 2025, arXiv 2502.11034, algorithm 1): each tensor's norm is at most ``relative_threshold``
    times the running mean of its own clipped norms. In the first ``warmup_steps`` steps the global norm is clipped to
    ``max_norm``, and the running mean is the smallest clipped norm seen.
    """

    name = "adagc"
    relative_threshold: float
    ema_decay: float
    warmup_steps: int
    max_norm: float
    step: int
    means: dict[int, Tensor]
    fresh = MappingProxyType({"step": 0, "means": {}})

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        each = norms(layers)
        for layer, norm in zip(layers, each, strict=True):
            self.means.setdefault(layer.number, norm.clone() if self.warmup_steps == 0 else norm * math.inf)
        means = torch.stack([self.means[layer.number] for layer in layers])
        if self.step < self.warmup_steps:
            largest = torch.full_like(each, math.inf)
            scale = torch.clamp(self.max_norm / torch.linalg.vector_norm(each), max=1.0).expand_as(each)
            means = torch.fmin(means, scale * each)  # fmin: inf * 0 of a gradient that is zero
        else:
            largest = self.relative_threshold * means
            scale = torch.where(each > largest, largest / each, 1.0)
            means = self.ema_decay * means + (1 - self.ema_decay) * scale * each
        torch._foreach_mul_([layer.grad for layer in layers], list(scale.unbind()))
        self.means.update({layer.number: mean.clone() for layer, mean in zip(layers, means, strict=True)})
        self.step += 1
        sizes = [math.sqrt(max(1, layer.grad.numel())) for layer in layers]
        return [Bound(limit / size, clipped=one < 1) for limit, size, one in zip(largest, sizes, scale, strict=True)]


class Spamp(Clip):
    """SPAMP (You & Liu 2025, arXiv 2510.01578): tau, the running mean of a layer's norm, this step's included; elements
    become sign(g) |g|^a and the layer is then scaled down to the norm tau where it is above it.

    The paper has a in [``min_power``, 1] as a decreasing function of |g|/tau and leaves that open; here it is
    1 up to tau and min_power + (1 - min_power) tau/|g| above.
    """

    name = "spamp"
    ema_decay: float
    min_power: float
    means: dict[int, Tensor]
    fresh = MappingProxyType({"means": {}})

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        bounds = []
        for (number, _, grad, _), norm in zip(layers, norms(layers), strict=True):
            before = self.means.get(number, norm)
            tau = self.ema_decay * before + (1 - self.ema_decay) * norm
            self.means[number] = tau.clone()
            power = self.min_power + (1 - self.min_power) * torch.clamp(tau / norm, max=1.0).nan_to_num(1.0)
            grad.copy_(grad.sign() * grad.abs() ** power)
            shaped = torch.linalg.vector_norm(grad)
            grad.mul_(torch.where(shaped > tau, tau / shaped, 1.0))
            bounds.append(Bound(tau / math.sqrt(max(1, grad.numel()))))
        return bounds


class GradientNoise(Clip):
    """Annealed Gaussian gradient noise (Neelakantan et al. 2015, arXiv 1511.06807): variance eta / (1 + t)^noise_decay,
    t = 0, 1, ...; the paper takes eta of 0.01, 0.3 and 1. The numbers are a function of (seed, t, layer, element), see
    ``asgc.noise``."""

    name = "gradient-noise"
    eta: float
    noise_decay: float
    seed: int
    step: int
    fresh = MappingProxyType({"step": 0})

    def apply(self, layers: Sequence[LayerGradient]) -> list[Bound]:
        std = math.sqrt(self.eta / (1 + self.step) ** self.noise_decay)
        for place, param, grad, _ in layers:
            eps = noise_like(grad, self.seed, self.step, layer_number(param, place))
            grad.add_(eps.to(grad.dtype), alpha=std)
        self.step += 1
        return [Bound(clipped=0.0, noise_std=std) for _ in layers]


CLASSES: dict[str, type[Clip]] = {
    cls.name: cls for cls in (NormClip, ValueClip, AGC, AutoClip, ZClip, AdaGC, Spamp, GradientNoise)
} | scaling.CLASSES
