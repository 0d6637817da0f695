"""Registry: optimizers by name, ASGC and the baselines it is compared with.

``build(name, params, lr, **options)`` makes one, ``names()`` lists them, ``options(name)`` gives the options and
defaults of one. ``adam+clip`` and its like clip the global gradient norm with torch.nn.utils.clip_grad_norm_ first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .optimizer import ASGC
from .options import ASGC_DEFAULTS, nearest, resolve, rule_defaults
from .preview import Preview
from .proxy import OptimizerProxy
from .rules import TORCH_RULES

__all__ = ["MAX_NORM", "NormClipped", "OptimizerInfo", "build", "info", "names", "options"]

MAX_NORM = 10.0  # default of the +clip baselines: the global norm of the usual DQN recipes


@dataclass(frozen=True)
class OptimizerInfo:
    """One registered optimizer.

    Attributes:
        name: its name in ``build``.
        description: one line.
        rule: the base rule, None where it is an option (the ASGC family).
        fixed: options this name stands for; they cannot be given.
        max_norm: default of the option ``max_norm``, None where there is no such option.
    """

    name: str
    description: str
    rule: str | None
    fixed: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    max_norm: float | None = None


def _register() -> MappingProxyType[str, OptimizerInfo]:
    records = [
        OptimizerInfo("asgc", "ASGC: adaptive clip and noise", None),
        OptimizerInfo("asgc-clip", "ASGC without noise", None, MappingProxyType({"noise_scale": 0.0})),
        OptimizerInfo(
            "asgc-noise",
            "ASGC's noise without adaptive clip: no threshold, or the fixed one of the option threshold",
            None,
            MappingProxyType({"clip_factor": math.inf}),
        ),
    ]
    for rule, cls in TORCH_RULES.items():
        records.append(OptimizerInfo(rule, f"torch.optim.{cls.__name__}", rule))
        text = f"clip_grad_norm_ (max_norm), then torch.optim.{cls.__name__}"
        records.append(OptimizerInfo(f"{rule}+clip", text, rule, max_norm=MAX_NORM))
    return MappingProxyType({record.name: record for record in records})


_REGISTRY = _register()


def names() -> list[str]:
    """All registered names."""
    return list(_REGISTRY)


def info(name: str) -> OptimizerInfo:
    """The record of a name.

    Raises:
        ValueError: unknown name; the nearest one is given.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown optimizer {name!r}{nearest(name, _REGISTRY)}; known: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def options(name: str, rule: str = "adam") -> dict[str, Any]:
    """Options that ``build`` takes for a name beside params and lr, with their defaults.

    Args:
        name: a registered name.
        rule: for the ASGC family, the base rule whose options are meant.

    Raises:
        ValueError: unknown name or rule.
    """
    record = info(name)
    if record.rule is None:
        if rule not in TORCH_RULES:
            raise ValueError(f"unknown rule {rule!r}{nearest(rule, TORCH_RULES)}; known: {', '.join(TORCH_RULES)}")
        own = {key: value for key, value in ASGC_DEFAULTS.items() if key not in record.fixed}
        return {**own, "rule": rule, **rule_defaults(rule)}
    clip = {} if record.max_norm is None else {"max_norm": record.max_norm}
    return {**rule_defaults(record.rule), **clip}


def build(name: str, params: Any, lr: float | Tensor, **kwargs: Any) -> Optimizer:
    """Make a registered optimizer.

    Args:
        name: see ``names()``.
        params: parameters, named parameters or parameter groups.
        lr: learning rate.
        **kwargs: see ``options(name)``.

    Raises:
        ValueError: unknown name (the nearest is given), value out of range.
        TypeError: an option this optimizer does not have; the valid ones are listed.
    """
    record = info(name)
    valid = options(name, kwargs.get("rule", "adam"))
    for key in kwargs:
        if key not in valid:
            raise TypeError(f"{name} has no option {key!r}{nearest(key, valid)}; it has: {', '.join(valid)}")
    if record.rule is None:
        return ASGC(params, lr, **{**record.fixed, **kwargs})
    max_norm = kwargs.pop("max_norm", record.max_norm)
    resolve({"rule": record.rule, "lr": lr, **kwargs})  # the same checks and messages as ASGC's
    inner = _baseline(record.rule, params, lr, kwargs)
    return inner if max_norm is None else NormClipped(inner, max_norm)


def _baseline(rule: str, params: Any, lr: float | Tensor, kwargs: dict[str, Any]) -> Optimizer:
    params = [dict(item) if isinstance(item, dict) else item for item in params]
    tensors: list[Tensor] = []
    for item in params:
        if isinstance(item, dict):
            members = item["params"]
            item["params"] = [members] if isinstance(members, Tensor) else list(members)
            tensors += [m[1] if isinstance(m, tuple) else m for m in item["params"]]
        else:
            tensors.append(item[1] if isinstance(item, tuple) else item)
    # torch's fused kernels: their fastest, where they exist (adagrad's only on a CPU, rmsprop has none).
    devices = {"adam": ("cpu", "cuda"), "adamw": ("cpu", "cuda"), "sgd": ("cpu", "cuda"), "adagrad": ("cpu",)}
    usable = devices.get(rule, ())
    fused = bool(tensors) and all(t.device.type in usable and t.is_floating_point() for t in tensors)
    make: Callable[..., Optimizer] = TORCH_RULES[rule]
    return make(params, lr=lr, **kwargs, fused=True) if fused else make(params, lr=lr, **kwargs)


class NormClipped(OptimizerProxy):
    """``torch.nn.utils.clip_grad_norm_`` over all parameters, then the inner optimizer's step, as one optimizer.

    Args:
        inner: the optimizer to step.
        max_norm: largest 2-norm of all gradients together; larger ones are scaled down in place (and stay so).
    """

    def __init__(self, inner: Optimizer, max_norm: float) -> None:
        super().__init__(inner)
        if isinstance(max_norm, bool) or not isinstance(max_norm, int | float):
            raise TypeError(f"max_norm must be a number above 0, got {max_norm!r}")
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm!r}")
        self.max_norm = float(max_norm)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_norm": self.max_norm}

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Evaluate the closure, clip the gradients' norm, step."""
        loss = self._evaluate(closure)
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if params:
            torch.nn.utils.clip_grad_norm_(params, self.max_norm)
        self.inner.step()
        return loss

    @torch.no_grad()
    def preview(self) -> list[Preview]:
        """What the inner optimizer will see in the coming ``step()``; see ``asgc.preview``. Changes nothing."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            return []
        total = torch.nn.utils.get_total_norm([p.grad for p in params])
        scale = (self.max_norm / (total + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
        ratio = self.max_norm / float(total) if total > 0 else math.inf
        layers: list[Preview] = []
        for param in params:
            rms = float(param.grad.to(torch.float64).square().mean().sqrt())
            threshold = rms * ratio if rms > 0 else math.inf
            attenuation = float(scale) if rms > 0 else 1.0
            seen = param.grad * scale.to(param.grad.device)
            layers.append(Preview(param, seen, threshold, float(scale < 1), attenuation, 0.0))
        return layers
