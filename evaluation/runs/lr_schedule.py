"""How the learning rate moves over a run: torch.optim's schedulers by name, stepped once an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from evaluation.cli.settings import option

if TYPE_CHECKING:  # help pages and error messages do without torch
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass
class LRScheduleConfig:
    """Learning-rate schedule by its name, over all updates of the run."""

    name: Literal["constant", "linear"] = option("constant", "the learning rate over the run")
    end_factor: float = option(0.0, "linear: factor on the learning rate at the end of the run", "[0, 1]")


def _linear(optimizer: Optimizer, config: LRScheduleConfig, updates: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LinearLR

    return LinearLR(optimizer, start_factor=1.0, end_factor=config.end_factor, total_iters=updates)


Make = Callable[["Optimizer", LRScheduleConfig, int], "LRScheduler"]
SCHEDULES: Mapping[str, Make | None] = MappingProxyType({"constant": None, "linear": _linear})


class LRSchedule:
    """The learning rates of an optimizer's groups over a run of so many updates.

    The rates are kept in the optimizer's own state, what else a scheduler knows in `state_dict`.
    """

    def __init__(self, optimizer: Optimizer, config: LRScheduleConfig, updates: int) -> None:
        make = SCHEDULES[config.name]
        self._scheduler = None if make is None else make(optimizer, config, max(1, updates))

    def step(self) -> None:
        """Comes after each optimizer step."""
        if self._scheduler is not None:
            self._scheduler.step()

    def values(self) -> dict[str, float]:
        """What is logged: `lr` of the coming update, where it moves."""
        return {} if self._scheduler is None else {"lr": float(self._scheduler.get_last_lr()[0])}

    def state_dict(self) -> dict[str, Any]:
        """Comes beside the optimizer's."""
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; comes after the optimizer's."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state))
