"""CUDA graphs: what is captured once and then replayed in one launch (torch.cuda.graphs).

`Captured` has the logic, and knows no GPU: what captures is handed in. `capture` makes a real graph, `rehearse` is its
stand-in on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from asgc import ASGC
from asgc.clips import Clipped
from asgc.implementations import REGISTRY

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
    """Real ones, on the current device.

    Args:
        generators: of random numbers that are drawn in what is captured.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        self._generators = generators

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
        for generator in self._generators:
            graph.register_generator_state(generator)
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


class Captured(Generic[R]):
    """A function of tensors, run as a graph after its first calls.

    It may read and write tensors that stay where they are (parameters, the optimizer's state, a ring), and has no other
    effect: in a replay none of its Python code runs. What it returns is overwritten by the next call.

    Args:
        function: called with buffers that hold the inputs.
        graphs: what captures; None: every call runs the function.
        warm_up: calls that run it before.
    """

    def __init__(self, function: Callable[..., R], graphs: Graphs | None, warm_up: int = WARM_UP) -> None:
        self._function, self._graphs, self._warm_up = function, graphs, warm_up
        self._inputs: list[Tensor] = []
        self.forget()

    def forget(self) -> None:
        """Capture anew: tensors that the function uses have been replaced."""
        self._runs = 0
        self._replay: Callable[[], R] | None = None

    def __call__(self, *inputs: Tensor, eager: bool = False) -> R:
        """The function's result; `eager`: run it in any case, on the same buffers. Inputs of other shapes or types than
        before are captured anew."""
        if [(x.shape, x.dtype) for x in inputs] != [(x.shape, x.dtype) for x in self._inputs]:
            self._inputs = [x.clone() for x in inputs]
            self.forget()
        else:
            for buffer, given in zip(self._inputs, inputs, strict=True):
                buffer.copy_(given)
        run = functools.partial(self._function, *self._inputs)
        if self._graphs is None or eager:
            return run()
        if self._replay is None:
            if self._runs < self._warm_up:
                self._runs += 1
                return self._graphs.warm(run)
            self._replay = self._graphs.capture(run)
        return self._replay()


def choose(wanted: str, device: torch.device, optimizer: Optimizer) -> Graphs | None:
    """What captures the updates of a learner under the setting `cuda_graphs`.

    Raises:
        ValueError: "always", and the optimizer cannot be captured.
    """
    if device.type != "cuda":
        return Rehearsal() if wanted == "always" else None
    if wanted == "never":
        return None
    reason = not_capturable(optimizer)
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
        return REGISTRY["triton"].unsupported(optimizer)
    if not isinstance(optimizer, torch.optim.SGD) and "capturable" not in optimizer.defaults:
        return f"torch.optim.{type(optimizer).__name__} counts its steps on the host"
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
