"""The same layers twice: whole, under the reference, and as DTensors, under the sharded implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from asgc import ASGC
from asgc.gradient_statistics import ATTENUATION, CLIPPED, MEAN, STATISTICS, VAR
from tests.asgc.harness import Gradient, Pair

Spec = tuple[tuple[int, ...], DeviceMesh | None, Sequence[Any]]  # shape, mesh (None: a plain tensor), placements
LATE = (CLIPPED, ATTENUATION)


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def place(x: Tensor, spec: Spec) -> Tensor:
    _, mesh, placements = spec
    return x.clone() if mesh is None else distribute_tensor(x.clone(), mesh, placements, src_data_rank=None)


def bursts(step: int, index: int, param: Tensor, _: torch.Generator) -> Tensor:
    """Gaussian with a mean, at scales that differ along dimension 0; an outlier, a zero; a burst every fifth step."""
    shape = param.shape
    g = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + index)) * (1 + index) + 0.3
    g *= 30 if step % 5 == 4 else 1
    if g.dim():
        g *= torch.arange(1, shape[0] + 1).view((-1,) + (1,) * (g.dim() - 1))
    if g.numel() > 10:
        g.view(-1)[step % 10] = 1e3
        g.view(-1)[10] = 0.0
    return g


class Twins(Pair):
    """Whole under the reference, and as DTensors under the sharded implementation."""

    def __init__(self, specs: Sequence[Spec], dtype: torch.dtype = torch.float32, **options: Any) -> None:
        shapes = [shape for shape, _, _ in specs]
        super().__init__("auto", shapes, place=lambda i, x: place(x, specs[i]), dtype=dtype, **options)
        self.before: list[Tensor | None] = [None] * len(specs)
        self.collectives: dict[Any, int] = {}  # of the last sharded step: kind -> number

    def give(self, gradient: Gradient = bursts) -> None:
        super().give(gradient)

    def step(self, gradient: Gradient = bursts) -> None:
        self.before = [s["stats"].clone() if (s := self.reference.state.get(e)) else None for e in self.expected]
        self.give(gradient)
        self.reference.step()
        with CommDebugMode() as collectives:
            self.fast.step()
        self.steps += 1
        self.collectives = dict(collectives.get_comm_counts())

    def check(self, tolerance: float = 2e-6) -> None:
        same_state(self.reference, self.fast, self.expected, self.found, self.before, tolerance)


def same_state(
    reference: ASGC,
    sharded: ASGC,
    expected: Sequence[Tensor],
    found: Sequence[Tensor],
    before: Sequence[Tensor | None],
    tolerance: float = 2e-6,
) -> None:
    """Parameters, moments, counters and statistics agree; the two late figures with those of ``before``."""
    assert {group["implementation"] for group in sharded.param_groups} == {"sharded"}
    for i, (e, f) in enumerate(zip(expected, found, strict=True)):
        near(f, e, tolerance, f"parameter {i}")
        a, b = reference.state[e], sharded.state[f]
        assert set(a) == set(b)
        assert (a["layer"], a["step"], a["noise_step"]) == (b["layer"], b["step"], b["noise_step"])
        sharded_layer = isinstance(f, DTensor) and not all(p.is_replicate() for p in f.placements)
        for row, name in enumerate(STATISTICS):
            # the running mean is small beside the spread of what it is the mean of
            scale = max(a["stats"][VAR].sqrt().tolist(), default=0.0) if row == MEAN else 0.0
            values = a["stats"][row]
            if row in LATE and sharded_layer:
                old = before[i]
                values = torch.full_like(values, float(row == ATTENUATION)) if old is None else old[row]
            torch.testing.assert_close(
                b["stats"][row], values, rtol=2e-6, atol=2e-6 * scale, msg=lambda m, n=name, i=i: f"{n} {i}: {m}"
            )
        for key in set(a) - {"layer", "step", "noise_step", "stats"}:
            assert isinstance(b[key], DTensor) == isinstance(f, DTensor)
            assert a[key].dtype == b[key].dtype
            near(b[key], a[key], tolerance, f"{key} {i}")


def near(found: Tensor, expected: Tensor, relative: float, name: str) -> None:
    """Equal up to ``relative`` times the largest element; of a DTensor this rank's part, which needs no collective."""
    assert found.shape == expected.shape, name
    size = float(expected.detach().double().abs().max()) if expected.numel() else 0.0
    if isinstance(found, DTensor) and not any(hasattr(p, "split_factor") for p in found.placements):
        own = distribute_tensor(expected.detach(), found.device_mesh, found.placements, src_data_rank=None)
        found, expected = found.to_local(), own.to_local()
    found = whole(found).detach().double()
    assert found.shape == expected.shape, name
    if expected.numel():
        error = float((found - expected.double()).abs().max())
        assert error <= relative * size, f"{name} off by {error:.2e}, largest element {size:.2e}"
