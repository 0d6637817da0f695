"""Tasks that take milliseconds, with known optima."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Bowl:
    """Gradient descent on a noisy quadratic from 1: the loss of a run is least at a rate between too small and too
    large."""

    def __init__(self, steps: int = 20, noise: float = 0.1, curvature: float = 1.0) -> None:
        self.steps, self._noise, self._curvature = steps, noise, curvature

    def start(self, seed: int) -> dict[str, Tensor]:
        return {"head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)}

    def batch(self, step: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return (self._noise * torch.randn(2, 3, generator=generator),)

    def loss(self, params: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        (noise,) = batch
        x = params["head.weight"] + noise
        return self._curvature * (x.square().sum() + params["head.bias"].square().sum()) / 2


class Peak:
    """No training: the options themselves, best at these."""

    def __init__(self, lr: float = 0.03, clip_factor: float = 1.0, scale: float = 1.0) -> None:
        self._best, self._scale = {"lr": lr, "clip_factor": clip_factor}, scale

    def run(self, build: Any, seed: int) -> float:
        group = build([torch.ones(1, requires_grad=True)]).param_groups[0]
        off = sum(math.log(group[name] / best) ** 2 for name, best in self._best.items())
        return self._scale * (seed % 7 - off)


class Far:
    """Diverges at a rate above 0.02."""

    def run(self, build: Any, seed: int) -> float:
        lr = float(build([torch.ones(1, requires_grad=True)]).param_groups[0]["lr"])
        return math.nan if lr > 0.02 else lr


class Broken:
    def run(self, build: Any, seed: int) -> float:
        raise RuntimeError("the environment has gone")


class NoTask:
    steps = 3
