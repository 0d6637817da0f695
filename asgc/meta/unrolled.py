"""Gradients of training itself: ASGC's steps unrolled and differentiated with respect to its options.

`functional.step` is differentiable in the options, the gradients and its state, so the loss after some steps is a
function of the meta-parameters (Maclaurin et al. 2015, arXiv 1502.03492). Runs are long and their derivatives grow with
their length, so a run is cut into truncations, between which its state stays and the derivatives begin anew.

Several runs of a task, of a seed each, go on together, by ``torch.func.vmap`` over their parameters, batches, states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from .. import functional
from .space import Space, kinds_of

__all__ = ["DifferentiableTask", "Unrolled"]

_COUNTERS = ("step", "noise_step")  # the same in all runs, and read by Python


class DifferentiableTask(Protocol):
    """A task whose loss is a differentiable function of its parameters.

    Attributes:
        steps: of a whole run.
    """

    steps: int

    def start(self, seed: int) -> dict[str, Tensor]:
        """Parameters by name before the first step, in the model's order."""

    def batch(self, step: int, seed: int) -> tuple[Tensor, ...]:
        """What the loss of a step (0, 1, ...) is made from, in the same shapes for every seed."""

    def loss(self, params: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        """0-dimensional, differentiable twice, of operations that vmap knows."""


class Unrolled:
    """Runs of a task side by side, in truncations.

    Args:
        task: what is trained on.
        space: of the meta-parameters.
        options: of ASGC beside those of the space, complete (``functional.options``), with ``lr``.
        seeds: of the runs: start and data. The noise is that of the first in all of them.

    Attributes:
        step: inner steps done.
        losses: of all steps so far, each a list of the runs'.
    """

    def __init__(
        self, task: DifferentiableTask, space: Space, options: Mapping[str, Any], seeds: Sequence[int]
    ) -> None:
        self._task, self._space, self._seeds = task, space, tuple(seeds)
        self._options = {**options, "seed": self._seeds[0]}
        if "eps_scale" in space.names and "eps" not in options:
            raise ValueError(f"eps_scale cannot be learned with rule {options['rule']!r}, which has no eps")
        self.step, self.losses = 0, list[list[float]]()
        starts = [task.start(seed) for seed in self._seeds]
        self._params = {name: torch.stack([start[name].detach() for start in starts]) for name in starts[0]}
        self._kinds = dict(zip(starts[0], kinds_of([*starts[0].values()], [*starts[0]]), strict=True))
        self._states = {name: self._fresh(param, number) for number, (name, param) in enumerate(self._params.items())}

    @property
    def done(self) -> bool:
        """Whether the runs are over."""
        return self.step >= self._task.steps

    def truncation(self, vector: Tensor, steps: int, *, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        """Go on for so many steps, at most to the end of the runs.

        Args:
            vector: of the meta-parameters.
            gradient: whether it is wanted: without it a step costs a third or so.

        Returns:
            The mean over the runs and over the losses before each of these steps but the first, and after the last;
            and its gradient with respect to the vector. (The first depends on nothing that these steps do. After the
            runs' last step it is the loss of their last batch again.)
        """
        vector = vector.detach().requires_grad_(gradient)
        count = min(steps, self._task.steps - self.step)
        if count < 1:
            raise ValueError(f"the run is over: it has {self._task.steps} steps")
        total = torch.zeros((), dtype=torch.float64, device=vector.device)
        for k in range(count + 1):
            with torch.enable_grad():
                params = {
                    name: param if param.requires_grad else param.requires_grad_()
                    for name, param in self._params.items()
                }
                losses = self._losses(params)
                if k > 0:
                    total = total + losses.mean().double().to(vector.device)
                if k == count:
                    break
                self.losses.append(losses.detach().tolist())
                of = list(params.values())
                grads = torch.autograd.grad(losses.sum(), of, create_graph=gradient, allow_unused=True)
            with torch.set_grad_enabled(gradient):
                self._advance(vector, params, dict(zip(params, grads, strict=True)))
        mean = total / count
        found = None
        if gradient:  # of a single step nothing may depend on an option, such as outlier_share
            (found,) = torch.autograd.grad(mean, vector, allow_unused=True, materialize_grads=True)
        self._params = {name: param.detach() for name, param in self._params.items()}
        self._states = {
            name: {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
            for name, state in self._states.items()
        }
        return mean.detach(), found

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming steps depend on, between two truncations."""
        own = {"params": self._params, "states": self._states}
        return {"seeds": list(self._seeds), "step": self.step, "losses": self.losses, **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``, of runs with the same task, space and options."""
        self._seeds = tuple(state["seeds"])
        self._options["seed"] = self._seeds[0]
        self.step, self.losses = state["step"], [list(losses) for losses in state["losses"]]
        self._params, self._states = dict(state["params"]), {name: dict(own) for name, own in state["states"].items()}

    def _losses(self, params: Mapping[str, Tensor]) -> Tensor:
        """Of the coming batch, (runs,)."""
        step = min(self.step, self._task.steps - 1)
        batches = [self._task.batch(step, seed) for seed in self._seeds]
        stacked = [torch.stack(pieces) for pieces in zip(*batches, strict=True)]
        losses: Tensor = _each(self._task.loss)(dict(params), *stacked)
        return losses

    def _advance(self, vector: Tensor, params: Mapping[str, Tensor], grads: Mapping[str, Tensor | None]) -> None:
        values = self._space.values(vector, self.step / max(1, self._task.steps))
        for name, param in params.items():
            grad = grads[name]
            if grad is None:  # the loss does not depend on it
                continue
            options = {**self._options, **values[self._kinds[name]]}
            if self._kinds[name] == "head" and self._options["exclude_head"]:
                options["ceiling"] = None  # as in the optimizer
            self._params[name], self._states[name] = _step(param, grad, self._states[name], options)
        self.step += 1

    def _fresh(self, params: Tensor, number: int) -> dict[str, Any]:
        """The state of a layer of all runs."""
        state = functional.init(params[0], number, self._options)
        state["stats"] = state["stats"].to(torch.float64 if params.dtype == torch.float64 else torch.float32)
        return {
            key: value.expand(len(params), *value.shape).clone()
            if isinstance(value, Tensor) and key not in _COUNTERS
            else value
            for key, value in state.items()
        }


def _each(function: Callable[..., Any]) -> Callable[..., Any]:
    """vmap; one run by itself goes without, which is several times faster for small layers."""

    def called(*trees: Any) -> Any:
        leaves = tree_leaves(trees)
        if len(leaves[0]) > 1:
            return vmap(function)(*trees)
        return tree_map(lambda x: x[None], function(*tree_map(lambda x: x[0], trees)))

    return called


def _step(
    params: Tensor, grads: Tensor, state: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """``functional.step`` of one layer of all runs."""
    alike = {key: value for key, value in state.items() if key in _COUNTERS or not isinstance(value, Tensor)}
    own = {key: value for key, value in state.items() if key not in alike}

    def one(param: Tensor, grad: Tensor, tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        moved, new = functional.step(param, grad, {**alike, **tensors}, options)
        return moved, {key: value for key, value in new.items() if key not in alike}

    moved, new = _each(one)(params, grads, own)
    return moved, {**alike, **{key: alike[key] + 1 for key in _COUNTERS}, **new}
