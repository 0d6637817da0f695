"""Names, defaults and valid ranges of the options of ASGC and of the base rules."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .placement import problem
from .rules import TORCH_RULES

__all__ = [
    "ASGC_DEFAULTS",
    "TRANSFORM_DEFAULTS",
    "check_number",
    "nearest",
    "resolve",
    "resolve_transform",
    "rule_defaults",
]

# Options of the gradient transform (steps 1-4 and 6), shared by ASGC and wrap.
TRANSFORM_DEFAULTS: dict[str, Any] = {
    "mode": "norm",
    "clip_factor": None,
    "clip_sharpness": 4.0,
    "threshold": None,
    "granularity": "layer",
    "noise_scale": 0.1,
    "noise_decay": 0.0,
    "noise_at": "gradient",
    "noise_zeros": False,
    "stats_decay": 0.99,
    "outlier_share": None,
    "on_shift": "none",
    "nonfinite": "contain",
    "seed": 0,
}
ASGC_DEFAULTS: dict[str, Any] = {
    "rule": "adam",
    **TRANSFORM_DEFAULTS,
    "adapt": None,
    "adapt_lr": 0.5,
    "adapt_every": 8,
    "implementation": "auto",
    "capturable": False,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "rule": tuple(TORCH_RULES),
    "mode": ("value", "norm"),
    "granularity": ("layer", "unit"),
    "noise_at": ("gradient", "update"),
    "on_shift": ("none", "rewarm", "adam-rel", "reset"),
    "nonfinite": ("contain", "skip", "raise"),
    "adapt": ("hypergradient",),
    "implementation": ("auto", "reference", "foreach", "cpu", "triton", "sharded"),
}
FLAGS = ("noise_zeros", "capturable", "nesterov", "maximize", "amsgrad", "centered", "decoupled_weight_decay")
# torch.optim's arguments that choose an implementation rather than the rule.
_NOT_RULE_OPTIONS = {"self", "params", "lr", "foreach", "fused", "capturable", "differentiable"}


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """`` (did you mean 'x'?)`` for the valid name closest to an unknown one, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


@functools.cache
def _signature_defaults(rule: str) -> dict[str, Any]:
    parameters = inspect.signature(TORCH_RULES[rule]).parameters
    return {name: p.default for name, p in parameters.items() if name not in _NOT_RULE_OPTIONS}


def rule_defaults(rule: str) -> dict[str, Any]:
    """Options of a base rule with torch.optim's own defaults, read from the installed torch."""
    return dict(_signature_defaults(rule))


def check_number(name: str, value: Any, valid: Callable[[float], bool], range_: str) -> None:
    """TypeError or ValueError for an option that is not one number, or not a `valid` one (`range_` in words)."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
        value = float(value.detach())
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number ({range_}), got {value!r}")
    if math.isnan(value) or not valid(value):
        raise ValueError(f"{name} must be {range_}, got {value!r}")


_POSITIVE: tuple[Callable[[float], bool], str] = (lambda x: x > 0, "above 0 (inf allowed)")
_NOT_NEGATIVE: tuple[Callable[[float], bool], str] = (lambda x: 0 <= x < math.inf, "0 or more and finite")
_FRACTION: tuple[Callable[[float], bool], str] = (lambda x: 0 <= x < 1, "in [0, 1)")
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": _NOT_NEGATIVE,
    "adapt_lr": _NOT_NEGATIVE,
    "clip_factor": _POSITIVE,
    "clip_sharpness": _POSITIVE,
    "threshold": _POSITIVE,
    "noise_scale": _NOT_NEGATIVE,
    "noise_decay": _NOT_NEGATIVE,
    "stats_decay": _FRACTION,
    "outlier_share": (lambda x: 0 < x < 1, "between 0 and 1, both excluded"),
    "momentum": _NOT_NEGATIVE,
    "dampening": (math.isfinite, "finite"),
    "weight_decay": _NOT_NEGATIVE,
    "eps": _NOT_NEGATIVE,
    "alpha": _NOT_NEGATIVE,
    "lr_decay": _NOT_NEGATIVE,
    "initial_accumulator_value": _NOT_NEGATIVE,
}
_OPTIONAL = ("clip_factor", "threshold", "outlier_share")  # None: the default of the mode or rule


def _check(name: str, value: Any) -> None:
    if name in CHOICES:
        if value is None and name == "adapt":
            return
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one of {', '.join(CHOICES[name])}, got {value!r}")
        if value not in CHOICES[name]:
            hint = nearest(value, CHOICES[name])
            raise ValueError(f"unknown {name} {value!r}{hint}: choose from {', '.join(CHOICES[name])}")
    elif name in RANGES:
        if value is None and name in _OPTIONAL:
            return
        check_number(name, value, *RANGES[name])
    elif name in FLAGS:
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    elif name == "seed":
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"seed must be an integer, got {value!r}")
        if not 0 <= value < 1 << 32:
            raise ValueError(f"seed must be in [0, 2^32), got {value}")
    elif name == "betas":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {value!r}")
        for i, beta in enumerate(value):
            check_number(f"betas[{i}]", beta, *_FRACTION)
    elif name == "adapt_every":
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"adapt_every must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"adapt_every must be at least 1, got {value}")


def _check_names(given: Iterable[str], valid: Mapping[str, Any], owner: str) -> None:
    for name in given:
        if name not in valid:
            raise TypeError(f"{owner} has no option {name!r}{nearest(name, valid)}; it has: {', '.join(valid)}")


def _fill_transform(options: dict[str, Any], anchored: bool) -> None:
    """Defaults that depend on other options: clip_factor on the mode, outlier_share on the rule."""
    if options["clip_factor"] is None:
        options["clip_factor"] = 2.0 if options["mode"] == "norm" else 3.0
    if options["outlier_share"] is None:
        options["outlier_share"] = 0.9 if anchored else 0.25


def resolve(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked and complete options of one parameter group: every ASGC option, lr, and every option of its rule.

    Raises:
        TypeError: an option that neither ASGC nor the rule has (the nearest name is given), or a value of a wrong type.
        ValueError: a value out of range; an unknown rule, mode, ...
    """
    rule = options.get("rule", ASGC_DEFAULTS["rule"])
    _check("rule", rule)
    defaults = {**ASGC_DEFAULTS, **rule_defaults(rule)}
    _check_names((name for name in options if name != "lr"), defaults, f"ASGC with rule {rule!r}")
    full = {**defaults, **options}
    for name, value in full.items():
        _check(name, value)
    if full.get("nesterov") and (full["momentum"] <= 0 or full["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")
    _fill_transform(full, anchored=rule == "sgd")
    if full["adapt"] is not None:
        if full["threshold"] is not None:
            raise ValueError(
                f"adapt={full['adapt']!r} needs the adaptive threshold, not threshold={full['threshold']!r}"
            )
        if math.isinf(full["clip_factor"]):
            raise ValueError(f"adapt={full['adapt']!r} needs a finite clip_factor to start from, not inf")
    return full


def resolve_transform(options: Mapping[str, Any], anchored: bool, owner: str = "wrap") -> dict[str, Any]:
    """The same for the transform alone, in front of another optimizer (``anchored``: outlier_share 0.9, as for sgd)."""
    _check_names(options, TRANSFORM_DEFAULTS, owner)
    full = {**TRANSFORM_DEFAULTS, **options}
    for name, value in full.items():
        _check(name, value)
    _fill_transform(full, anchored)
    return full


def is_tensor_free(options: Mapping[str, Any]) -> bool:
    """No option other than lr and betas is a tensor: only ``functional`` takes those."""
    return not any(isinstance(v, Tensor) for k, v in options.items() if k not in ("lr", "betas", "params"))


def check_parameter(param: Tensor, name: str) -> None:
    """ValueError for a parameter ASGC cannot optimize."""
    if not param.is_floating_point():
        kind = "complex" if param.is_complex() else str(param.dtype).removeprefix("torch.")
        raise ValueError(f"{name} is {kind}: only real floating-point parameters are supported")
    if param.layout is not torch.strided:
        raise ValueError(f"{name} is sparse: only dense parameters are supported")
    reason = problem(param)
    if reason is not None:
        raise ValueError(f"{name} {reason}")


def check_gradient(grad: Tensor, name: str) -> None:
    """RuntimeError for a gradient ASGC cannot transform."""
    if grad.layout is not torch.strided:
        raise RuntimeError(f"{name} has a sparse gradient, which is not supported: use dense gradients (sparse=False)")
    if grad.is_complex():
        raise RuntimeError(f"{name} has a complex gradient: only real floating-point gradients are supported")
