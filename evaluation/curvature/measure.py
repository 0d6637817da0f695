"""A look at the curvature of a training loss: numbers for the metrics, and arrays for a file of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asgc import gradient_statistics as statistics
from evaluation.curvature.hessian import Hessian, Problem, Scaled, flat, spectrum
from evaluation.curvature.options import CurvatureConfig
from evaluation.files import atomic_write, read_json, to_json
from evaluation.runs import seeding

SPLIT = FOLDER = "curvature"  # of the metrics; in the run folder
POINTS, REACH = 21, 0.5  # of a slice; its ends, in units of the weights' norm, filter by filter


class Curvature:
    """Looks at the loss when asked.

    Args:
        config: how often, and how closely.
        folder: of the run.
        seed: of the run.
    """

    def __init__(self, config: CurvatureConfig, folder: Path, seed: int) -> None:
        self._config, self._folder, self._seed = config, folder / FOLDER, seed

    @property
    def samples(self) -> int:
        return self._config.samples

    def due(self, evaluation: int, *, final: bool) -> bool:
        """Whether evaluation number `evaluation`, from 0, is one to look at."""
        every = self._config.every
        return every is not None and (final or evaluation % every == 0)

    def look(self, step: int, problem: Problem, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Numbers at `step` for the metrics; the arrays go into a file. Neither the model nor a generator is changed.

        Returns:
            `loss`; `hessian_max`, `hessian_min`: extreme eigenvalues; `gradient_curvature`: g' H g / g' g along the
            gradient g; `preconditioned_max`: the largest eigenvalue of P^-1/2 H P^-1/2 with the denominators P of
            Adam's kin, of optimizers that have some. Full-batch descent grows where lr times `hessian_max` is above 2,
            Adam (beta1 of 0.9) where lr times `preconditioned_max` is above 38 (Cohen et al. 2022, arXiv 2207.14484).
            Nothing where the loss or its derivatives are not finite.
        """
        gradient = problem.gradient()
        square = float(sum(one.double().square().sum() for one in gradient))
        if not math.isfinite(square):
            return {}
        operator = Hessian(problem)
        seed = seeding.derive(self._seed, "curvature", step) % (1 << 31)
        found = spectrum(operator, self._config.vectors, seed)
        if not found.values:
            return {}
        values = {"loss": problem.value(), "hessian_max": max(found.values), "hessian_min": min(found.values)}
        if square > 0:
            along = flat(gradient)
            values["gradient_curvature"] = float((operator @ along).double() @ along.double()) / square
        denominators = denominators_of(optimizer, problem)
        if denominators is not None:
            inverse = Scaled(operator, flat(denominators).rsqrt())
            if there := spectrum(inverse, self._config.vectors, seed).values:
                values["preconditioned_max"] = max(there)
        directions = {"gradient": gradient, "random": _random(problem, seed)}
        lines = {name: slice_along(problem, by_filter(problem, one)) for name, one in directions.items()}
        at = [REACH * (2 * k / (POINTS - 1) - 1) for k in range(POINTS)]
        self._write(step, {"spectrum": {"values": found.values, "weights": found.weights}, "at": at, "slices": lines})
        return values

    def _write(self, step: int, arrays: Mapping[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        atomic_write(self._folder / f"{step:012d}.json", json.dumps(to_json({"step": step, **arrays})))


def read(run: Path) -> list[dict[str, Any]]:
    """What `Curvature` has written into a run's folder, by step."""
    return [read_json(file) for file in sorted((run / FOLDER).glob("*.json"))]


def by_filter(problem: Problem, direction: list[Tensor]) -> list[Tensor]:
    """A direction whose filters (slices of a matrix's or kernel's first dimension; a vector as a whole) are as long as
    those of the weights (Li et al. 2018, arXiv 1712.09913, section 4)."""
    found = []
    for weight, along in zip(problem.parameters, direction, strict=True):
        rows = (weight.shape[0], -1) if weight.dim() > 1 else (1, -1)
        own, one = weight.detach().reshape(rows).norm(dim=1), along.reshape(rows)
        length = one.norm(dim=1)
        scale = torch.where(length > 0, own / torch.where(length > 0, length, 1.0), 0.0)
        found.append((one * scale[:, None]).reshape(weight.shape))
    return found


@torch.no_grad()
def slice_along(problem: Problem, direction: list[Tensor]) -> list[float]:
    """The loss at `POINTS` places from -`REACH` to `REACH` times the direction, beside the present weights."""
    kept = [parameter.detach().clone() for parameter in problem.parameters]
    found = []
    try:
        for k in range(POINTS):
            share = REACH * (2 * k / (POINTS - 1) - 1)
            for parameter, start, along in zip(problem.parameters, kept, direction, strict=True):
                parameter.copy_(start + share * along)
            found.append(problem.value())
    finally:
        for parameter, start in zip(problem.parameters, kept, strict=True):
            parameter.copy_(start)
    return found


def denominators_of(optimizer: torch.optim.Optimizer, problem: Problem) -> list[Tensor] | None:
    """What the rule divides each element's step by, as its last step has left it; None of those that do not divide."""
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    found = []
    for parameter in problem.parameters:
        state, group = optimizer.state.get(parameter, {}), groups.get(parameter, {})
        names = ("max_exp_avg_sq", "exp_avg_sq", "square_avg", "sum")
        second = next((state[name] for name in names if name in state), None)
        if second is None:
            return None
        second = second.detach().clone()
        if "exp_avg_sq" in state and "betas" in group:
            second /= 1 - float(group["betas"][1]) ** max(1.0, float(state.get("step", 1)))
        eps = torch.as_tensor(float(group.get("eps", 0.0)), device=second.device)
        if (scale := group.get("eps_scale", 0.0)) and "stats" in state:  # one a unit, or one
            deviation = state["stats"][statistics.VAR].sqrt().to(second.dtype)
            shape = (-1,) + (1,) * (second.dim() - 1)
            eps = eps + scale * (deviation.reshape(shape) if deviation.numel() > 1 else deviation.reshape(()))
        found.append(second.clamp(min=0).sqrt().add(eps).clamp(min=torch.finfo(torch.float32).tiny))
    return found


def _random(problem: Problem, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one.shape, generator=generator).to(one.device, one.dtype) for one in problem.parameters]
