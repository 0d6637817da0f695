"""Runs of optimizers that tests compare: one cell of the matrix, and pairs of the reference and another implementation.

``matrix.py`` declares the configurations.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC
from asgc.gradient_statistics import STATISTICS
from tests.asgc.matrix import Cell

LR = 2.0**-5  # a number that every type holds exactly, so that a tensor of it is the same number
SMALL: tuple[tuple[int, ...], ...] = ((4, 3), (5,))


@dataclass
class Run:
    """Parameters and the optimizer on them."""

    params: list[Tensor]
    opt: ASGC
    time: int = field(default=0)

    @classmethod
    def of(
        cls, cell: Cell, implementation: str | None = None, shapes: Sequence[tuple[int, ...]] = SMALL, **options: Any
    ) -> "Run":
        params = parameters(cell, shapes)
        given = {"lr": LR, "implementation": implementation or cell.implementation, **cell.options, **options}
        return cls(params, ASGC(params, **given))

    def give(self, only: Sequence[int] | None = None) -> None:
        """Gradients of the coming step, to the parameters ``only``: the same for every run."""
        for index, param in enumerate(self.params):
            param.grad = None
            if only is None or index in only:
                param.grad = gradient(self.time, index, param)

    def step(self, count: int = 1, only: Sequence[int] | None = None) -> "Run":
        for _ in range(count):
            self.give(only)
            self.opt.step()
            self.time += 1
        return self

    def bits(self) -> list[Tensor]:
        """Copies of everything that a step may change."""
        tensors = list(self.params)
        for param in self.params:
            state = self.opt.state[param]
            tensors += [state[name] for name in sorted(state) if isinstance(state[name], Tensor)]
        return [tensor.detach().clone() for tensor in tensors]


def parameters(cell: Cell, shapes: Sequence[tuple[int, ...]] = SMALL) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).to(cell.device, cell.dtype) for shape in shapes]


def gradient(time: int, index: int, param: Tensor) -> Tensor:
    """Gaussian with a mean; a burst at every fourth step; one exact zero."""
    return _gradient(time, index, param.shape, param.device, param.dtype).clone()


@functools.cache
def _gradient(time: int, index: int, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(100 * time + index)
    g = (torch.randn(shape, generator=generator) + 0.3) * (20.0 if time % 4 == 3 else 1.0)
    if g.numel() > 1:
        g.view(-1)[time % g.numel()] = 0.0
    return g.to(device, dtype)


def assert_same(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Equal to the last bit."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def assert_close(cell: Cell, a: Sequence[Tensor], b: Sequence[Tensor], factor: float = 1.0) -> None:
    """Equal up to a few roundings of fp32 (in which statistics are kept), or of the parameters' own type."""
    relative = factor * max(3e-6, 4 * torch.finfo(cell.dtype).eps if cell.dtype.itemsize == 2 else 0.0)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        size = float(y.double().abs().max()) if y.numel() else 0.0
        torch.testing.assert_close(x.double(), y.double(), rtol=relative, atol=relative * size, check_device=False)


# Three blocks of the kernel with a tail, a matrix, a filter, a bias, a scalar, an empty tensor.
SHAPES: tuple[tuple[int, ...], ...] = ((17_001,), (40, 33), (8, 3, 5, 5), (17,), (), (0, 3))

Gradient = Callable[[int, int, Tensor, torch.Generator], Tensor | None]


def bursts(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
    """Gaussian gradients with a mean; every seventh step 30 times larger, single outliers, some exact zeros."""
    g = torch.randn(param.shape, generator=generator) * (1 + index) + 0.3
    if step % 7 == 6:
        g *= 30
    if g.numel() > 10:
        g.view(-1)[step % 10] = 1e4
        g.view(-1)[10] = 0.0
    return g


def bursts_now_and_then(step: int, index: int, param: Tensor, generator: torch.Generator) -> Tensor | None:
    """`bursts`, of which every third is missing: the parameter has no gradient in this step."""
    g = bursts(step, index, param, generator)
    return None if (step + index) % 3 == 0 else g


def mixed_groups(*cuts: int) -> Callable[[list[Tensor]], list[dict[str, Any]]]:
    """Three groups of different rules, modes and options, the parameters shared out at two places."""

    def groups(params: list[Tensor]) -> list[dict[str, Any]]:
        first, second = cuts
        return [
            {"params": params[:first], "rule": "sgd", "momentum": 0.9, "seed": 3},
            {"params": params[first:second], "lr": torch.tensor(0.03), "betas": (0.5, 0.9), "mode": "value"},
            {"params": params[second:], "rule": "rmsprop", "noise_scale": 0.0, "clip_factor": 1.3},
        ]

    return groups


def assert_refused_step_counts_its_unit_only(policy: str, grad: Tensor, **options: Any) -> None:
    """A NaN in unit 3 of 5 under nonfinite="skip" or "raise": nothing changes but the count of that unit.

    Args:
        grad: a finite gradient (5, n), on the device of the parameter.
    """
    p = torch.ones_like(grad)
    opt = ASGC([p], 0.1, granularity="unit", nonfinite=policy, **options)
    p.grad = grad
    opt.step()
    before = [p.clone(), *[value.clone() for value in opt.state[p].values() if isinstance(value, Tensor)]]
    p.grad[3, 7] = math.nan
    if policy == "raise":
        with pytest.raises(RuntimeError, match="non-finite"):
            opt.step()
    else:
        opt.step()
        for row in map(STATISTICS.index, ("nonfinite", "streak")):
            assert opt.state[p]["stats"][row].tolist() == [0, 0, 0, 1, 0]
            opt.state[p]["stats"][row] = 0
    after = [p, *[value for value in opt.state[p].values() if isinstance(value, Tensor)]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def transposed(tensor: Tensor) -> Tensor:
    """The same values in reversed memory order."""
    return torch.empty(tensor.shape[::-1]).permute(*range(tensor.dim())[::-1]).copy_(tensor)


class Pair:
    """The same parameters under the reference and under one other implementation, or several.

    Args:
        implementation: "cpu", or ("cpu", "foreach"): each with parameters of its own, all beside one reference.
        layout: memory order of parameters and gradients.
        groups: parameter groups from the parameters.
        place: (index, tensor) -> the tensor for ``implementation``, where it is to get others (DTensors).
    """

    def __init__(
        self,
        implementation: str | Sequence[str],
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        layout: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        groups: Callable[[list[Tensor]], Any] = lambda params: params,
        place: Callable[[int, Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        self.options = {"lr": 1e-2, "noise_scale": 0.2, "noise_decay": 0.3, "seed": 5, **options}
        self.layout, self.place = layout, place or (lambda _, tensor: layout(tensor))
        self.expected = [layout(value.clone()) for value in values]
        self.reference = ASGC(groups(self.expected), implementation="reference", **self.options)
        self.others: list[tuple[list[Tensor], ASGC]] = []
        for name in [implementation] if isinstance(implementation, str) else implementation:
            found = [self.place(i, value.clone()) for i, value in enumerate(values)]
            self.others.append((found, ASGC(groups(found), implementation=name, **self.options)))
        self.found, self.fast = self.others[0]
        self.generator = torch.Generator().manual_seed(11)
        self.steps = 0
        self.largest: dict[tuple[int, str], float] = {}

    def give(self, gradient: Gradient = bursts) -> None:
        """Gradients of the coming step, the same to all."""
        for i, e in enumerate(self.expected):
            g = gradient(self.steps, i, e, self.generator)
            e.grad = None if g is None else self.layout(g.to(e.dtype))
            for found, _ in self.others:
                found[i].grad = None if g is None else self.place(i, g.to(e.dtype, copy=True))

    def step(self, gradient: Gradient = bursts) -> None:
        self.give(gradient)
        self.reference.step()
        for _, opt in self.others:
            opt.step()
        self.steps += 1

    def check(self, ulps: float = 16.0) -> None:
        """Parameters, rule state and statistics agree up to a few roundings a step."""
        for found, opt in self.others:
            self._check(found, opt, ulps)

    def _check(self, params: list[Tensor], opt: ASGC, ulps: float) -> None:
        chosen = opt.param_groups[0]["implementation"]
        for i, (e, f) in enumerate(zip(self.expected, params, strict=True)):
            a, b = self.reference.state[e], opt.state[f]
            assert set(a) == set(b)
            if "stats" not in a:
                continue
            assert a["step"] == b["step"]
            assert a["noise_step"] == b["noise_step"]
            for row, name in enumerate(STATISTICS):
                expected, found = a["stats"][row], b["stats"][row]
                exact = name in ("n", "age", "burst", "nonfinite", "streak")
                if name == "mean":  # small beside the spread of what it is the mean of
                    spread = a["stats"][2].sqrt()
                    expected, found = expected / spread + 1, found / spread + 1
                tolerance = {"rtol": 0.0 if exact else 5e-6, "atol": 0.0}
                torch.testing.assert_close(
                    found, expected, equal_nan=True, **tolerance, msg=lambda m, n=name: f"{chosen}: {n}: {m}"
                )
            rounding = ulps * 1.2e-7 * max(1, self.steps)
            self._near(i, f"{chosen}: parameter", f, e, rounding)
            for key in set(a) - {"layer", "step", "noise_step", "stats"}:
                self._near(i, f"{chosen}: {key}", b[key], a[key], rounding)

    def _near(self, index: int, name: str, found: Tensor, expected: Tensor, relative: float) -> None:
        """Equal up to ``relative`` times the largest element so far (a momentum shrinks by cancellation)."""
        assert found.shape == expected.shape
        if expected.numel():
            error = float((found - expected).abs().max())
            size = max(self.largest.get((index, name), 0.0), float(expected.abs().max()))
            self.largest[index, name] = size
            assert error <= relative * size + 1e-44, f"{name} {index} off by {error:.2e}, largest element {size:.2e}"
