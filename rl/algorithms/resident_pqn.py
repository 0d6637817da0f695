"""PQN on a device: the rollouts lie there, and the updates read them in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.algorithms.resident import Resident
from rl.algorithms.rollout import Floats, Rollout
from rl.device import Download, Upload
from rl.graphs import Captured
from rl.profile import UPLOAD, WAIT, Profile

if TYPE_CHECKING:
    from rl.algorithms.pqn import RolloutLearner
    from rl.config import TrainConfig


class ResidentPQN(Resident["RolloutLearner"]):
    """Acting on the newest observations and updates on a rollout, a graph each.

    Args:
        rollouts: each gets a graph of its own, which knows where its observations lie.
    """

    def __init__(
        self, config: TrainConfig, learner: RolloutLearner, rollouts: list[Rollout], updates: int, profile: Profile
    ) -> None:
        super().__init__(config, learner, updates, profile)
        device, num_envs = learner.device, config.env.num_envs
        shape = (config.pqn.rollout_steps, num_envs)
        self._upload = Upload({"action": (shape, np.int64), "returns": (shape, np.float32)}, device)
        self._action = torch.zeros(shape, dtype=torch.int64, device=device)
        self._returns = torch.zeros(shape, device=device)
        self._updates = {rollout: Captured(self._update_on(rollout), self._graphs) for rollout in rollouts}
        self._act = Captured(self._look, self._other_graphs)
        self._best = Download((num_envs,), torch.float32, device)
        self._greedy = Download((num_envs,), torch.int64, device)

    def look(self, observation: Tensor) -> tuple[Floats, NDArray[np.int64]]:
        """max_a Q (N,) and the greedy actions (N,) for observations (N, stack, ...)."""
        best, greedy = self._act(observation)
        self._best.ask(best)
        self._greedy.ask(greedy)
        with self._profile(WAIT):
            return self._best.take(), self._greedy.take()

    def begin(self, rollout: Rollout) -> None:
        """Send what the updates need besides the observations."""
        with self._profile(UPLOAD):
            sent = self._upload.send(action=rollout.action, returns=rollout.returns())
            self._action.copy_(sent["action"])
            self._returns.copy_(sent["returns"])

    def rows(self, rows: Tensor) -> Tensor:
        """Transitions of the updates to come (updates, B), on the device."""
        device = self._learner.device
        return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows

    def update(self, rollout: Rollout, row: Tensor) -> dict[str, Tensor]:
        """`RolloutLearner.update` on transitions (B,) of the rollout that was begun last. The next overwrites it."""
        values = self._updates[rollout](row, eager=self._learner.watched(1))
        self._learner.lr_schedule.step()
        return values

    def _look(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        best = self._learner.values(observation).max(1)
        return best.values, best.indices

    def _update_on(self, rollout: Rollout) -> Any:
        def update(row: Tensor) -> dict[str, Tensor]:
            samples = (rollout.observation[:-1], self._action, self._returns)
            part = tuple(tensor.flatten(0, 1)[row] for tensor in samples)
            losses, q = self._td_losses(part)
            loss = losses.mean()
            self._descend(loss, part)
            return {"loss": loss.detach(), "q": q.detach().mean()}

        return update

    def _captured(self) -> list[Captured[Any]]:
        return [*self._updates.values(), self._act]
