"""Q-learning that lives on a device: the host asks for actions and sends frames, and waits for nothing else.

Batches are drawn from a `DeviceReplay`, actions are chosen from its newest stacks. Where the optimizer allows it, an
update (gather, targets, loss, gradients, step) is one CUDA graph, and so are acting and a prioritized draw: a launch
each, where PyTorch would launch some hundred kernels. Updates that somebody looks at run kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from evaluation.cli.errors import UserError
from evaluation.runs import seeding
from evaluation.runs.lr_schedule import LRSchedule, LRScheduleConfig
from rl import graphs
from rl.device import Download
from rl.graphs import Captured
from rl.profile import SAMPLE, WAIT, Profile
from rl.replay.device_ring import DeviceReplay

if TYPE_CHECKING:
    from rl.algorithms.dqn import QLearner
    from rl.config import TrainConfig


def wanted(config: TrainConfig, device: torch.device) -> bool:
    """Whether a run is resident: on every GPU; on a CPU as a rehearsal of the same code."""
    return device.type != "cpu" or config.cuda_graphs == "always"


class Resident:
    """Acting and updates of a learner on a replay that lies on its device.

    Args:
        updates: of the whole run, for the learning rate's schedule.
    """

    def __init__(
        self, config: TrainConfig, learner: QLearner, replay: DeviceReplay, updates: int, profile: Profile
    ) -> None:
        self._config, self._learner, self._replay, self._profile = config, learner, replay, profile
        device, optimizer = learner.device, learner.optimizer
        try:
            self._graphs = graphs.choose(config.cuda_graphs, device, optimizer)
        except ValueError as error:
            raise UserError(
                f"--cuda-graphs always: {error}; leave it at auto, or choose another --optimizer"
            ) from error
        graphs.prepare(optimizer, device, self._graphs is not None)
        if self._graphs is not None:
            learner.lr_schedule = DeviceRates(optimizer, config.lr_schedule, updates)
        # Gradients stay where they are: a graph writes to the same places as an update beside it.
        self._parameters = list(learner.network.parameters())
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._generator = torch.Generator(device).manual_seed(seeding.derive(config.seed, "replay"))
        self._beta = torch.ones((), device=device)
        self._update = Captured(self._one_update, self._graphs)
        others = graphs.choose(config.cuda_graphs, device)
        self._act = Captured(self._greedy, others)
        self._draw = Captured(self._weighted_rows, others)
        self._actions = Download((config.env.num_envs,), torch.int64, device)

    def greedy(self) -> NDArray[np.int64]:
        """The greedy actions (N,) for the newest observations: what a step of the environments has to wait for."""
        self._actions.ask(self._act())
        with self._profile(WAIT):
            return self._actions.take()

    def updates(self, count: int, beta: float) -> Iterator[dict[str, Tensor]]:
        """`count` updates on batches that are drawn together.

        Yields:
            After each, what `QLearner.updates` does. The next update overwrites it.
        """
        size = self._config.batch_size
        with self._profile(SAMPLE):
            if self._replay.priorities is None:
                drawn = [self._replay.draw(count * size, self._generator).view(count, size)]
            else:
                self._beta.fill_(beta)
                shape, device = (count * size,), self._learner.device
                uniform = torch.rand(shape, dtype=torch.float64, device=device, generator=self._generator)
                drawn = list(self._draw(uniform))
        for batch in zip(*drawn, strict=True):
            self._learner.renew()
            values = self._update(*batch, eager=self._learner.watched())
            self._learner.lr_schedule.step()
            yield values

    def _greedy(self) -> Tensor:
        return self._learner.values(self._replay.newest_observations()).argmax(1)

    def _weighted_rows(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and weights, (updates, B) each."""
        priorities = self._replay.priorities
        assert priorities is not None
        rows = priorities.find(uniform).view(-1, self._config.batch_size)
        return rows, priorities.weights(rows, self._beta)

    def _one_update(self, rows: Tensor, *weights: Tensor) -> dict[str, Tensor]:
        learner, batch = self._learner, self._replay.gather(rows)
        part = learner.part(batch, *weights)
        losses, q = learner.td_losses(part)
        gradients = torch.autograd.grad(learner.weighted(losses, part).mean(), self._parameters)
        torch._foreach_copy_(self._gradients, gradients)
        with learner.around_step(part):
            learner.optimizer.step()
        if self._replay.priorities is not None:
            self._replay.priorities.update(rows, learner.errors(losses))
        return {"loss": learner.weighted(losses.detach(), part).mean(), "q": q.detach().mean()}

    @property
    def captured(self) -> bool:
        """Whether updates are replayed by now."""
        return self._update.captured

    def loaded(self) -> None:
        """The learner has loaded a state: some of its tensors are new ones."""
        graphs.prepare(self._learner.optimizer, self._learner.device, self._graphs is not None)
        for captured in (self._update, self._act, self._draw):
            captured.forget()

    def state_dict(self) -> dict[str, Any]:
        """The generator of the draws."""
        return {"device": self._learner.device.type, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the generators of two kinds of device have nothing to tell each other."""
        if state.get("device") == self._learner.device.type:
            self._generator.set_state(state["generator"].cpu())


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
