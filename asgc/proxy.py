"""An optimizer in front of another one: what ``wrap`` and the clipped baselines share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["OptimizerProxy", "innermost"]

_STATE_DICT_HOOKS = (
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside of wrappers, such as Lookahead, that hold it as ``inner``, ``optimizer`` or
    ``base_optimizer``."""
    held = (getattr(optimizer, name, None) for name in ("inner", "optimizer", "base_optimizer"))
    inside = next((x for x in held if isinstance(x, Optimizer) and x is not optimizer), None)
    return optimizer if inside is None else innermost(inside)


class OptimizerProxy(Optimizer):
    """A ``torch.optim.Optimizer`` whose parameter groups, defaults and state are those of ``inner``.

    Learning-rate schedulers, GradScaler and hooks work on it. ``inner`` is the wrapped optimizer.

    Raises:
        TypeError: inner is not an optimizer.
        ValueError: inner evaluates its closure itself (LBFGS, SAM and its kin).
    """

    inner: Optimizer

    def __init__(self, inner: Optimizer) -> None:
        if not isinstance(inner, Optimizer):
            raise TypeError(f"expected a torch.optim.Optimizer, got {type(inner).__name__}")
        if isinstance(innermost(inner), torch.optim.LBFGS):
            raise ValueError("LBFGS evaluates its closure several times a step: its gradients cannot be changed before")
        if hasattr(inner, "first_step") and hasattr(inner, "second_step"):
            name = type(inner).__name__
            raise ValueError(
                f"{name} evaluates its closure itself, at two points of a step: put wrap inside, {name}(params, "
                "base_optimizer=lambda groups, **options: wrap(torch.optim.Adam(groups, **options)), lr=...)"
            )
        self.inner = inner
        # Optimizer.__init__ would make groups of its own; __setstate__ sets up the rest: hooks, profiling.
        self.__setstate__({"inner": inner, "defaults": inner.defaults})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.inner = state["inner"]
        # The state_dict is the inner optimizer's, so hooks on it are too.
        # Wrappers such as Lookahead have none.
        hooks = {name: getattr(self.inner, name) for name in _STATE_DICT_HOOKS if hasattr(self.inner, name)}
        super().__setstate__({**state, **hooks})

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "defaults": self.defaults}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        return self.inner.state

    @state.setter
    def state(self, state: Any) -> None:
        self.inner.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned; an option that a saved group lacks stays as it is."""
        groups = state_dict.get("param_groups")
        if isinstance(groups, list) and len(groups) == len(self.param_groups):
            groups = [
                {**{name: value for name, value in own.items() if name in self.inner.defaults}, **saved}
                for own, saved in zip(self.param_groups, groups, strict=True)
            ]
            state_dict = {**state_dict, "param_groups": groups}
        self.inner.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__} ({self.inner!r})"

    @staticmethod
    def _evaluate(closure: Callable[[], float] | None) -> float | None:
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()
