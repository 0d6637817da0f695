"""The replay on a device: what is drawn, its returns and its stacks never leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.device import Upload
from rl.replay.ring import GOES_ON, TERMINATED, Batch, FrameReplay, Layout
from rl.replay.uniform import Drawing

_MIRRORED = ("action", "reward", "end", "age", "valid")


class DeviceReplay(FrameReplay):
    """A `FrameReplay` whose arrays have mirrors on the device, from which transitions are drawn without waiting.

    The host goes on keeping the books, 11 bytes a frame, so there is one piece of code that says what is valid; files,
    `sample` and `transitions` are the host's. With every step one copy brings the new frames and the slots in which
    anything can have changed.

    Args:
        layout, drawing: as of `FrameReplay`. A drawing without priorities draws all valid rows alike here.
        device: where everything is; on a CPU, for tests, the same code runs.

    Attributes:
        newest: int64 (1,), the slot of the newest frames.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu", drawing: Drawing | None = None) -> None:
        super().__init__(layout, device, drawing)
        n, window = self._num_envs, layout.n_step + layout.stack
        self._mirror = {name: self._tensor(getattr(self, f"_{name}").copy()) for name in _MIRRORED}
        self.newest = torch.zeros(1, dtype=torch.int64, device=self.device)
        fields: dict[str, tuple[tuple[int, ...], Any]] = {"slots": ((window,), np.int64), "newest": ((1,), np.int64)}
        fields |= {name: ((window, n), getattr(self, f"_{name}").dtype) for name in _MIRRORED}
        self._upload = Upload({**fields, "frames": ((n, *layout.frame_shape), layout.dtype)}, self.device)
        self._fresh: NDArray[Any] | None = None  # frames of the newest slot that are not on the device yet
        gammas = layout.gamma ** np.arange(layout.n_step + 1)
        self._gammas = self._tensor(gammas[:-1])
        self._discounts = self._tensor(gammas.astype(np.float32))
        self._ahead = torch.arange(layout.n_step, device=self.device)
        self._back = torch.arange(layout.stack - 1, -1, -1, device=self.device)
        self._envs = torch.arange(n, device=self.device)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Valid rows (count,), all alike, with replacement, by the generator of the device. There must be one."""
        order = self._mirror["valid"][: self._filled].reshape(-1).cumsum(0)
        chosen = torch.randint(self._count, (count,), device=self.device, generator=generator)
        return torch.searchsorted(order, chosen, right=True)

    def gather(self, rows: Tensor) -> Batch:
        """`transitions` of rows (B,) on the device."""
        num_envs = self._num_envs
        slot, env = rows // num_envs, rows % num_envs
        steps = (slot.unsqueeze(1) + self._ahead) % self._slots * num_envs + env.unsqueeze(1)
        end, reward = self._flat("end")[steps], self._flat("reward")[steps]
        over = end != GOES_ON
        alive = over.cumsum(1) - over.long() == 0  # no step before has ended the episode
        length = alive.sum(1)
        terminated = (alive & (end == TERMINATED)).any(1)
        return Batch(
            observation=self._stacks(slot, env),
            action=self._flat("action")[rows].long(),
            reward=(torch.where(alive, reward, 0).double() * self._gammas).sum(1).float(),
            next_observation=self._stacks((slot + length) % self._slots, env),
            discount=torch.where(terminated, 0, self._discounts[length]),
        )

    def newest_observations(self) -> Tensor:
        """What the environments have last returned (N, stack, *frame_shape), from the device's own frames."""
        return self._stacks(self.newest.expand(self._num_envs), self._envs)

    def load(self, path: str | Path) -> None:
        super().load(path)
        for name, mirror in self._mirror.items():
            mirror.copy_(torch.from_numpy(getattr(self, f"_{name}")))
        self.newest.fill_(self._newest)

    def _flat(self, name: str) -> Tensor:
        return self._mirror[name].view(-1)

    def _stacks(self, slot: Tensor, env: Tensor) -> Tensor:
        """`_observations` of slots and environments (B,) on the device."""
        age = self._flat("age")[slot * self._num_envs + env].long()
        back = torch.minimum(self._back, age.unsqueeze(1))
        rows = (slot.unsqueeze(1) - back) % self._slots * self._num_envs + env.unsqueeze(1)
        frames = self._rows.index_select(0, rows.view(-1))
        return frames.view(len(slot), self.layout.stack, *self.layout.frame_shape)

    def _put(self, slot: int, frames: NDArray[Any]) -> None:
        self._fresh = frames

    def _settle(self) -> None:
        window = self._window()
        arrays = {name: getattr(self, f"_{name}")[window] for name in _MIRRORED}
        if self._fresh is not None:
            arrays["frames"] = self._fresh
        sent = self._upload.send(slots=window, newest=self._newest, **arrays)
        if self._fresh is not None:
            self._frames[self._newest].copy_(sent["frames"])
            self._fresh = None
        for name, mirror in self._mirror.items():
            mirror.index_copy_(0, sent["slots"], sent[name])
        self.newest.copy_(sent["newest"])
        if self.priorities is not None:
            rows = sent["slots"].unsqueeze(1) * self._num_envs + self._envs
            self.priorities.changed(rows.view(-1), sent["valid"].view(-1))
