"""Q-learning on a device: batches are drawn from a `DeviceReplay`, actions are chosen from its newest stacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.runs import seeding
from rl.algorithms.resident import Resident
from rl.device import Download
from rl.graphs import Captured
from rl.profile import SAMPLE, WAIT, Profile
from rl.replay.device_ring import DeviceReplay

if TYPE_CHECKING:
    from rl.algorithms.dqn import QLearner
    from rl.config import TrainConfig


class ResidentDQN(Resident["QLearner"]):
    """Acting and updates of a learner on a replay that lies on its device.

    Updates that are due together are one graph: their transitions are gathered, and their next observations valued by
    the target network, at once. Noisy layers, whose noise is drawn between updates, and a learning rate that moves make
    a graph of each.
    """

    def __init__(
        self, config: TrainConfig, learner: QLearner, replay: DeviceReplay, updates: int, profile: Profile
    ) -> None:
        super().__init__(config, learner, updates, profile)
        self._replay, device = replay, learner.device
        self._together = not config.network.noisy and not config.lr_schedule.moves
        self._generator = torch.Generator(device).manual_seed(seeding.derive(config.seed, "replay"))
        self._beta = torch.ones((), device=device)
        self._update = Captured(self._several_updates, self._graphs)
        self._act = Captured(self._greedy, self._other_graphs)
        self._draw = Captured(self._weighted_rows, self._other_graphs)
        self._actions = Download((config.env.num_envs,), torch.int64, device)

    def greedy(self) -> NDArray[np.int64]:
        """The greedy actions (N,) for the newest observations: what a step of the environments has to wait for."""
        self._actions.ask(self._act())
        with self._profile(WAIT):
            return self._actions.take()

    def updates(self, count: int, beta: float) -> Iterator[dict[str, Tensor]]:
        """`count` updates on batches that are drawn together.

        Yields:
            What `QLearner.updates` does, of one or several updates (k,). The next ones overwrite it.
        """
        size, learner = self._config.batch_size, self._learner
        with self._profile(SAMPLE):
            if self._replay.priorities is None:
                drawn = [self._replay.draw(count * size, self._generator).view(count, size)]
            else:
                self._beta.fill_(beta)
                shape = (count * size,)
                uniform = torch.rand(shape, dtype=torch.float64, device=learner.device, generator=self._generator)
                drawn = list(self._draw(uniform))
        together = count if self._together else 1
        for some in zip(*(tensor.split(together) for tensor in drawn), strict=True):
            learner.renew()
            values = self._update(*some, eager=learner.watched(together))
            for _ in range(together):
                learner.lr_schedule.step()
            yield values

    def _greedy(self) -> Tensor:
        return self._learner.values(self._replay.newest_observations()).argmax(1)

    def _weighted_rows(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and weights, (updates, B) each."""
        priorities = self._replay.priorities
        assert priorities is not None
        rows = priorities.find(uniform).view(-1, self._config.batch_size)
        return rows, priorities.weights(rows, self._beta)

    def _several_updates(self, rows: Tensor, *weights: Tensor) -> dict[str, Tensor]:
        """Updates, one after the other, on rows of the replay (k, B)."""
        learner, priorities, done = self._learner, self._replay.priorities, []
        tensors = learner.part(self._replay.gather(rows.view(-1)), *(weight.view(-1) for weight in weights))
        for k, part in enumerate(zip(*(tensor.chunk(len(rows)) for tensor in tensors), strict=True)):
            losses, q = self._td_losses(part)
            loss = learner.weighted(losses, part).mean()
            self._descend(loss, part, k)
            if priorities is not None:
                priorities.update(rows[k], learner.errors(losses))
            done.append((loss.detach(), q.detach().mean()))
        return dict(zip(("loss", "q"), map(torch.stack, zip(*done, strict=True)), strict=True))

    def _captured(self) -> list[Captured[Any]]:
        return [self._update, self._act, self._draw]

    @property
    def captured(self) -> bool:
        """Whether updates are replayed by now."""
        return self._update.captured

    def state_dict(self) -> dict[str, Any]:
        """The generator of the draws."""
        return {"device": self._learner.device.type, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; the generators of two kinds of device have nothing to tell each other."""
        if state.get("device") == self._learner.device.type:
            self._generator.set_state(state["generator"].cpu())
