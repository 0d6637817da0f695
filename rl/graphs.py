"""CUDA graphs: what is captured once and then replayed in one launch (torch.cuda.graphs).

`Captured` has the logic and knows no GPU: what captures is handed in, `CudaGraphs`, or on a CPU `Rehearsal`, their
stand-in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from asgc import ASGC
from asgc.clips import Clipped
from asgc.implementations import REGISTRY
from asgc.wrapped import Wrapped

R = TypeVar("R")
WARM_UP = 3  # runs before a capture: they make state, tables, workspaces


class Graphs(Protocol):
    """How to capture."""

    def warm(self, function: Callable[[], R]) -> R:
        """Run it as a capture will."""
        ...

    def capture(self, function: Callable[[], R]) -> Callable[[], R]:
        """What replays the kernels that `function` launches, and returns the tensors that it returned: always the same
        ones, filled anew. Its Python code runs once, here, and computes nothing."""
        ...


class CudaGraphs:
    """Real ones, on the current device. (Random numbers are drawn before: no generator is part of a graph.)"""

    def warm(self, function: Callable[[], R]) -> R:
        # On a stream of its own, as torch's recipe has it. Waiting lets the optimizer see what the step has found
        # before the next one is launched.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = function()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        return result

    def capture(self, function: Callable[[], R]) -> Callable[[], R]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function()

        def replay() -> R:
            graph.replay()
            return result

        return replay


class Rehearsal:
    """The stand-in: runs what was captured again."""

    def warm(self, function: Callable[[], R]) -> R:
        return function()

    def capture(self, function: Callable[[], R]) -> Callable[[], R]:
        return function


@dataclass
class _Shape(Generic[R]):
    """Of a function's inputs: the buffers that hold them, warm-up runs so far, and the graph."""

    inputs: list[Tensor]
    runs: int = 0
    replay: Callable[[], R] | None = None


class Captured(Generic[R]):
    """A function of tensors, run as a graph after its first calls.

    It may read and write tensors that stay where they are (parameters, the optimizer's state, a ring), and has no other
    effect: in a replay none of its Python code runs. What it returns is overwritten by the next call.

    Args:
        function: called with buffers that hold the inputs. Each combination of shapes and types has buffers, warm-up
            and graph of its own.
        graphs: what captures; None: every call runs the function.
        warm_up: calls that run it before.
    """

    def __init__(self, function: Callable[..., R], graphs: Graphs | None, warm_up: int = WARM_UP) -> None:
        self._function, self._graphs, self._warm_up = function, graphs, warm_up
        self.forget()

    def forget(self) -> None:
        """Capture anew: tensors that the function uses have been replaced."""
        self._shapes: dict[tuple[tuple[torch.Size, torch.dtype], ...], _Shape[R]] = {}

    @property
    def captured(self) -> bool:
        """Whether there is a graph by now."""
        return any(shape.replay is not None for shape in self._shapes.values())

    def __call__(self, *inputs: Tensor, eager: bool = False) -> R:
        """The function's result; `eager`: run it in any case, on the same buffers."""
        key = tuple((x.shape, x.dtype) for x in inputs)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape([x.clone() for x in inputs])
        else:
            for buffer, given in zip(shape.inputs, inputs, strict=True):
                buffer.copy_(given)
        run = functools.partial(self._function, *shape.inputs)
        if self._graphs is None or eager:
            return run()
        if shape.runs < self._warm_up:
            shape.runs += 1
            return self._graphs.warm(run)
        if shape.replay is None:
            shape.replay = self._graphs.capture(run)
        return shape.replay()


def choose(wanted: str, device: torch.device, optimizer: Optimizer | None = None) -> Graphs | None:
    """What captures under the setting `cuda_graphs`; None: nothing.

    Args:
        optimizer: whose steps are part of what is to be captured.

    Raises:
        ValueError: "always", and the optimizer cannot be captured.
    """
    if device.type != "cuda":
        return Rehearsal() if wanted == "always" else None
    if wanted == "never":
        return None
    reason = None if optimizer is None else not_capturable(optimizer)
    if reason is not None and wanted == "always":
        raise ValueError(reason)
    return CudaGraphs() if reason is None else None


def not_capturable(optimizer: Optimizer) -> str | None:
    """Why steps of an optimizer with parameters on a GPU cannot be part of a CUDA graph, or None."""
    if isinstance(optimizer, Clipped):
        if optimizer.clip.fresh:  # kept by Python: a replay would not change it
            return f"{optimizer.clip.name} keeps what it has seen on the host"
        return not_capturable(optimizer.inner)
    if isinstance(optimizer, ASGC):
        if any(group["nonfinite"] != "contain" for group in optimizer.param_groups):
            return "nonfinite 'skip' and 'raise' wait for the device at every step"
        if optimizer.preset is not None and optimizer.preset.late:
            return f"preset {optimizer.preset.name} changes options while training goes on"
        return REGISTRY["triton"].unsupported(optimizer)
    if isinstance(optimizer, Wrapped):
        return "wrap counts its steps on the host"
    if not isinstance(optimizer, torch.optim.SGD) and "capturable" not in optimizer.defaults:
        return f"{type(optimizer).__name__} counts its steps on the host"
    return None


def prepare(optimizer: Optimizer, device: torch.device, captured: bool) -> None:
    """Make the groups' options fit: where steps are captured, learning rates are tensors on the device, which replays
    read, else numbers. Comes after the optimizer is made, and after it has loaded a state."""
    for group in optimizer.param_groups:
        lr = group["lr"]
        if captured and not (isinstance(lr, Tensor) and lr.device.type == device.type):
            group["lr"] = torch.tensor(float(lr), dtype=torch.float32, device=device)
        elif not captured and isinstance(lr, Tensor):
            group["lr"] = float(lr)
        if "capturable" in group:
            group["capturable"] = captured and device.type == "cuda"
