"""How a step is executed, by name: the formulas as they stand, compiled for CPUs, Triton kernels for GPUs, and sharded
over processes. ``REGISTRY`` has one record each; the module of that name is imported when it is first asked."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from .implementation import Implementation, Stepped

__all__ = ["REGISTRY", "Implementation", "Stepped"]


def _record(name: str, **serves: bool) -> Implementation:
    return Implementation(name, partial(import_module, f".{name}", __name__), **serves)


_RECORDS = (
    _record("reference", tensor_options=True, all_options=True),
    _record("foreach", fast_preview=True),
    _record("cpu", all_options=True, fast_preview=True),
    _record("triton", tensor_options=True),
    _record("sharded", dtensors=True),
)
REGISTRY: dict[str, Implementation] = {record.name: record for record in _RECORDS}
