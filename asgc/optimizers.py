"""Registry: optimizers by name, ASGC and what it is compared with.

``build(name, params, lr, **options)`` makes one, ``names()`` lists them, ``options(name)`` gives the options and
defaults of one. ``adam+clip`` and its like clip the global gradient norm first, ``adam+clip-value`` every element;
``agc``, ``autoclip``, ``zclip``, ``adagc``, ``spamp`` and ``gradient-noise`` (``asgc.peers``) stand in front of the
rule named by their option ``rule``. ``adam-rel`` and ``adam-reset`` are Adam that answers ``shift()``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from . import peers
from .clips import Clip, Clipped, NormClip, ValueClip
from .optimizer import ASGC
from .options import ASGC_DEFAULTS, nearest, resolve, rule_defaults
from .rules import TORCH_RULES

__all__ = ["OptimizerInfo", "build", "info", "names", "options"]


@dataclass(frozen=True)
class OptimizerInfo:
    """One registered optimizer.

    Attributes:
        name: its name in ``build``.
        description: one line.
        rule: the base rule, None where it is an option.
        fixed: options of ASGC that this name stands for; they cannot be given.
        clip: what is done to the gradients first; its fields are options. None: nothing.
        asgc: whether it is made as an ``ASGC``.
    """

    name: str
    description: str
    rule: str | None
    fixed: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    clip: Callable[..., Clip] | None = None
    asgc: bool = False


_PEERS: dict[str, tuple[str, Callable[..., Clip]]] = {
    "agc": ("unit-wise adaptive gradient clipping (Brock et al. 2021)", peers.AGC),
    "autoclip": ("global norm clipped to a percentile of all so far (Seetharaman et al. 2020)", peers.AutoClip),
    "zclip": ("global norm clipped by its z-score (Kumar et al. 2025)", peers.ZClip),
    "adagc": ("norm of each tensor clipped by its running mean (Wang et al. 2025)", peers.AdaGC),
    "spamp": ("power shaping and projection by layer (You & Liu 2025)", peers.Spamp),
    "gradient-noise": ("annealed Gaussian noise on the gradients (Neelakantan et al. 2015)", peers.GradientNoise),
}
_SHIFTED = {
    "adam-rel": "Adam whose step count restarts with shift() (Ellis et al. 2024)",
    "adam-reset": "Adam whose moments and step count restart with shift() (Asadi et al. 2023)",
}


def _register() -> MappingProxyType[str, OptimizerInfo]:
    noise = "ASGC's noise without adaptive clip: no threshold, or the fixed one of the option threshold"
    records = [
        OptimizerInfo("asgc", "ASGC: adaptive clip and noise", None, asgc=True),
        OptimizerInfo("asgc-clip", "ASGC without noise", None, MappingProxyType({"noise_scale": 0.0}), asgc=True),
        OptimizerInfo("asgc-noise", noise, None, MappingProxyType({"clip_factor": math.inf}), asgc=True),
    ]
    for rule, cls in TORCH_RULES.items():
        of_torch = f"torch.optim.{cls.__name__}"
        records += [
            OptimizerInfo(rule, of_torch, rule),
            OptimizerInfo(f"{rule}+clip", f"clip_grad_norm_ (max_norm), then {of_torch}", rule, clip=NormClip),
            OptimizerInfo(f"{rule}+clip-value", f"clip_grad_value_, then {of_torch}", rule, clip=ValueClip),
        ]
    records += [OptimizerInfo(name, text, None, clip=clip) for name, (text, clip) in _PEERS.items()]
    for name, text in _SHIFTED.items():
        answer = "reset" if name == "adam-reset" else name
        # Value mode without a threshold: the gradients as they are, read once.
        fixed = {"rule": "adam", "mode": "value", "clip_factor": math.inf, "noise_scale": 0.0, "on_shift": answer}
        records.append(OptimizerInfo(name, text, "adam", MappingProxyType(fixed), asgc=True))
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
        rule: where the rule is an option, the one whose options are meant.

    Raises:
        ValueError: unknown name or rule.
    """
    record = info(name)
    rules = {"rule": rule} if record.rule is None else {}
    rule = record.rule or rule
    if rule not in TORCH_RULES:
        raise ValueError(f"unknown rule {rule!r}{nearest(rule, TORCH_RULES)}; known: {', '.join(TORCH_RULES)}")
    own: dict[str, Any] = {}
    if record.asgc and record.rule is None:
        own = {key: value for key, value in ASGC_DEFAULTS.items() if key not in record.fixed}
    elif record.clip is not None:
        own = {item.name: item.default for item in dataclasses.fields(record.clip) if item.init}  # type: ignore[arg-type]
    return {**own, **rules, **rule_defaults(rule)}


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
    if record.asgc:
        return ASGC(params, lr, **{**record.fixed, **kwargs})
    rule = record.rule or kwargs.pop("rule", "adam")
    clip = None
    if record.clip is not None:
        own = {item.name for item in dataclasses.fields(record.clip) if item.init}  # type: ignore[arg-type]
        clip = record.clip(**{name: kwargs.pop(name) for name in own & set(kwargs)})
    resolve({"rule": rule, "lr": lr, **kwargs})  # the same checks and messages as ASGC's
    inner = _baseline(rule, params, lr, kwargs)
    return inner if clip is None else Clipped(inner, clip)


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
