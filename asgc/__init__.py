"""ASGC: Adaptive Stochastic Gradient Clipping for PyTorch.

``ASGC`` is the optimizer, ``wrap`` puts the same gradient transform in front of any other one, ``functional`` holds the
pure functions, ``optimizers`` is a registry of ASGC and its baselines by name. ``number_layers`` is for optimizers
that hold a part of the parameters each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import functional, optimizers
    from .layers import number_layers
    from .optimizer import ASGC
    from .wrapped import wrap

__all__ = ["ASGC", "functional", "number_layers", "optimizers", "wrap"]
__version__ = "0.1.0"

_HOMES = {"ASGC": "optimizer", "number_layers": "layers", "wrap": "wrapped"}


def __getattr__(name: str) -> Any:
    """Import on first use: the table of options and the registry's records need no PyTorch."""
    import importlib

    if name in ("functional", "optimizers"):
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
