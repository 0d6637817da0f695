"""A learner that lives on a device: the host asks for actions and sends frames, and waits for nothing else.

Where the optimizer allows it, updates (gather, targets, loss, gradients, step) are one CUDA graph, and so is acting: a
launch, where PyTorch would launch hundreds of kernels, each of which takes the host longer than the device. Updates
that somebody looks at run kernel by kernel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from evaluation.cli.errors import UserError
from evaluation.runs.lr_schedule import LRSchedule, LRScheduleConfig
from rl import graphs
from rl.graphs import Captured
from rl.profile import Profile

if TYPE_CHECKING:
    from rl.algorithms.algorithm import Learner, Part, Weights
    from rl.config import TrainConfig

L = TypeVar("L", bound="Learner")
LARGE = 1 << 19  # elements of a tensor


def wanted(config: TrainConfig, device: torch.device) -> bool:
    """Whether a run is resident: on every GPU; on a CPU as a rehearsal of the same code."""
    return device.type != "cpu" or config.cuda_graphs == "always"


class Resident(Generic[L]):
    """What the algorithms have in common: a learner with gradients that stay where they are, and what is captured.

    Args:
        learner: gets a learning rate on the device where its steps are captured.
        updates: of the whole run, for the learning rate's schedule.
    """

    def __init__(self, config: TrainConfig, learner: L, updates: int, profile: Profile) -> None:
        self._config, self._learner, self._profile = config, learner, profile
        device, optimizer = learner.device, learner.optimizer
        own = config.network.cls is not None and config.cuda_graphs == "auto"  # it may look at values on the host
        setting = "never" if own else config.cuda_graphs
        try:
            self._graphs = graphs.choose(setting, device, optimizer)
        except ValueError as error:
            raise UserError(
                f"--cuda-graphs always: {error}; leave it at auto, or choose another --optimizer"
            ) from error
        self._other_graphs = graphs.choose(setting, device)  # of what takes no step of the optimizer
        graphs.prepare(optimizer, device, self._graphs is not None)
        if self._graphs is not None:
            learner.lr_schedule = DeviceRates(optimizer, config.lr_schedule, updates)
        self._exact = {name: p for name, p in learner.network.named_parameters() if p.requires_grad}
        # A graph writes to the same places as an update beside it.
        self._gradients = [torch.zeros_like(parameter) for parameter in self._exact.values()]
        for parameter, gradient in zip(self._exact.values(), self._gradients, strict=True):
            parameter.grad = gradient
        self._rounded = _rounded_copies(learner)

    def _td_losses(self, part: Part) -> tuple[Tensor, Tensor]:
        """The learner's, from weights that are rounded for all its layers and passes at once."""
        with torch.no_grad():
            copy_all(list(self._rounded.values()), [self._exact[name] for name in self._rounded])
        return self._learner.td_losses(part, self._rounded)

    def _descend(self, loss: Tensor, part: Part, number: int = 0) -> None:
        """The optimizer's step on a loss; its update is the `number`-th after those that are counted."""
        gradients = torch.autograd.grad(loss, list((self._exact | self._rounded).values()), materialize_grads=True)
        copy_all(self._gradients, gradients)
        with self._learner.around_step(part, number):
            self._learner.optimizer.step()

    def _captured(self) -> list[Captured[Any]]:
        """All that may be captured."""
        raise NotImplementedError

    def loaded(self) -> None:
        """The learner has loaded a state: some of its tensors are new ones."""
        graphs.prepare(self._learner.optimizer, self._learner.device, self._graphs is not None)
        for captured in self._captured():
            captured.forget()


def copy_all(into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    """Copy all: by one kernel for each pair of types, but large ones, which get more threads by a kernel of their own,
    and those that lie otherwise in memory, which `torch._foreach_copy_` has no such kernel for."""
    alike: defaultdict[tuple[torch.dtype, torch.dtype], tuple[list[Tensor], list[Tensor]]] = defaultdict(
        lambda: ([], [])
    )
    for to, tensor in zip(into, source, strict=True):
        if to.numel() >= LARGE or to.stride() != tensor.stride():
            to.copy_(tensor)
        else:
            for tensors, one in zip(alike[to.dtype, tensor.dtype], (to, tensor), strict=True):
                tensors.append(one)
    for some, of_some in alike.values():
        torch._foreach_copy_(some, of_some)


def _rounded_copies(learner: Learner) -> Weights:
    """Copies in bfloat16 of the weights that autocast would round."""
    if learner.precision != "bf16":
        return {}
    rounded = {id(p) for layer in learner.network.rounded_layers() for p in layer.parameters(recurse=False)}
    named = learner.network.named_parameters()
    return {name: p.detach().to(torch.bfloat16).requires_grad_() for name, p in named if id(p) in rounded}


class DeviceRates(LRSchedule):
    """The learning rates of an optimizer's groups in tensors, which a graph reads, after a schedule that the host
    follows in float64."""

    def __init__(self, optimizer: Optimizer, config: LRScheduleConfig, updates: int) -> None:
        self._optimizer = optimizer
        self._written = float(optimizer.param_groups[0]["lr"])
        self._host = torch.optim.SGD([torch.zeros(1)], lr=self._written)
        super().__init__(self._host, config, updates)
        self._host.step()  # a scheduler that is asked before its optimizer has stepped warns
        self._write()

    def step(self) -> None:
        super().step()
        self._write()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Comes after the optimizer's: what that has rounded to float32, the schedule knows exactly."""
        super().load_state_dict(state)
        known = state.get("_last_lr")
        self._written = float(known[0] if known else self._optimizer.param_groups[0]["lr"])
        self._host.param_groups[0]["lr"] = self._written

    def _write(self) -> None:
        lr = float(self._host.param_groups[0]["lr"])
        if lr != self._written:
            for group in self._optimizer.param_groups:
                group["lr"].fill_(lr)
            self._written = lr
