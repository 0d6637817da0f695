"""What PQN learns from: the latest steps of all environments, and the lambda returns of their transitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rl.device import Upload
from rl.step import Step
from rl.tasks import ObservationSpec

Floats = NDArray[np.float32]
_KEPT = ("action", "reward", "next_value", "discount", "goes_on", "valid")
BYTES = 8 + 4 + 4 + 4 + 1 + 1  # of these, a transition


def lambda_returns(
    reward: Floats, next_value: Floats, discount: Floats, goes_on: NDArray[np.bool_], td_lambda: float
) -> Floats:
    """Returns (T, N) of T steps of N environments, from the last to the first (Gallici et al. 2024; Daley &
    Amato 2019, arXiv 1810.09967):

        G_t = r_t + d_t ((1 - lambda) v_t + lambda G_{t+1})    where the episode goes on behind step t
        G_t = r_t + d_t v_t                                    where it does not, and in the last row

    Args:
        reward: r_t (T, N).
        next_value: v_t, value of the observation that step t led to: max_a Q(s_{t+1}, a).
        discount: d_t, gamma, or 0 where step t was terminal: then v_t counts for nothing.
        goes_on: step t + 1 goes on from where step t led to. Not behind a step that was terminal, truncated or cut.
    """
    returns = np.empty_like(reward)
    after = next_value[-1]
    for t in reversed(range(len(reward))):
        value = next_value[t]
        mixed = value + np.float32(td_lambda) * (after - value)
        after = returns[t] = reward[t] + discount[t] * np.where(goes_on[t], mixed, value)
    return returns


class Rollout:
    """T steps of N environments.

    Row t holds the observations that were answered, the actions, the rewards and what followed. An automatic reset is a
    row like any other, but no transition: its action was ignored. The value that a step leads to is that of the
    observation in the next row, also where the step was truncated: EnvPool returns the game's last observation with the
    truncation and the new game's first one in the step after it.

    Calls: `start`, then over and over `led_to` (values of `newest`) and `add`; before `returns`, `led_to` once more.

    Args:
        steps: T.
        num_envs: N.
        spec: of an observation.
        gamma: discount per step.
        td_lambda: lambda of the returns.
        device: where the observations are kept.
        stacks: they are made there of the newest frames of each step, which alone go up.

    Attributes:
        observation: (T + 1, N, stack, ...): what was answered and, in the last row, what all led to. The other arrays
            are NumPy's, (T, N).
        position: rows that are filled; of `observation` one more is.
        seen: rows of `observation` that hold any, of this rollout or the one before.
    """

    def __init__(
        self,
        steps: int,
        num_envs: int,
        spec: ObservationSpec,
        gamma: float,
        td_lambda: float,
        device: torch.device | str = "cpu",
        stacks: bool = False,
    ) -> None:
        self.gamma, self.td_lambda = np.float32(gamma), td_lambda
        shape = (steps, num_envs)
        dtype = torch.from_numpy(np.empty(0, spec.dtype)).dtype
        self.observation = torch.empty((steps + 1, num_envs, *spec.shape), dtype=dtype, device=device)
        fields = {"frame": ((num_envs, *spec.frame), spec.dtype), "new_game": ((num_envs,), np.bool_)}
        self._upload = Upload(fields, self.observation.device) if stacks else None
        self.action = np.zeros(shape, np.int64)
        self.reward = np.zeros(shape, np.float32)
        self.next_value = np.zeros(shape, np.float32)
        self.discount = np.zeros(shape, np.float32)
        self.goes_on = np.zeros(shape, np.bool_)
        self.valid = np.zeros(shape, np.bool_)
        self.position = self.seen = 0
        self._waits = False  # the newest step's next value is not known yet

    @staticmethod
    def nbytes(steps: int, num_envs: int, spec: ObservationSpec) -> int:
        """Bytes that it takes."""
        return num_envs * ((steps + 1) * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + steps * BYTES)

    @property
    def full(self) -> bool:
        return self.position == len(self.action)

    @property
    def newest(self) -> Tensor:
        """The observations (N, stack, ...) that the next actions answer, on the device."""
        return self.observation[self.position]

    def start(self, observation: NDArray[Any]) -> None:
        """Go on from these observations (N, stack, ...): new games. The one copy that a device is waited for."""
        self._put(torch.from_numpy(observation))

    def _put(self, observation: Tensor) -> None:
        self.newest.copy_(observation)
        self.seen = max(self.seen, self.position + 1)

    def _put_frames(self, frame: Tensor, new_game: Tensor) -> None:
        """Frames (N, ...), each behind its environment's last ones; of a new game (N,) its stack's only one."""
        frame, before = frame.unsqueeze(1), self.observation[self.position - 1]
        new_game = new_game.view(-1, *[1] * (before.ndim - 1))
        self._put(torch.cat((torch.where(new_game, frame, before[:, 1:]), frame), 1))

    def led_to(self, value: Floats) -> None:
        """Values (N,) of the newest observations: what the last step led to, unless it was cut."""
        if self._waits:
            self.next_value[self.position - 1] = value
            self._waits = False

    def add(self, actions: ArrayLike, step: Step) -> None:
        """The actions (N,) that answered the newest observations, and the step that they led to."""
        t = self.position
        self.action[t] = actions
        self.reward[t] = step.reward
        self.discount[t] = np.where(step.terminated, np.float32(0), self.gamma)
        self.goes_on[t] = ~(step.terminated | step.truncated | step.ignored)
        self.valid[t] = ~step.ignored
        if t:  # where one's own environments pause for the reset of others, too, nothing is chained over the pause
            self.goes_on[t - 1] &= ~step.ignored
        self.position += 1
        if self._upload is None:
            self._put(torch.from_numpy(step.observation))
        else:
            self._put_frames(**self._upload.send(frame=step.observation[:, -1], new_game=step.new_game))
        self._waits = True

    def cut(self) -> None:
        """The environments are made anew: nothing goes on from the last step. Comes after its `led_to`."""
        if self.position:
            self.goes_on[self.position - 1] = False

    def returns(self) -> Floats:
        """Lambda returns (T, N) of a full rollout; those of automatic resets mean nothing."""
        return lambda_returns(self.reward, self.next_value, self.discount, self.goes_on, self.td_lambda)

    def remembered(self) -> tuple[NDArray[np.bool_], Floats]:
        """Which transitions (T, N) are there as a whole, and all lambda returns (T, N), of which only theirs mean
        anything: while a rollout is played, its own so far, up to where it is, and those of the one before it that are
        not overwritten yet."""
        if self.full:
            return self.valid, self.returns()
        known, rest = self.position - self._waits, self.position + 1  # the row between has a new observation already
        valid, returns = self.valid.copy(), np.zeros_like(self.reward)
        valid[known:rest] = False
        for rows in (slice(0, known), slice(rest, None)):
            if valid[rows].size:
                reward, next_value, discount = self.reward[rows], self.next_value[rows], self.discount[rows]
                returns[rows] = lambda_returns(reward, next_value, discount, self.goes_on[rows], self.td_lambda)
        return valid, returns

    def follow(self, rollout: Rollout) -> None:
        """Begin where another one (or this one itself) has ended, in the place of what is here."""
        newest, self.position = rollout.newest, 0
        self._put(newest)

    def states(self, count: int, rng: np.random.Generator) -> Tensor | None:
        """`count` of the observations, drawn with replacement; None: there are none yet."""
        if not self.seen:
            return None
        rows = self.observation[: self.seen].flatten(0, 1)
        return rows[torch.from_numpy(rng.integers(len(rows), size=count)).to(rows.device)]

    def save(self, path: Path) -> None:
        """Write it to a file, compressed: frames are mostly background."""
        kept = {name: getattr(self, name) for name in _KEPT}
        place = np.array([self.position, self.seen, self._waits])
        with path.open("wb") as file:
            np.savez_compressed(file, observation=self.observation[: self.seen].cpu().numpy(), place=place, **kept)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        with np.load(path) as saved:
            self.position, self.seen, self._waits = (
                int(saved["place"][0]),
                int(saved["place"][1]),
                bool(saved["place"][2]),
            )
            self.observation[: self.seen].copy_(torch.from_numpy(saved["observation"]))
            for name in _KEPT:
                getattr(self, name)[:] = saved[name]
