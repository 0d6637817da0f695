"""Every configuration of ASGC that the tests go through: option values, data types, devices, implementations.

As torch.testing._internal.common_optimizers does for torch.optim: what exists is declared here, once; what is checked
is in ``test_matrix.py`` and ``implementations/``, with the runs of ``harness.py``. A new value of an option, a new rule
option or a new implementation is one entry here, and ``test_everything_is_declared`` fails until it is made.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

IMPLEMENTATIONS = ("reference", "foreach", "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))

# Values of the options of the transform beside the default, each tried alone with rule "adam" under both modes (in
# types other than float32: under one mode, in turns).
MODES = ("norm", "value")
VALUES: dict[str, tuple[Any, ...]] = {
    "clip_factor": (1.0, math.inf),
    "clip_sharpness": (1.0, 3.3, math.inf),
    "threshold": (0.5, math.inf),
    "granularity": ("unit", "element"),
    "noise_scale": (0.0, 1.0),
    "noise_decay": (0.5,),
    "noise_at": ("update",),
    "noise_zeros": (True,),
    "stats_decay": (0.0, 0.8),
    "outlier_share": (0.9,),
    "eps_scale": (0.3,),
    "ceiling": (0.01,),
    "ceiling_norm": ("spectral",),
    "weight_floor": (0.5,),
    "exclude_head": (False,),
    "on_shift": ("rewarm", "adam-rel", "reset"),
    "adapt": ("hypergradient",),
    "adapt_lr": (2.0,),
    "adapt_every": (3,),
    "nonfinite": ("skip", "raise"),
    "seed": (7, (1 << 32) - 1),
}
# Values of the options of each rule, each tried alone, once in one mode and once in the other.
RULES: dict[str, dict[str, tuple[Any, ...]]] = {
    "sgd": {
        "momentum": (0.9,),
        "dampening": (0.3,),
        "weight_decay": (0.1,),
        "nesterov": (True,),
        "maximize": (True,),
    },
    "adam": {
        "betas": ((0.3, 0.99),),
        "eps": (1e-3,),
        "weight_decay": (0.1,),
        "amsgrad": (True,),
        "maximize": (True,),
        "decoupled_weight_decay": (True,),
    },
    "adamw": {
        "betas": ((0.3, 0.99),),
        "eps": (1e-3,),
        "weight_decay": (0.0,),
        "amsgrad": (True,),
        "maximize": (True,),
    },
    "rmsprop": {
        "alpha": (0.5,),
        "eps": (1e-3,),
        "weight_decay": (0.1,),
        "momentum": (0.5,),
        "centered": (True,),
        "maximize": (True,),
    },
    "adagrad": {
        "lr_decay": (0.1,),
        "weight_decay": (0.1,),
        "initial_accumulator_value": (0.5,),
        "eps": (1e-3,),
        "maximize": (True,),
    },
}
# What an option needs beside itself to be valid, or to have an effect.
NEEDS: dict[str, dict[str, Any]] = {
    "dampening": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9},
    "noise_decay": {"noise_scale": 0.5},
    # Both layers of the tests are the head: the last one with two dimensions, and what follows it.
    "ceiling": {"exclude_head": False},
    "ceiling_norm": {"ceiling": 0.01, "exclude_head": False},
    "weight_floor": {"ceiling": 0.01, "exclude_head": False},
    "exclude_head": {"ceiling": 0.01},
    "adapt": {"adapt_every": 1},
    "adapt_lr": {"adapt": "hypergradient", "adapt_every": 1},
    "adapt_every": {"adapt": "hypergradient"},
}


MODE_OF = {"element": "value"}  # values that go with one mode only


def _configurations(both_modes: bool) -> Iterator[dict[str, Any]]:
    turns = itertools.cycle(MODES)

    def modes() -> tuple[str, ...]:
        return MODES if both_modes else (next(turns),)

    for option, values in VALUES.items():
        for value in values:
            for mode in (MODE_OF[value],) if value in MODE_OF else modes():
                yield {"rule": "adam", "mode": mode, **NEEDS.get(option, {}), option: value}
    for rule, options in RULES.items():
        for mode in MODES:
            yield {"rule": rule, "mode": mode}
        for mode in modes():
            yield {"rule": rule, "mode": mode, "noise_at": "update", "granularity": "unit"}
        if rule != "sgd":
            relative = {"eps_scale": 0.5, "noise_at": "update", "granularity": "unit"}
            yield {"rule": rule, "mode": next(turns), **relative}
        yield {"rule": rule, "mode": next(turns), "ceiling": 0.02, "exclude_head": False, "noise_at": "update"}
        if rule in ("adamw", "rmsprop"):
            yield {"rule": rule, "mode": "value", "granularity": "element", "clip_factor": 1.2}
        for option, values in options.items():
            for value in values:
                yield {"rule": rule, "mode": next(turns), **NEEDS.get(option, {}), option: value}


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix."""

    options: dict[str, Any]
    implementation: str
    dtype: torch.dtype
    device: str

    def __str__(self) -> str:
        options = "-".join(str(v) if k in ("rule", "mode") else f"{k}={v}" for k, v in self.options.items())
        return f"{options}-{self.implementation}-{str(self.dtype).removeprefix('torch.')}-{self.device}"


CELLS = [
    Cell(options, implementation, dtype, device)
    for device in DEVICES
    for dtype in DTYPES
    for options in _configurations(both_modes=dtype == torch.float32)
    for implementation in IMPLEMENTATIONS  # side by side, so that one process makes what all are compared with
]

# Every base rule with every option that changes its arithmetic, several at a time.
COMBINATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("adam", {}),
    ("adam", {"amsgrad": True, "weight_decay": 0.1, "maximize": True, "betas": (0.3, 0.99)}),
    ("adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("adamw", {"eps": 1e-3, "amsgrad": True}),
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("rmsprop", {}),
    ("rmsprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}),
    ("rmsprop", {"centered": True, "alpha": 0.4}),
    ("adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
)
