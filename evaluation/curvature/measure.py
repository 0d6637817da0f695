"""A look at the curvature of a training loss: numbers for the metrics, and arrays for a file of its own."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asgc import ASGC
from asgc import gradient_statistics as statistics
from asgc.proxy import innermost
from evaluation.cli.errors import reason
from evaluation.curvature.hessian import Hessian, Problem, Scaled, flat, is_symmetric, spectrum
from evaluation.curvature.options import CurvatureConfig
from evaluation.files import atomic_write, read_json, to_json
from evaluation.runs import seeding

SPLIT = FOLDER = "curvature"  # of the metrics; in the run folder
PLACES = tuple(k / 20 for k in range(-10, 11))  # of a slice, in units of the weights' norm, filter by filter


class Curvature:
    """Looks at the loss when asked.

    Args:
        config: how often, and how closely.
        folder: of the run.
        seed: of the run.
        message: told in a line where nothing could be seen.
        tell: called before each product with the Hessian with how many are done, and of how many.
    """

    def __init__(
        self,
        config: CurvatureConfig,
        folder: Path,
        seed: int,
        message: Callable[[str], None] = lambda line: None,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._config, self._folder, self._seed = config, folder / FOLDER, seed
        self._message, self._tell = message, tell

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
            Nothing where the loss or its derivatives are not finite, where it has no second ones, and where memory does
            not suffice.
        """
        try:
            return self._look(step, problem, optimizer)
        except RuntimeError as error:  # torch's, out of memory among them
            self._message(f"curvature at step {step:,}: not looked at ({reason(error)}); see --curvature.samples")
            return {}

    def _look(self, step: int, problem: Problem, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        gradient = problem.gradient()
        square = float(sum(one.double().square().sum() for one in gradient))
        if not math.isfinite(square):
            return {}
        done, total = itertools.count(), 2 * self._config.vectors + 3
        operator = Hessian(problem, lambda: self._tell(min(next(done), total), total))
        seed = seeding.derive(self._seed, "curvature", step) % (1 << 31)
        if not is_symmetric(operator, seed):
            raise RuntimeError("the loss's second derivatives are wrong: is a part of it differentiable only once?")
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
        density = {"values": found.values, "weights": found.weights}
        self._write(step, {"spectrum": density, "at": list(PLACES), "slices": lines})
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
        rows = (weight.shape[0] if weight.dim() > 1 else 1, -1)
        if weight.numel() == 0:
            found.append(along)
            continue
        own, one = weight.detach().reshape(rows).norm(dim=1), along.reshape(rows)
        length = one.norm(dim=1)
        scale = torch.where(length > 0, own / torch.where(length > 0, length, 1.0), 0.0)
        found.append((one * scale[:, None]).reshape(weight.shape))
    return found


@torch.no_grad()
def slice_along(problem: Problem, direction: list[Tensor]) -> list[float]:
    """The loss at the present weights and beside them, at `PLACES` times the direction."""
    kept = [parameter.detach().clone() for parameter in problem.parameters]
    found = []
    try:
        for share in PLACES:
            for parameter, start, along in zip(problem.parameters, kept, direction, strict=True):
                parameter.copy_(start + share * along)
            found.append(problem.value())
    finally:
        for parameter, start in zip(problem.parameters, kept, strict=True):
            parameter.copy_(start)
    return found


_RULES = {
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adamw",
    torch.optim.RMSprop: "rmsprop",
    torch.optim.Adagrad: "adagrad",
}


def denominators_of(optimizer: torch.optim.Optimizer, problem: Problem) -> list[Tensor] | None:
    """What the rule divides each element's step by, as its last step has left it: of ASGC's rules and torch's Adam,
    AdamW, RMSprop and Adagrad, whatever stands in front of them; None of others, and before a parameter's first step.
    """
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    inner = innermost(optimizer)
    found = []
    for parameter in problem.parameters:
        state, group = optimizer.state.get(parameter, {}), groups.get(parameter, {})
        rule = group.get("rule") if isinstance(inner, ASGC) else _RULES.get(type(inner))
        second = _second_moment(rule, state, group)
        if second is None:
            return None
        eps = torch.as_tensor(float(group["eps"]), device=second.device)
        if (scale := group.get("eps_scale", 0.0)) and "stats" in state:  # one a unit, or one
            deviation = state["stats"][statistics.VAR].sqrt().to(second.dtype)
            shape = (-1,) + (1,) * (second.dim() - 1)
            eps = eps + scale * (deviation.reshape(shape) if deviation.numel() > 1 else deviation.reshape(()))
        found.append(second.clamp(min=0).sqrt().add(eps).clamp(min=torch.finfo(torch.float32).tiny))
    return found


def _second_moment(rule: str | None, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | None:
    """What the denominator is the root of."""
    match rule:
        case "adam" | "adamw" if "exp_avg_sq" in state:
            second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].detach()
            return second / (1 - float(group["betas"][1]) ** max(1.0, float(state["step"])))
        case "rmsprop" if "square_avg" in state:
            second = state["square_avg"].detach()
            return second - state["grad_avg"].detach().square() if group["centered"] else second
        case "adagrad" if "sum" in state:
            return state["sum"].detach()
    return None


def _random(problem: Problem, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one.shape, generator=generator).to(one.device, one.dtype) for one in problem.parameters]
