"""The triton implementation for tests: on the GPU where there is one, else in Triton's interpreter on the CPU.

Import this before triton. The variable that turns the interpreter on is looked at when functions are decorated, so it
is set for the imports only; without a GPU nothing else in this process could run Triton's kernels anyway.
"""

import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if DEVICE == "cpu":
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.experimental.gluon.nvidia.hopper  # noqa: F401 else imported by the first launch
        import triton.language as tl
        import triton.runtime.interpreter as _interpreter

        import asgc.implementations.triton.kernels
        import asgc.implementations.triton.rows
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    assert not asgc.implementations.triton.kernels.COMPILED, (
        "asgc.implementations.triton.kernels was imported before this module"
    )

    # The interpreter patches all of triton.language at every call of a device function, although the launch has done
    # so: 10 ms a call. tl.sum is one that torch may have imported before, for a GPU.
    _call = _interpreter.InterpretedFunction.__call__
    _patch_tensor = _interpreter._patch_lang_tensor

    def _call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__.startswith("asgc."):
            return self.rewrite()(*args, **kwargs)
        return _call(self, *args, **kwargs)

    def _sum(x: Any) -> Any:
        return tl.reduce(x, 0, tl.standard._sum_combine)

    tl.sum = _sum

    def _patch_lang_tensor(tensor: Any, scope: Any) -> None:  # Triton 3.6 does not go with NumPy 2.4
        _patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    _interpreter.InterpretedFunction.__call__ = _call_device_function
    _interpreter._patch_lang_tensor = _patch_lang_tensor

import asgc.implementations.triton.device_table  # noqa: E402
import asgc.implementations.triton.kernels as _kernels  # noqa: E402
import asgc.implementations.triton.rows as _rows  # noqa: E402

# A block and a tail, units, odd lengths, a scalar, an empty tensor.
SHAPES: tuple[tuple[int, ...], ...] = ((150,), (2, 3, 3), (), (0, 3))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and blocks for tensors of a few hundred elements."""
    monkeypatch.setattr(asgc.implementations.triton.device_table, "TILE", 128)


def on_device(tensor: Tensor) -> Tensor:
    return tensor.to(DEVICE)


def eventful(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
    """Bursts, exact zeros, units of different scales, infinities and NaN in some layers; none at times."""
    if (step + index) % 6 == 5:
        return None
    g = torch.randn(param.shape, generator=generator) + 0.3
    if g.dim() > 1 and g.numel():
        g *= 1.0 + torch.arange(g.shape[0]).view(-1, *[1] * (g.dim() - 1))
    if step % 3 == 2:
        g *= 30.0
    if g.numel() > 8:
        g.view(-1)[step::7] = 0.0
        if step == index:  # the first layer in its very first step, the second in its second
            g.view(-1)[1], g.view(-1)[2], g.view(-1)[-1] = math.inf, -math.inf, math.nan
    return g


class Launches:
    """Records what would decide in Triton whether a kernel is compiled again: constants, types and alignments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.keys: set[tuple[Any, ...]] = set()
        for module, name in ((_kernels, "sums"), (_rows, "open_rows"), (_kernels, "main"), (_rows, "close_rows")):
            monkeypatch.setattr(module, name, _Recorded(self, name, getattr(module, name)))


class _Recorded:
    def __init__(self, launches: Launches, name: str, kernel: Any) -> None:
        self.launches, self.name, self.kernel = launches, name, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Tensor, **constants: Any) -> None:
            types = tuple((arg.dtype, arg.data_ptr() % 16 == 0) for arg in args)
            self.launches.names.append(self.name)
            self.launches.keys.add((self.name, *types, *map(str, constants.items())))
            self.kernel[grid](*args, **constants)

        return launch
