"""Gradients of training itself: ASGC's steps unrolled and differentiated with respect to its options.

`functional.step` is differentiable in the options, the gradients and its state, so the loss after some steps is a
function of the meta-parameters (Maclaurin et al. 2015, arXiv 1502.03492). Runs are long and their derivatives grow with
their length, so a run is cut into truncations, between which its state stays and the derivatives begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import functional
from .space import Space, kinds_of

__all__ = ["DifferentiableTask", "Unrolled"]


class DifferentiableTask(Protocol):
    """A task whose loss is a differentiable function of its parameters.

    Attributes:
        steps: of a whole run.
    """

    steps: int

    def start(self, seed: int) -> dict[str, Tensor]:
        """Parameters by name before the first step, in the model's order."""

    def loss(self, params: Mapping[str, Tensor], step: int, seed: int) -> Tensor:
        """Of the batch of a step (0, 1, ...), differentiable twice."""


class Unrolled:
    """One run of a task, in truncations.

    Args:
        task: what is trained on.
        space: of the meta-parameters.
        options: of ASGC beside those of the space, complete (``functional.options``), with ``lr``.
        seed: of the run: start, data and noise.

    Attributes:
        step: inner steps done.
        losses: of all steps so far.
    """

    def __init__(self, task: DifferentiableTask, space: Space, options: Mapping[str, Any], seed: int) -> None:
        self._task, self._space, self._options, self._seed = task, space, {**options, "seed": seed}, seed
        if "eps_scale" in space.names and "eps" not in options:
            raise ValueError(f"eps_scale cannot be learned with rule {options['rule']!r}, which has no eps")
        self.step, self.losses = 0, list[float]()
        self._params = {name: value.detach().clone() for name, value in task.start(seed).items()}
        self._kinds = dict(zip(self._params, kinds_of([*self._params.values()], [*self._params]), strict=True))
        self._states = {name: self._fresh(param, number) for number, (name, param) in enumerate(self._params.items())}

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self.step >= self._task.steps

    def truncation(self, vector: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Go on for so many steps, at most to the end of the run.

        Args:
            vector: of the meta-parameters.

        Returns:
            The mean of the losses before each of these steps but the first, and after the last; and its gradient with
            respect to the vector. (The first depends on nothing that these steps do. After the run's last step it is
            the loss of its last batch again.)
        """
        vector = vector.detach().requires_grad_()
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
                loss = self._task.loss(params, min(self.step, self._task.steps - 1), self._seed)
                if k > 0:
                    total = total + loss.double().to(vector.device)
                if k == count:
                    break
                self.losses.append(float(loss.detach()))
                grads = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
                self._advance(vector, params, dict(zip(params, grads, strict=True)))
        mean = total / count
        (gradient,) = torch.autograd.grad(mean, vector)
        self._params = {name: param.detach() for name, param in self._params.items()}
        self._states = {
            name: {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
            for name, state in self._states.items()
        }
        return mean.detach(), gradient

    def _advance(self, vector: Tensor, params: Mapping[str, Tensor], grads: Mapping[str, Tensor | None]) -> None:
        values = self._space.values(vector, self.step / max(1, self._task.steps))
        for name, param in params.items():
            grad = grads[name]
            if grad is None:  # the loss does not depend on it
                continue
            options = {**self._options, **values[self._kinds[name]]}
            if self._kinds[name] == "head" and self._options["exclude_head"]:
                options["ceiling"] = None  # as in the optimizer
            self._params[name], self._states[name] = functional.step(param, grad, self._states[name], options)
        self.step += 1

    def _fresh(self, param: Tensor, number: int) -> dict[str, Any]:
        state = functional.init(param, number, self._options)
        state["stats"] = state["stats"].to(torch.float64 if param.dtype == torch.float64 else torch.float32)
        return state
