"""The triton implementation for tests: on the GPU where there is one, else in Triton's interpreter on the CPU.

Import this before triton. The variable that turns the interpreter on is looked at when functions are decorated, so it
is set for the imports only; without a GPU nothing else in this process could run Triton's kernels anyway.
"""

import os
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if DEVICE == "cpu":
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.experimental.gluon.nvidia.hopper  # else imported by the first launch
        import triton.runtime.interpreter as _interpreter

        import asgc.triton.kernels
        import asgc.triton.rows
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    assert not asgc.triton.kernels.COMPILED, "triton was imported before this module"

    # The interpreter patches all of triton.language at every call of a device function, although the launch has done
    # so: 10 ms a call.
    _call = _interpreter.InterpretedFunction.__call__
    _patch_tensor = _interpreter._patch_lang_tensor

    def _call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__.startswith("asgc."):
            return self.rewrite()(*args, **kwargs)
        return _call(self, *args, **kwargs)

    def _patch_lang_tensor(tensor: Any, scope: Any) -> None:  # Triton 3.6 does not go with NumPy 2.4
        _patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    _interpreter.InterpretedFunction.__call__ = _call_device_function
    _interpreter._patch_lang_tensor = _patch_lang_tensor

import asgc.triton.table


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and blocks for tensors of a few hundred elements."""
    monkeypatch.setattr(asgc.triton.table, "TILE", 128)
