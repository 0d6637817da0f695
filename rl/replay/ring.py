"""Replay of single frames: every frame is stored once and stacked when it is sampled."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from evaluation.cli.errors import UserError
from rl.replay.prioritized import Prioritized
from rl.replay.uniform import Drawing, Uniform
from rl.step import Step

# What follows an action. IGNORED: no transition starts in this slot (automatic reset, or the ring's cut).
GOES_ON, TERMINATED, TRUNCATED, IGNORED = range(4)


@dataclass(frozen=True)
class Batch:
    """B transitions.

    Attributes:
        observation: (B, stack, *frame_shape), newest frame last: uint8 (B, stack, H, W) in Atari.
        action: int64 (B,).
        reward: float32 (B,), R = sum of gamma^k r_k over the m <= n steps that follow.
        next_observation: the same, m steps later.
        discount: float32 (B,), gamma^m, or 0 if the episode terminated in those steps. Target: R + discount * value.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    discount: Tensor


@dataclass(frozen=True)
class WeightedBatch(Batch):
    """B transitions of a prioritized replay.

    Attributes:
        rows: int64 (B,), where they are: row r is slot r // N of environment r % N.
    """

    rows: Tensor


@dataclass(frozen=True)
class Layout:
    """What a replay holds.

    Attributes:
        capacity: frames; rounded up to a multiple of `num_envs`.
        num_envs: N.
        frame_shape: of one frame: (H, W) in Atari, (d,) in control tasks.
        stack: frames in an observation.
        n_step: rewards summed before bootstrapping.
        gamma: discount per step.
        dtype: name of the frames' NumPy type.

    Raises:
        UserError: a capacity too small to hold a transition of every environment.
    """

    capacity: int
    num_envs: int
    frame_shape: tuple[int, ...]
    stack: int
    n_step: int
    gamma: float
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        least = self.stack + self.n_step + 1
        if self.slots < least:
            what = f"{self.num_envs} environments, a stack of {self.stack} and {self.n_step}-step returns"
            few = f"--replay-size {self.capacity} is too small"
            raise UserError(f"{few}: {what} need at least {least * self.num_envs}")

    @property
    def slots(self) -> int:
        """Time steps in the ring."""
        return -(-self.capacity // self.num_envs)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that a full replay takes: the frames, and 11 bytes each beside them."""
        size = math.prod(self.frame_shape) * np.dtype(self.dtype).itemsize + 4 + 4 + 1 + 1 + 1
        return self.slots * self.num_envs * size

    def saved(self) -> dict[str, Any]:
        """For replay.json."""
        kept = asdict(self) | {"slots": self.slots, "frame_shape": list(self.frame_shape)}
        del kept["capacity"]
        return kept


class FrameReplay:
    """Ring of the newest `capacity` single frames of N environments, from which n-step transitions are drawn.

    Slot t holds, for each environment, the newest frame of an observation, the action that it was answered with, the
    reward and what followed. A stack is rebuilt from the frames before it, not going back past the game's first frame,
    which is repeated instead, as EnvPool does; lost lives do not interrupt it.

    Only *valid* transitions are ever drawn (as in Dopamine's replay: what cannot be rebuilt exactly must not be patched
    up at sampling). A transition is valid if
    - its action was played: automatic resets are none;
    - its n steps are known, or fewer because the episode ended or was cut in them; and
    - all frames of its stack are in the ring. (Of a full ring, the oldest `stack - 1` slots are left out, even
      where a game starts in them and needs no earlier frames.)

    Args:
        layout: its sizes.
        device: where the frames are kept and the batches are made.
        drawing: which of the valid transitions are drawn.

    Attributes:
        priorities: `drawing`, where it is prioritized.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu", drawing: Drawing | None = None) -> None:
        self.layout = layout
        self.device = torch.device(device)
        self._slots, self._num_envs = slots, num_envs = layout.slots, layout.num_envs
        self._drawing = drawing or Uniform()
        self.priorities = drawing if isinstance(drawing, Prioritized) else None
        # Pages of `empty` memory become real when frames are written: a short run never touches the whole ring.
        dtype = getattr(torch, layout.dtype)
        self._frames = torch.empty((slots, num_envs, *layout.frame_shape), dtype=dtype, device=self.device)
        self._rows = self._frames.view(slots * num_envs, math.prod(layout.frame_shape))
        self._action = np.zeros((slots, num_envs), np.int32)
        self._reward = np.zeros((slots, num_envs), np.float32)
        self._end = np.full((slots, num_envs), IGNORED, np.uint8)
        self._age = np.zeros((slots, num_envs), np.uint8)  # frames since the game's first one, at most stack - 1
        self._valid = np.zeros((slots, num_envs), np.bool_)
        self._newest = -1  # slot of the newest frame
        self._filled = 0  # slots written so far, at most all
        self._count = 0  # valid transitions
        self._started = False

    def __len__(self) -> int:
        """Number of valid transitions."""
        return self._count

    def start(self, observation: NDArray[Any]) -> None:
        """Begin with new games in all environments.

        Args:
            observation: (N, stack, *frame_shape) from the environments' `reset`.
        """
        if self._started:
            raise RuntimeError("cut() comes before another start()")
        self._started = True
        self._write(observation, np.ones(self._num_envs, np.bool_))
        self._settle()

    def add(self, actions: ArrayLike, step: Step) -> None:
        """Store the actions (N,) that answered the previous observations, and the step that they led to."""
        if not self._started:
            raise RuntimeError("start() comes before add()")
        slot = self._newest
        self._action[slot] = actions
        self._reward[slot] = step.reward
        end = np.where(step.truncated, TRUNCATED, GOES_ON)
        end[step.terminated] = TERMINATED
        end[step.ignored] = IGNORED
        self._end[slot] = end
        self._write(step.observation, step.new_game)
        self._admit(slot)
        self._settle()

    def cut(self) -> None:
        """End all running episodes as truncated, because their environments are re-created; then comes `start`.

        The newest observations are only bootstrapped from.
        """
        if not self._started:
            return
        self._started = False
        if self._filled > 1:
            last = (self._newest - 1) % self._slots
            self._end[last] = np.where(self._end[last] == GOES_ON, TRUNCATED, self._end[last])
            self._admit(last)
            self._settle()

    def sample(self, batch_size: int, rng: np.random.Generator, drawing: Drawing | None = None) -> Batch:
        """Draw transitions, with replacement; the same `rng` state and content give the same batch.

        Args:
            drawing: in place of the replay's own.

        Raises:
            ValueError: there is no valid transition yet.
        """
        if self._count == 0:
            raise ValueError("no transition to sample yet")
        drawing = drawing or self._drawing
        rows = drawing.draw(self._valid[: self._filled].reshape(-1), batch_size, rng)
        batch = self.transitions(rows)
        return batch if drawing is not self.priorities else WeightedBatch(**vars(batch), rows=self._tensor(rows))

    def transitions(self, rows: NDArray[np.int64]) -> Batch:
        """The transitions that start in these rows (B,), which are valid."""
        slot, env = rows // self._num_envs, rows % self._num_envs
        # The n steps from each slot on; `alive` where the episode has not ended before.
        steps = (slot[:, None] + np.arange(self.layout.n_step)) % self._slots
        end = self._end[steps, env[:, None]]
        alive = np.ones(end.shape, np.bool_)
        np.logical_and.accumulate(end[:, :-1] == GOES_ON, axis=1, out=alive[:, 1:])
        length = alive.sum(axis=1)
        rewards = np.where(alive, self._reward[steps, env[:, None]], 0.0)
        reward = rewards @ self.layout.gamma ** np.arange(self.layout.n_step)
        terminated = (alive & (end == TERMINATED)).any(axis=1)
        discount = np.where(terminated, 0.0, self.layout.gamma**length)
        return Batch(
            observation=self._observations(slot, env),
            action=self._tensor(self._action[slot, env].astype(np.int64)),
            reward=self._tensor(reward.astype(np.float32)),
            next_observation=self._observations((slot + length) % self._slots, env),
            discount=self._tensor(discount.astype(np.float32)),
        )

    def save(self, path: str | Path) -> None:
        """Write the filled part into the folder `path`: `replay.json` and one `replay-*.npy` file per array."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        position = {"newest": self._newest, "filled": self._filled, "count": self._count, "started": self._started}
        (path / "replay.json").write_text(json.dumps(self.layout.saved() | position))
        for name, array in self._arrays().items():
            np.save(path / f"replay-{name}.npy", array[: self._filled])
        with (path / "replay-frames.npy").open("wb") as file:
            shape = (self._filled, *self._frames.shape[1:])
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(self.layout.dtype)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for part in self._parts():
                part.cpu().numpy().tofile(file)
        if self.priorities is not None:
            self.priorities.save(path, self._filled * self._num_envs)

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote: from then on both replays behave alike to the last bit.

        Raises:
            ValueError: it was written by a replay of another size, stack, n-step or discount, or is cut off.
        """
        path = Path(path)
        ring = json.loads((path / "replay.json").read_text())
        for key, value in self.layout.saved().items():
            if ring[key] != value:
                raise ValueError(f"{path}: the replay has {key} {ring[key]}, expected {value}")
        self._newest, self._filled = ring["newest"], ring["filled"]
        self._count, self._started = ring["count"], ring["started"]
        self._end[self._filled :] = IGNORED
        self._valid[self._filled :] = False
        for name, array in self._arrays().items():
            array[: self._filled] = np.load(path / f"replay-{name}.npy")
        with (path / "replay-frames.npy").open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for part in self._parts():
                host = part if part.device.type == "cpu" else torch.empty_like(part, device="cpu")
                if file.readinto(host.numpy().reshape(-1).view(np.uint8).data) != part.numel() * part.element_size():
                    raise ValueError(f"{file.name} is cut off")
                part.copy_(host)
        if self.priorities is not None:
            self.priorities.load(path, self._filled * self._num_envs)

    def _parts(self) -> tuple[Tensor, ...]:
        """The filled slots' frames in views of moderate size: a ring on the GPU never has a whole copy on the CPU."""
        return self._frames[: self._filled].split(1024)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, f"_{name}") for name in ("action", "reward", "end", "age", "valid")}

    def _write(self, observation: NDArray[Any], new_game: NDArray[np.bool_]) -> None:
        """Store the newest frames (N, *frame_shape) in the next slot, which no transition starts from yet."""
        age = np.minimum(self._age[self._newest].astype(np.int64) + 1, self.layout.stack - 1)
        slot = self._newest = (self._newest + 1) % self._slots
        if self._filled == self._slots:  # the oldest frames go, and with them the stacks they are part of
            stacks = (slot + np.arange(self.layout.stack)) % self._slots
            self._count -= int(self._valid[stacks].sum())
            self._valid[stacks] = False
        else:
            self._filled += 1
        self._put(slot, observation[:, -1])
        self._age[slot] = np.where(new_game, 0, age)
        self._end[slot] = IGNORED

    def _put(self, slot: int, frames: NDArray[Any]) -> None:
        """Store frames (N, *frame_shape) in a slot."""
        self._frames[slot].copy_(torch.from_numpy(frames))

    def _settle(self) -> None:
        """The last thing when transitions have come, gone or become valid: they lie in the `_window`."""
        if self.priorities is not None:
            window = self._window()
            rows = window[:, None] * self._num_envs + np.arange(self._num_envs)
            self.priorities.changed(self._tensor(rows.reshape(-1)), self._tensor(self._valid[window].reshape(-1)))

    def _window(self) -> NDArray[np.int64]:
        """Slots (n_step + stack,) in which the newest step can have changed anything: those whose returns may be
        complete now, the newest, and those whose stacks it has taken a frame from."""
        return (self._newest + np.arange(-self.layout.n_step, self.layout.stack)) % self._slots

    def _admit(self, slot: int) -> None:
        """Make valid the transitions whose n steps are complete with the step from `slot`."""
        over = (self._end[slot] == TERMINATED) | (self._end[slot] == TRUNCATED)
        same_episode = self._end[slot] != IGNORED
        for back in range(self.layout.n_step):  # slots not filled yet are IGNORED, which ends the way back
            first = (slot - back) % self._slots
            if back > 0:
                same_episode = same_episode & (self._end[first] == GOES_ON)
            admitted = same_episode & ~self._valid[first]
            if back < self.layout.n_step - 1:
                admitted &= over
            self._valid[first] |= admitted
            self._count += int(admitted.sum())

    def _observations(self, slot: NDArray[np.int64], env: NDArray[np.int64]) -> Tensor:
        """Stacks (B, stack, *frame_shape) that end in the given slots (B,)."""
        back = np.minimum(np.arange(self.layout.stack)[::-1], self._age[slot, env][:, None])
        rows = (slot[:, None] - back) % self._slots * self._num_envs + env[:, None]
        frames = self._rows.index_select(0, self._tensor(rows.reshape(-1)))
        return frames.view(len(slot), self.layout.stack, *self.layout.frame_shape)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
