"""A model, its optimizer and one update of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evaluation.runs.lr_schedule import LRSchedule
from evaluation.runs.make_optimizer import make_optimizer, trained
from evaluation.runs.weight_average import WeightAverage
from supervised.config import TrainConfig
from supervised.distributed import Group
from supervised.stream import StandIn
from supervised.tasks.task import Batch, Task

if TYPE_CHECKING:
    from supervised.sharded import ShardedAverage, Sharding


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
        if config.channels_last and not (config.sharded and group.ranks > 1):  # FSDP2 takes contiguous parameters only
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if group.ranks > 1 and device.type == "cuda" and config.sync_batch_norm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self._ddp: DistributedDataParallel | None = None
        self._sharding = self._spread(config)
        trained = self.model if self._ddp is None else self._ddp
        self._run: Callable[..., Any] | nn.Module = torch.compile(trained) if config.compile else trained
        self.optimizer = make_optimizer(config.optimizer, config.seed, parameter_groups(self.model, config))
        self.lr_schedule = LRSchedule(self.optimizer, config.lr_schedule, updates)
        self.average = self._averaged(config.ema_decay)
        self._whole: dict[str, Any] | None = None  # of a sharded model, until the next update
        self.around_step: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def sharded(self) -> bool:
        """Whether the processes have a part of the model each."""
        return self._sharding is not None

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass: bfloat16 matrix products, float32 parameters."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def update(self, batches: Sequence[Batch], items: int) -> dict[str, Tensor]:
        """One step of the optimizer on the mean loss over all `items` of the batches of all processes; returns means
        over them.

        Gradients are averaged over the processes in the last pass, hence the factor `ranks`.
        """
        sums: dict[str, Tensor] = {}
        share = items / self._group.ranks
        self._whole = None
        for k, batch in enumerate(batches, start=1):
            with self._synchronized(k == len(batches)):
                with self.autocast():
                    loss = self._task.loss(self._run, batch)  # type: ignore[arg-type]
                counts = not isinstance(batch, StandIn)
                ((loss.total if counts else 0.0 * loss.total) / share).backward()
            for name, value in {"loss": loss.total, **loss.values}.items():
                one = value.detach() if counts else torch.zeros_like(value)
                sums[name] = sums[name] + one if name in sums else one
        with self.around_step():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.lr_schedule.step()
        if self.average is not None:
            self.average.update()
        if self._group.ranks > 1:
            totals = self._group.all_reduce(torch.stack([value.float() for value in sums.values()]))
            sums = dict(zip(sums, totals, strict=True))
        return {name: value / items for name, value in sums.items()}

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model as evaluations use it, in evaluation mode: the average of its weights, where there is one. All
        processes enter it."""
        self._group.broadcast(self.model.buffers())  # batch statistics: where each process has its own, the main one's
        if self._sharding is not None:
            with self._sharding.copied(self._weights()) as model, torch.inference_mode(), self.autocast():
                yield model
            return
        model = self.model
        if isinstance(self.average, WeightAverage):
            self.average.copy_buffers()
            model = self.average.network
        training = model.training
        model.eval()
        try:
            with torch.inference_mode(), self.autocast():
                yield model
        finally:
            model.train(training)

    def gather(self) -> None:
        """Bring a sharded model to the main process, which `weights` and `state_dict` are asked of then, until the next
        update. All processes call it."""
        if self._sharding is not None and self._whole is None:
            found = self._sharding.whole(self._state() | {"weights": self._weights()})
            self._whole = found or {}

    def weights(self) -> dict[str, Any]:
        """State dict of the model as evaluations use it."""
        if self._sharding is None:
            return self._weights()
        assert self._whole is not None
        found: dict[str, Any] = self._whole["weights"]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning goes on from."""
        if self._sharding is None:
            return self._state()
        assert self._whole is not None
        return {name: value for name, value in self._whole.items() if name != "weights"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        if self._sharding is None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(_for_here(self.optimizer, state["optimizer"]))
        else:
            self._sharding.load_model(state["model"])
            self._sharding.load_optimizer(self.optimizer, _for_here(self.optimizer, state["optimizer"]))
        self.lr_schedule.load_state_dict(state["lr_schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _state(self) -> dict[str, Any]:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["lr_schedule"] = self.lr_schedule.state_dict()
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def _weights(self) -> dict[str, Any]:
        if self.average is None:
            return self.model.state_dict()
        if isinstance(self.average, WeightAverage):
            self.average.copy_buffers()
            return self.average.network.state_dict()
        return self.average.weights()

    def _spread(self, config: TrainConfig) -> Sharding | None:
        """Join the model with those of the other processes."""
        if self._group.ranks == 1:
            return None
        if config.sharded:
            from supervised.sharded import Sharding

            return Sharding(self.model, self.device, self._group)
        devices = [self.device] if self.device.type == "cuda" else None
        # Buffers are batch statistics, which training does not read: `evaluated` sends them.
        names = inspect.signature(DistributedDataParallel.__init__).parameters
        buffers: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False
        }
        self._ddp = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True, **buffers)
        return None

    def _averaged(self, decay: float | None) -> WeightAverage[nn.Module] | ShardedAverage | None:
        if decay is None:
            return None
        if self._sharding is None:
            return WeightAverage(self.model, decay)
        from supervised.sharded import ShardedAverage

        return ShardedAverage(self.model, decay)

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """A forward and backward pass; in an update's last one gradients are averaged over the processes."""
        if self._sharding is not None:
            self._sharding.synchronize(last)
        return nullcontext() if last or self._ddp is None else self._ddp.no_sync()


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters; with `no_decay`, where there is a weight decay, those of one dimension apart and
    without. What stands behind the last matrix (the head's bias) stays behind it: so AGC finds the head."""
    parameters = trained(config.optimizer, model)
    decays = make_optimizer(config.optimizer, 0, [torch.zeros(1, requires_grad=True)]).defaults.get("weight_decay")
    if not (config.no_decay and decays):
        return [{"params": parameters}]

    def is_matrix(item: Any) -> bool:
        return bool((item[1] if isinstance(item, tuple) else item).ndim > 1)

    last = max((place for place, one in enumerate(parameters) if is_matrix(one)), default=-1)
    before = [one for one in parameters[: last + 1] if not is_matrix(one)]
    decayed = [one for one in parameters if is_matrix(one)]
    none = {"weight_decay": 0.0}
    groups: list[dict[str, Any]] = [
        {"params": before, **none},
        {"params": decayed},
        {"params": parameters[last + 1 :], **none},
    ]
    return [group for group in groups if group["params"]]


def _for_here(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with this one's choice of kernels: sharded parameters have others."""
    own = [{name: group[name] for name in ("fused", "foreach") if name in group} for group in optimizer.param_groups]
    groups = state["param_groups"]
    return {**state, "param_groups": [{**saved, **here} for saved, here in zip(groups, own, strict=True)]}
