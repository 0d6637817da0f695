"""How a step is executed, by name: the formulas as they stand, compiled for CPUs, Triton kernels for GPUs, and sharded
over processes. ``REGISTRY`` has one record each; their modules are imported when they are first asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .base import Implementation, Stepped, Steps

__all__ = ["REGISTRY", "Implementation", "Stepped"]


def _reference() -> Steps:
    from . import reference

    return reference


def _foreach() -> Steps:
    from . import foreach

    return foreach


def _cpu() -> Steps:
    from . import cpu

    return cpu


def _triton() -> Steps:
    from . import triton

    return triton


def _sharded() -> Steps:
    from . import sharded

    return sharded


REGISTRY: Mapping[str, Implementation] = MappingProxyType(
    {
        implementation.name: implementation
        for implementation in (
            Implementation("reference", _reference, tensor_options=True),
            Implementation("foreach", _foreach, fast_preview=True),
            Implementation("cpu", _cpu, fast_preview=True),
            Implementation("triton", _triton, tensor_options=True),
            Implementation("sharded", _sharded, dtensors=True),
        )
    }
)
