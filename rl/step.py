"""What a step of environments returned, and the scores of the games played: the same for Atari and control tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Step:
    """What one step of N environments returned; every array has N rows.

    Attributes:
        observation: uint8 (N, stack, H, W) of frames, newest last, or float32 (N, 1, d) of vectors; uint8
            (N, 1, C, H, W) of pictures with C channels.
        reward: float32, the reward to learn from (clipped and scaled as configured).
        score: float32, the true reward.
        terminated: the learning episode ended in this step, by a lost life or the game's end: no bootstrap.
        truncated: the step limit cut the game in this step, and it had not ended: bootstrap from `observation`.
        game_over: a game ended or was cut in this step: its score is complete.
        ignored: the action was ignored: an automatic reset, or a pause in which the environment did nothing. Not a
            transition; reward and score are 0.
        new_game: `observation` starts a game: its stack holds `stack` copies of one frame (where ignored; where
            terminated, too, in environments of a single frame that reset in the same step). Elsewhere it is the last
            stack, moved on by one frame.
        lives: int32, lives left (0 where there are none).
    """

    observation: NDArray[Any]
    reward: NDArray[np.float32]
    score: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    game_over: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    new_game: NDArray[np.bool_]
    lives: NDArray[np.int32]


Answer = tuple[Any, ...]  # of a pool's `step`: observation, reward, terminated, truncated, info


class Environments(ABC):
    """N environments stepped together, behind EnvPool's Gymnasium interface.

    EnvPool (https://envpool.readthedocs.io) resets in the *next* step: the step after `terminated | truncated` ignores
    its action and returns the first observation of the next episode.

    Args:
        pool: EnvPool or anything with its `reset() -> observation, info`,
            `step(actions) -> observation, reward, terminated, truncated, info`, and `action_space.n`. It must return
            fresh arrays in every step. With `send(actions)` and `recv()`, these two are used in the place of `step`.
        num_envs: N.
        reward_scale: factor on the reward to learn from, after the clip.

    Attributes:
        num_actions: number of actions A.
    """

    def __init__(self, pool: Any, num_envs: int, reward_scale: float) -> None:
        self._pool = pool
        self._reward_scale = np.float32(reward_scale)
        self.num_envs = num_envs
        self.num_actions = int(pool.action_space.n)
        self._sends = hasattr(pool, "send")
        self._over: NDArray[np.bool_] | None = None  # episodes, in the previous step: this one resets; None: no reset()

    def reset(self) -> NDArray[Any]:
        """Start a new game in every environment; returns the observations (N, stack, ...)."""
        observation, info = self._pool.reset()
        self._over = np.zeros(self.num_envs, np.bool_)
        return self._started(observation, info)

    def step(self, actions: ArrayLike) -> Step:
        """Step all environments with actions (N,), integers in [0, A): `send` and `receive`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: ArrayLike) -> None:
        """Begin a step; then comes `receive`. Where the pool can (EnvPool), its threads step meanwhile.

        Raises:
            ValueError: actions of another shape, type or range (EnvPool would read past the end of its action table).
        """
        if self._over is None:
            raise RuntimeError("reset() comes before step()")
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"actions must be {self.num_envs} integers, got {array.dtype} of shape {array.shape}")
        if array.min() < 0 or array.max() >= self.num_actions:
            raise ValueError(f"actions must be in [0, {self.num_actions}), got {array.tolist()}")
        self._actions = array.astype(np.int32)
        if self._sends:
            self._pool.send(self._actions)

    def receive(self) -> Step:
        """What the step returned that `send` has begun."""
        assert self._over is not None
        self._answer = answer = self._pool.recv() if self._sends else self._pool.step(self._actions)
        _, _, terminated, truncated, _ = answer
        ignored = self._over
        self._over = (terminated | truncated) & ~ignored
        return self._result(ignored, self._over, answer)

    def reset_ended(self) -> Step | None:
        """Make the automatic resets of the environments whose episode ended in the last step now, while the others
        stand still; None: there are none. Of the rows of the others nothing is to be read.

        For libraries that expect a reset within the step that ended an episode. The pool's `step` must take the numbers
        of the environments to step as a second argument, as EnvPool's does.
        """
        if self._over is None:
            raise RuntimeError("reset() comes before reset_ended()")
        if not self._over.any():
            return None
        if self._over.all():
            return self.step(np.zeros(self.num_envs, np.int64))
        over, self._over = self._over, np.zeros(self.num_envs, np.bool_)
        which = np.flatnonzero(over).astype(np.int32)
        observation, *_, info = self._pool.step(np.zeros(len(which), np.int32), which)
        nothing = np.zeros(self.num_envs, np.bool_)
        whole = self._answer[0].copy()
        whole[which] = observation
        lives = self._answer[4].get("lives", np.zeros(self.num_envs, np.int32)).copy()
        lives[which] = info.get("lives", 0)
        quiet = {"reward": np.zeros(self.num_envs, np.float32), "terminated": nothing, "lives": lives}
        return self._result(over, nothing, (whole, quiet["reward"], nothing, nothing, quiet))

    @abstractmethod
    def _started(self, observation: NDArray[Any], info: Mapping[str, Any]) -> NDArray[Any]:
        """What `reset` returns."""

    @abstractmethod
    def _result(self, ignored: NDArray[np.bool_], over: NDArray[np.bool_], answer: Answer) -> Step:
        """What the pool's answer means, where the episodes that are `over` have ended or were cut in this step."""

    def close(self) -> None:
        """Free the environments and their threads. (EnvPool's own `close` does not; dropping the pool does.)"""
        self._pool = None


class WholeEpisodes(Environments):
    """Environments without lives: a learning episode is a whole game.

    Args:
        reward_clip: learn from the reward's sign.
        pool, num_envs, reward_scale: see `Environments`.
    """

    def __init__(self, pool: Any, num_envs: int, *, reward_clip: bool, reward_scale: float) -> None:
        super().__init__(pool, num_envs, reward_scale)
        self._reward_clip = reward_clip
        self._lives = np.zeros(num_envs, np.int32)

    def _record(
        self,
        observation: NDArray[Any],
        score: NDArray[np.float32],
        *,
        terminated: NDArray[np.bool_],
        over: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        new_game: NDArray[np.bool_],
    ) -> Step:
        """The step in which the episodes that are `over` have ended, or were cut where they are not `terminated`."""
        learned = np.sign(score) if self._reward_clip else score
        return Step(
            observation=observation,
            reward=learned * self._reward_scale,
            score=score,
            terminated=terminated,
            truncated=over & ~terminated,
            game_over=over,
            ignored=ignored,
            new_game=new_game,
            lives=self._lives,
        )


class EpisodeTracker:
    """Scores of finished games: true rewards summed from a game's start to its end or cut, over lost lives.

    Attributes:
        scores: of the latest `window` finished games, oldest first.
        finished: number of games finished so far.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.scores: deque[float] = deque(maxlen=window)
        self.finished = 0
        self._interval: list[float] = []  # finished since the last `take`
        self._running = np.zeros(num_envs)

    def add(self, step: Step) -> list[float]:
        """Take in one step; returns the scores of the games that it finished, in the environments' order."""
        self._running += step.score
        finished: list[float] = self._running[step.game_over].tolist()
        self._running[step.game_over] = 0.0
        self.scores.extend(finished)
        self._interval += finished
        self.finished += len(finished)
        return finished

    def cut(self) -> None:
        """Forget the games in flight: their environments are re-created."""
        self._running[:] = 0.0

    def forget(self) -> None:
        """Forget the scores so far as well: what follows is another game."""
        self.scores.clear()
        self._interval = []

    def take(self) -> dict[str, float]:
        """Mean and number of the scores since the last call; nothing where no game has finished."""
        scores, self._interval = self._interval, []
        return {"return": float(np.mean(scores)), "episodes": len(scores)} if scores else {}

    def recent_mean(self) -> float:
        """Mean of `scores`; NaN as long as no game is finished."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "scores": list(self.scores),
            "finished": self.finished,
            "interval": self._interval,
            "running": self._running.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.scores = deque(state["scores"], maxlen=self.scores.maxlen)
        self.finished = state["finished"]
        self._interval = list(state.get("interval", ()))
        self._running = np.array(state["running"], np.float64)


def environment_seeds(seed: int, num_envs: int) -> NDArray[np.int64]:
    """Seeds (N,) of N environments, made from one.

    EnvPool would give environment i the seed `seed + i`: neighbouring seeds would share most environments.
    """
    return 1 + np.random.SeedSequence(seed).generate_state(num_envs).astype(np.int64) % (2**31 - 2)
