"""A model, its optimizer and one update of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.make_optimizer import make_optimizer
from evaluation.runs.weight_average import WeightAverage
from supervised.config import TrainConfig
from supervised.distributed import Group
from supervised.tasks.task import Batch, Task


class Learner:
    """Trains a task's model.

    Args:
        config: as `preflight.choose` gives it.
        task: whose model and loss.
        device: where.
        group: the processes that train it together.
        updates: of the whole run.

    Attributes:
        model: with its parameters' own names; what is trained may be a wrapper around it.
        around_step: the optimizer steps in the context that it returns.
    """

    def __init__(self, config: TrainConfig, task: Task, device: torch.device, group: Group, updates: int) -> None:
        self._task, self._group, self.device = task, group, device
        self._bf16 = config.precision == "bf16"
        self.model = task.make_model().to(device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run: Callable[..., Any] | nn.Module = torch.compile(self.model) if config.compile else self.model
        self.optimizer = make_optimizer(config.optimizer, config.seed, parameter_groups(self.model, config))
        self.lr_schedule = LRSchedule(self.optimizer, config.lr_schedule, updates)
        self.average = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)
        self.around_step: Callable[[], AbstractContextManager[None]] = nullcontext

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass: bfloat16 matrix products, float32 parameters."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def update(self, batches: Sequence[Batch], items: int) -> dict[str, Tensor]:
        """One step of the optimizer on the mean loss over all `items` of the batches; returns means over them."""
        sums: dict[str, Tensor] = {}
        for batch in batches:
            with self.autocast():
                loss = self._task.loss(self._run, batch)  # type: ignore[arg-type]
            (loss.total / items).backward()
            for name, value in {"loss": loss.total, **loss.values}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        with self.around_step():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.lr_schedule.step()
        if self.average is not None:
            self.average.update()
        return {name: value / items for name, value in sums.items()}

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model as evaluations use it, in evaluation mode: the average of its weights, where there is one."""
        model = self.model
        if self.average is not None:
            self.average.copy_buffers()
            model = self.average.network
        training = model.training
        model.eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield model
        finally:
            model.train(training)

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning goes on from."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["lr_schedule"] = self.lr_schedule.state_dict()
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state["lr_schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters; with `no_decay`, where there is a weight decay, those of one dimension apart and
    without."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not (config.no_decay and config.optimizer.options().get("weight_decay")):
        return [{"params": parameters}]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
