"""What an implementation of the step is, and what it needs of the optimizer that it steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..layers import first_dtensor
from ..options import is_tensor_free, reference_and_cpu_only

__all__ = ["Implementation", "Stepped"]


class Stepped(Protocol):
    """The optimizer, as implementations see it (``ASGC``). Hashable, by identity."""

    param_groups: list[dict[str, Any]]
    state: Any

    def layer_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """``state[param]``, complete."""

    def layer_number(self, param: Tensor) -> int:
        """Number of a layer for the noise."""


@dataclass(frozen=True)
class Implementation:
    """One way to execute a step.

    Attributes:
        name: the value of the option ``implementation``.
        load: imports its module, which has ``unsupported`` and ``step``: only what is used is imported and compiled.
        dtensors: serves DTensors, and looks for non-finite gradients itself: together with the other ranks.
        tensor_options: options other than lr and betas may be tensors.
        all_options: serves those that the others do not (``options.reference_and_cpu_only``).
        fast_preview: a step of it on copies is the fastest way to see the transformed gradients.
    """

    name: str
    load: Callable[[], Any]
    dtensors: bool = False
    tensor_options: bool = False
    all_options: bool = False
    fast_preview: bool = False

    def unsupported(self, opt: Stepped) -> str | None:
        """Why it cannot serve an optimizer, or None if it can."""
        dtensor = first_dtensor(opt.param_groups)
        if dtensor is not None and not self.dtensors:
            return f"{dtensor} is a DTensor, which only implementation='sharded' serves ('auto' takes it)"
        if not self.tensor_options and not all(map(is_tensor_free, opt.param_groups)):
            return "an option other than lr and betas is a tensor"
        slow = None if self.all_options else next(filter(None, map(reference_and_cpu_only, opt.param_groups)), None)
        if slow is not None:
            return f"{slow} (done by reference and cpu only)"
        reason: str | None = self.load().unsupported(opt)
        return reason

    def step(self, opt: Stepped) -> bool | None:
        """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``.

        Returns:
            Whether a gradient has been non-finite for long enough to say so (``asgc.nonfinite``); None: not known here.
        """
        streak: bool | None = self.load().step(opt)
        return streak
