"""The reference: ``functional.step``, layer by layer. The fast implementations are tested against it."""

from __future__ import annotations

from torch import Tensor

from .. import functional
from ..layers import head_places
from .implementation import Stepped

__all__ = ["step", "unsupported"]


def unsupported(opt: Stepped) -> str | None:
    """It serves every optimizer."""
    return None


def step(opt: Stepped) -> None:
    """One step of every parameter that has a gradient."""
    members = [(param, group) for group in opt.param_groups for param in group["params"]]
    head = head_places([param for param, _ in members])
    for number, (param, group) in enumerate(members):
        if param.grad is not None:
            state = opt.layer_state(param, group)
            free = number in head and group["exclude_head"]
            options = {**group, "ceiling": None} if free else group
            new_param, new_state = functional.step(param, param.grad, state, options)
            param.copy_(new_param)
            for name, value in new_state.items():
                if name not in state:
                    state[name] = value
                elif isinstance(value, Tensor):
                    state[name].copy_(value)
