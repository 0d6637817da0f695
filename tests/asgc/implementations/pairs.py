"""Two optimizers, the reference and a fast implementation, on the same noisy gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asgc import ASGC
from asgc.gradient_statistics import STATISTICS

# Several blocks of the kernel and chunks of foreach, a tail, a matrix, a filter, a bias, a scalar, an empty tensor.
SHAPES: tuple[tuple[int, ...], ...] = ((70_001,), (40, 33), (8, 3, 5, 5), (17,), (), (0, 3))

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


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def transposed(tensor: Tensor) -> Tensor:
    """The same values in reversed memory order."""
    return torch.empty(tensor.shape[::-1]).permute(*range(tensor.dim())[::-1]).copy_(tensor)


class Pair:
    """The same parameters under the reference and under ``implementation``."""

    def __init__(
        self,
        implementation: str,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        layout: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        groups: Callable[[list[Tensor]], Any] = lambda params: params,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        values = [torch.randn(shape, generator=generator) for shape in shapes]
        self.options = {"lr": 1e-2, "noise_scale": 0.2, "noise_decay": 0.3, "seed": 5, **options}
        self.layout = layout
        self.expected = [layout(value.clone()) for value in values]
        self.found = [layout(value.clone()) for value in values]
        self.reference = ASGC(groups(self.expected), implementation="reference", **self.options)
        self.fast = ASGC(groups(self.found), implementation=implementation, **self.options)
        self.generator = torch.Generator().manual_seed(11)
        self.steps = 0
        self.largest: dict[tuple[int, str], float] = {}

    def step(self, gradient: Gradient = bursts) -> None:
        for i, (e, f) in enumerate(zip(self.expected, self.found, strict=True)):
            g = gradient(self.steps, i, e, self.generator)
            e.grad = None if g is None else self.layout(g)
            f.grad = None if g is None else self.layout(g.clone())
        self.reference.step()
        self.fast.step()
        self.steps += 1

    def check(self, ulps: float = 16.0) -> None:
        """Parameters, rule state and statistics agree up to a few roundings a step."""
        for i, (e, f) in enumerate(zip(self.expected, self.found, strict=True)):
            a, b = self.reference.state[e], self.fast.state[f]
            assert set(a) == set(b)
            if "stats" not in a:
                continue
            assert a["step"] == b["step"]
            assert a["noise_step"] == b["noise_step"]
            for row, name in enumerate(STATISTICS):
                expected, found = a["stats"][row], b["stats"][row]
                exact = name in ("n", "age", "burst", "nonfinite")
                if name == "mean":  # small beside the spread of what it is the mean of
                    spread = a["stats"][2].sqrt()
                    expected, found = expected / spread + 1, found / spread + 1
                tolerance = {"rtol": 0.0 if exact else 5e-6, "atol": 0.0}
                torch.testing.assert_close(
                    found, expected, equal_nan=True, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
                )
            rounding = ulps * 1.2e-7 * max(1, self.steps)
            self._near(i, "parameter", f, e, rounding)
            for key in set(a) - {"layer", "step", "noise_step", "stats"}:
                self._near(i, key, b[key], a[key], rounding)

    def _near(self, index: int, name: str, found: Tensor, expected: Tensor, relative: float) -> None:
        """Equal up to ``relative`` times the largest element so far (a momentum shrinks by cancellation)."""
        assert found.shape == expected.shape
        if expected.numel():
            error = float((found - expected).abs().max())
            size = max(self.largest.get((index, name), 0.0), float(expected.abs().max()))
            self.largest[index, name] = size
            assert error <= relative * size + 1e-44, f"{name} {index} off by {error:.2e}, largest element {size:.2e}"


# Every base rule with every option that changes its arithmetic.
RULES: tuple[tuple[str, dict[str, Any]], ...] = (
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
