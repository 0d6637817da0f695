"""How the learning rate moves over a run: a factor on it by the number of the update, stepped once an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from evaluation.cli.settings import option
from evaluation.cli.values import show

if TYPE_CHECKING:  # help pages and error messages do without torch
    from torch.optim import Optimizer


@dataclass
class LRScheduleConfig:
    """Learning-rate schedule by its name, over all updates of the run."""

    name: Literal["constant", "linear", "cosine", "exponential", "step", "inverse-sqrt"] = option(
        "constant", "the learning rate over the run, after the warm-up"
    )
    end_factor: float = option(
        0.0,
        "linear, cosine, exponential: factor on the learning rate at the end of the run",
        "[0, 1]",
        needs=("lr_schedule.name", "linear", "cosine", "exponential"),
    )
    milestones: list[float] = option(  # noqa: RUF009
        [0.5, 0.75], "step: shares of the run after which it falls", "(0, 1)", needs=("lr_schedule.name", "step")
    )
    decay: float = option(0.1, "step: factor on it at each of them", "[0, 1]", needs=("lr_schedule.name", "step"))
    warmup: int = option(0, "updates of a warm-up before, update k of n at (k + 1)/n of the rate", "[0, 1e12]")

    @property
    def moves(self) -> bool:
        """Whether the rate is ever another than the optimizer's."""
        return self.name != "constant" or self.warmup > 0

    def faults(self) -> Iterator[str]:
        """What is wrong beside each value alone, a line each."""
        if self.name == "exponential" and self.end_factor == 0:
            yield "--lr-schedule.end-factor 0: must be above 0 for an exponential schedule"
        if self.name == "inverse-sqrt" and self.warmup == 0:
            yield "--lr-schedule.warmup 0: must be above 0 for an inverse-sqrt schedule, which begins where it ends"
        if self.name == "step" and self.milestones != sorted(set(self.milestones)):
            yield f"--lr-schedule.milestones {show(self.milestones)}: must rise"


INVERSE_SQRT = "inverse-sqrt"  # sqrt(warmup / (update + 1)) (Vaswani et al. 2017, section 5.3): of no length
# The factor after a share x of the run, 0 <= x <= 1.
SCHEDULES: Mapping[str, Callable[[LRScheduleConfig, float], float]] = MappingProxyType(
    {
        "constant": lambda config, x: 1.0,
        "linear": lambda config, x: 1 + (config.end_factor - 1) * x,
        "cosine": lambda config, x: config.end_factor + (1 - config.end_factor) * (1 + math.cos(math.pi * x)) / 2,
        "exponential": lambda config, x: config.end_factor**x,
        "step": lambda config, x: config.decay ** sum(x >= milestone for milestone in config.milestones),
    }
)


def factor(config: LRScheduleConfig, update: int, updates: int) -> float:
    """What the learning rate of update number `update` (from 0) of so many is multiplied with.

    The schedule takes the updates after the warm-up. Past the end, it stays where it ended.
    """
    if update < config.warmup:
        return (update + 1) / config.warmup
    if config.name == INVERSE_SQRT:
        return math.sqrt(config.warmup / (update + 1))
    share = min((update - config.warmup) / max(1, updates - config.warmup), 1.0)
    return SCHEDULES[config.name](config, share)


class OptionsByShare:
    """The options of an ASGC whose preset changes them with the share of a run of so many updates that is done."""

    _KEY = "preset_updates"

    def __init__(self, optimizer: Optimizer, updates: int) -> None:
        preset = getattr(optimizer, "preset", None)
        self._optimizer, self._updates, self._done = optimizer, updates, 0
        self._moves = preset is not None and bool(preset.late)

    def step(self) -> None:
        """Comes after each optimizer step."""
        if self._moves:
            self._done += 1
            self._optimizer.follow_preset(min(self._done / max(1, self._updates), 1.0))  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The options themselves are kept in the optimizer's."""
        return {self._KEY: self._done} if self._moves else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Takes its own of a state, and returns the rest."""
        rest = dict(state)
        self._done = rest.pop(self._KEY, 0)
        return rest


class LRSchedule:
    """The learning rates of an optimizer's groups over a run of so many updates: torch.optim's `LambdaLR` of `factor`.

    A factor of the update's number alone, unlike torch's recurrent schedulers, is the same to the last bit wherever a
    run was interrupted, and ends where it ends. The rates are kept in the optimizer's own state, what else the
    scheduler knows in `state_dict`.
    """

    def __init__(self, optimizer: Optimizer, config: LRScheduleConfig, updates: int) -> None:
        from torch.optim.lr_scheduler import LambdaLR

        self._scheduler = LambdaLR(optimizer, lambda update: factor(config, update, updates)) if config.moves else None
        self._preset = OptionsByShare(optimizer, updates)

    def step(self) -> None:
        """Comes after each optimizer step."""
        if self._scheduler is not None:
            self._scheduler.step()
        self._preset.step()

    def values(self) -> dict[str, float]:
        """What is logged: `lr` of the coming update, where it moves."""
        return {} if self._scheduler is None else {"lr": float(self._scheduler.get_last_lr()[0])}

    def state_dict(self) -> dict[str, Any]:
        """Comes beside the optimizer's."""
        return ({} if self._scheduler is None else self._scheduler.state_dict()) | self._preset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; comes after the optimizer's."""
        state = self._preset.load_state_dict(state)
        if self._scheduler is not None:
            # Earlier versions' linear schedule was another of torch's schedulers, and had no functions.
            self._scheduler.load_state_dict({"lr_lambdas": [None] * len(self._scheduler.base_lrs)} | dict(state))
