"""Registry: optimizers by name, ASGC and what it is compared with.

``build(name, params, lr, **options)`` makes one, ``names()`` lists them, ``options(name)`` gives the options of one,
``all_options()`` those of all. ``adam+clip`` and its like clip the global gradient norm first, ``adam+clip-value``
every element; ``agc``, ``autoclip``, ``zclip``, ``adagc``, ``spamp``, ``gradient-noise`` (``asgc.peers``),
``gradient-stabilizer``, ``divgrad`` and ``obgd`` (``asgc.scaling``) stand in front of the rule named by their option
``rule``. ``adam-rel`` and ``adam-reset`` are Adam that answers ``shift()``.
``radam``, PQN's, ``adopt`` (``asgc.adopt``) and ``soap``, ``shampoo``, ``lamb`` (of the package pytorch_optimizer) are
no rules of ASGC; ``asgc+radam`` and its like have its gradient transform in front (``wrap``).

Only ``build`` and ``defaults`` import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .option import Option, nearest, union
from .options import (
    ASGC_OPTIONS,
    CLIPS,
    PEER_RULES,
    RULE,
    RULES,
    TORCH_CLASSES,
    TRANSFORM_DEFAULTS,
    TRANSFORM_OPTIONS,
    check_names,
    check_values,
    of_rule,
    rule_class,
    rule_defaults,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = ["OptimizerInfo", "all_options", "build", "defaults", "info", "names", "options"]


@dataclass(frozen=True)
class OptimizerInfo:
    """One registered optimizer.

    Attributes:
        name: its name in ``build``.
        description: one line.
        rule: the base rule, None where it is an option.
        fixed: options of ASGC that this name stands for; they cannot be given.
        wrapped: whether ASGC's gradient transform stands in front of the rule (``wrap``).
        clip: what is done to the gradients first, by its name in ``asgc.options.CLIPS``. None: nothing.
        asgc: whether it is made as an ``ASGC``.
    """

    name: str
    description: str
    rule: str | None
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    clip: str | None = None
    asgc: bool = False
    wrapped: bool = False

    @property
    def learnable(self) -> bool:
        """Whether it takes a preset of meta-learned options."""
        return self.asgc and self.rule is None


_OF_EVERY_RULE = ("clip", "clip-value")  # RULE+clip, RULE+clip-value
_PEERS = {
    "adopt": "ADOPT (Taniguchi et al. 2024)",
    "soap": "SOAP (Vyas et al. 2024), with weight decay by default; its first step only looks",
    "shampoo": "Shampoo (Gupta et al. 2018), a root of each dimension's matrix in every step by default",
    "lamb": "LAMB (You et al. 2019)",
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
    for rule, cls in PEER_RULES.items():
        of_torch = f"torch.optim.{cls}" if rule in TORCH_CLASSES else _PEERS[rule]
        records.append(OptimizerInfo(rule, of_torch, rule))
        for clip in _OF_EVERY_RULE:
            text = f"{CLIPS[clip].description}, then {of_torch}"
            records.append(OptimizerInfo(f"{rule}+{clip}", text, rule, clip=clip))
        if rule not in RULES:
            text = f"ASGC's clip and noise in front of {of_torch}"
            records.append(OptimizerInfo(f"asgc+{rule}", text, rule, wrapped=True))
    records += [
        OptimizerInfo(name, clip.description, None, clip=name)
        for name, clip in CLIPS.items()
        if name not in _OF_EVERY_RULE
    ]
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


def options(name: str, rule: str = RULE.default) -> dict[str, Option]:
    """Options that ``build`` takes for a name beside params and lr.

    Args:
        name: a registered name.
        rule: where the rule is an option, the one whose options are meant.

    Raises:
        ValueError: unknown name or rule.
    """
    record = info(name)
    rule = record.rule or rule
    if record.rule is None and rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}{nearest(rule, RULES)}; known: {', '.join(RULES)}")
    own = ASGC_OPTIONS if record.asgc and record.rule is None else CLIPS[record.clip].options if record.clip else ()
    own = TRANSFORM_OPTIONS if record.wrapped else own
    rules = (RULE,) if record.rule is None else ()
    return {option.name: option for option in (*own, *rules, *of_rule(rule)) if option.name not in record.fixed}


def defaults(name: str, rule: str = RULE.default) -> dict[str, Any]:
    """The default of every option of ``options(name, rule)``, torch.optim's read from the installed torch."""
    own = {key: option.default for key, option in options(name, rule).items()}
    chosen = {"rule": rule} if "rule" in own else {}
    return {**own, **chosen, **rule_defaults(info(name).rule or rule)}


def all_options() -> tuple[Option, ...]:
    """Every option that some registered optimizer has, once by its name, for flags and help pages.

    ``owners`` says who has it: "asgc" (all of that family), base rules, "NAME+clip", peers. Where they differ in it,
    ``default`` is None and ``allowed`` holds what any of them allows: ``options(name)`` has those of one.
    """
    tables: list[tuple[str, tuple[Option, ...]]] = [("asgc", ASGC_OPTIONS)]
    for name, clip in CLIPS.items():
        tables.append((f"NAME+{name}", clip.options) if name in _OF_EVERY_RULE else (name, (*clip.options, RULE)))
    tables += [(rule, of_rule(rule)) for rule in PEER_RULES]
    found: dict[str, Option] = {}
    for owner, table in tables:
        for option in table:
            first = found.get(option.name, replace(option, owners=()))
            default = first.default if first.default == option.default else None
            allowed = first.allowed and union(first.allowed, option.allowed)
            found[option.name] = replace(first, default=default, allowed=allowed, owners=(*first.owners, owner))
    return tuple(found.values())


def build(name: str, params: Any, lr: float | Tensor, preset: Any = None, **kwargs: Any) -> Optimizer:
    """Make a registered optimizer.

    Args:
        name: see ``names()``.
        params: parameters, named parameters or parameter groups.
        lr: learning rate.
        preset: meta-learned options of ``asgc`` and its kin, as ``ASGC.from_preset`` takes them.
        **kwargs: see ``options(name)``.

    Raises:
        ValueError: unknown name (the nearest is given), value out of range, no such preset.
        TypeError: an option this optimizer does not have; the valid ones are listed.
    """
    record = info(name)
    if preset is not None:
        return _from_preset(record, params, lr, preset, kwargs)
    check_names(kwargs, options(name, kwargs.get("rule", RULE.default)), name)
    if record.asgc:
        from .optimizer import ASGC

        return ASGC(params, lr, **{**record.fixed, **kwargs})
    rule = record.rule or kwargs.pop("rule", RULE.default)
    if record.wrapped:
        from .wrapped import wrap

        transform = {name: kwargs.pop(name) for name in TRANSFORM_DEFAULTS.keys() & kwargs.keys()}
        return wrap(_baseline(rule, params, lr, kwargs), **transform)
    if record.clip is None:
        return _baseline(rule, params, lr, kwargs)
    from .clips import Clipped
    from .peers import CLASSES

    own = {option.name for option in CLIPS[record.clip].options}
    clip = CLASSES[record.clip](**{key: kwargs.pop(key) for key in own & set(kwargs)})
    return Clipped(_baseline(rule, params, lr, kwargs), clip)


def _from_preset(
    record: OptimizerInfo, params: Any, lr: float | Tensor, preset: Any, kwargs: dict[str, Any]
) -> Optimizer:
    if not record.learnable:
        own = [name for name, one in _REGISTRY.items() if one.learnable]
        raise ValueError(f"{record.name} takes no preset: those of {', '.join(own)} are learned")
    from .meta.preset import Preset
    from .optimizer import ASGC

    found = Preset.load(preset)
    if (rule := kwargs.pop("rule", found.rule)) != found.rule:
        raise ValueError(f"preset {found.name} was learned with rule {found.rule!r}, not {rule!r}")
    check_names(kwargs, options(record.name, rule), record.name)
    return ASGC.from_preset(params, found, lr, **{**record.fixed, **kwargs})


def _baseline(rule: str, params: Any, lr: float | Tensor, kwargs: dict[str, Any]) -> Optimizer:
    import torch

    from .placement import is_dtensor

    check_values({"lr": lr, **rule_defaults(rule), **kwargs})  # the same messages as ASGC's
    params = [dict(item) if isinstance(item, dict) else item for item in params]
    tensors: list[Tensor] = []
    for item in params:
        if isinstance(item, dict):
            members = item["params"]
            item["params"] = [members] if isinstance(members, torch.Tensor) else list(members)
            tensors += [m[1] if isinstance(m, tuple) else m for m in item["params"]]
        else:
            tensors.append(item[1] if isinstance(item, tuple) else item)
    # torch's fused kernels: their fastest, where they exist (adagrad's only on a CPU; rmsprop and radam have none; of
    # DTensors only Adam's).
    devices = {"adam": ("cpu", "cuda"), "adamw": ("cpu", "cuda"), "sgd": ("cpu", "cuda"), "adagrad": ("cpu",)}
    usable = devices.get(rule, ())
    fused = bool(tensors) and all(t.device.type in usable and t.is_floating_point() for t in tensors)
    fused = fused and (rule in ("adam", "adamw") or not any(map(is_dtensor, tensors)))
    options = {**kwargs, "fused": True} if fused else kwargs
    made: Optimizer = rule_class(rule)(params, lr=lr, **options)
    return made
