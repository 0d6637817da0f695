"""Environments of Gymnasium's and of the user's own, as the steps that algorithms take.

Gymnasium's vector environments start the next episode in one of three ways (`gymnasium.vector.AutoresetMode`,
https://farama.org/Vector-Autoreset-Mode), and a `Step` knows one:

- *next step*: the step after an end ignores its action and returns the first observation. That is a `Step` as it is.
- *same step*: the step that ends an episode returns the first observation of the next one, and the observation that it
  ended with aside (`info["final_obs"]`). After a termination nobody needs that: the next episode goes on at once. After
  a truncation it is bootstrapped from: it is the observation of that `Step`, and another one follows in which no
  environment plays. All of its rows are `ignored`; those that were cut begin the next game, the others observe once
  more what they did. (A replay leaves out the n-step returns that would span such a pause. Environments that are cut by
  the same limit pause together.)
- *disabled*: episodes that end are reset here, at once; then as above.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import UserCodeError
from rl.guard import Guard
from rl.step import Answer, Step, WholeEpisodes
from rl.tasks.spaces import number_of_actions, observed


class OwnEnvs(WholeEpisodes):
    """N environments of a `gymnasium.vector.VectorEnv`; how their observations (N, 1, *frame) are made of its own, says
    `spaces.observed`.

    Args:
        pool: it is closed with this.
        name: of the environment, in messages.
        seed: for the pool's first `reset`.
        patience: see `Guard`.
        num_envs, reward_clip, reward_scale: see `WholeEpisodes`.

    Attributes:
        spec: what is observed.
        mode: how the pool starts its next episodes.

    Raises:
        UserError: spaces that are not supported, another number of environments, no word on the automatic reset.
    """

    def __init__(
        self,
        pool: VectorEnv[Any, Any, Any],
        num_envs: int,
        *,
        name: str,
        seed: Any = None,
        reward_clip: bool = False,
        reward_scale: float = 1.0,
        patience: float = np.inf,
    ) -> None:
        self.name, self.mode = name, autoreset_mode(pool, name)
        if pool.num_envs != num_envs:
            raise UserError(f"{name}: asked for {num_envs} environments, it made {pool.num_envs}")
        self._observed = observed(pool.single_observation_space, name)
        self.spec = self._observed.spec
        number_of_actions(pool.single_action_space, name)
        actions = SimpleNamespace(action_space=pool.single_action_space)
        super().__init__(actions, num_envs, reward_clip=reward_clip, reward_scale=reward_scale)
        self._pool = pool
        self._first_action = int(getattr(pool.single_action_space, "start", 0))
        self._seed = seed
        self._guard, self._failed = Guard(name, patience), False
        self._none = np.zeros(num_envs, np.bool_)
        self._pause: tuple[NDArray[Any], NDArray[np.bool_]] | None = None  # its observations, and who begins a game

    def reset(self) -> NDArray[Any]:
        with self._call("reset"):
            observation, info = self._pool.reset(seed=self._seed)
        self._seed, self._pause = None, None  # a second reset goes on with the pool's own generators
        self._over = np.zeros(self.num_envs, np.bool_)
        return self._started(observation, info)

    def close(self) -> None:
        """Free the environments. Of those that failed only the processes are ended: whatever else hangs there may."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if isinstance(pool, AsyncVectorEnv):
            pool.close(terminate=self._failed)
        elif not self._failed:
            with self._call("close"):
                pool.close()

    def receive(self) -> Step:
        if self._pause is not None:
            observation, new_game = self._pause
            self._pause = None
            return self._step(observation, self._none, ignored=~self._none, new_game=new_game)
        with self._call("step"):
            answer = self._pool.step(self._actions.astype(np.int64) + self._first_action)
        over = np.asarray(answer[2], np.bool_) | np.asarray(answer[3], np.bool_)
        if self.mode is AutoresetMode.NEXT_STEP:
            ignored, self._over = self._over, over
            assert ignored is not None
            return self._result(ignored, over & ~ignored, answer)
        return self._ended_at_once(over, answer)

    def reset_ended(self) -> Step | None:
        return self.receive() if self._pause is not None else super().reset_ended()

    def _started(self, observation: NDArray[Any], info: Mapping[str, Any]) -> NDArray[Any]:
        return self._seen(observation)

    def _result(self, ignored: NDArray[np.bool_], over: NDArray[np.bool_], answer: Answer) -> Step:
        observation, reward, terminated, *_ = answer
        return self._step(
            self._seen(observation),
            np.where(ignored, 0, reward),
            terminated=over & np.asarray(terminated, np.bool_),
            over=over,
            ignored=ignored,
            new_game=ignored,
        )

    def _ended_at_once(self, over: NDArray[np.bool_], answer: Answer) -> Step:
        """Same step, and disabled, which is made the same here."""
        observation, reward, terminated, _, info = answer
        terminated = over & np.asarray(terminated, np.bool_)
        cut = over & ~terminated
        last = seen = self._seen(observation)
        if self.mode is AutoresetMode.DISABLED and over.any():
            with self._call("reset"):
                first, _ = self._pool.reset(options={"reset_mask": over.copy()})
            seen = last.copy()
            seen[over] = self._seen(first)[over]
        elif cut.any():
            last = seen.copy()
            last[cut] = self._final(info, cut)
        if cut.any():
            self._pause = seen, cut
        # Those that terminated begin the next game here and now, those that were cut after the pause.
        observation = np.where(cut[(..., *[None] * (seen.ndim - 1))], last, seen)
        return self._step(observation, reward, terminated=terminated, over=over, new_game=terminated)

    def _final(self, info: Mapping[str, Any], cut: NDArray[np.bool_]) -> NDArray[Any]:
        """The observations that episodes were cut at, one for each that was."""
        final = info.get("final_obs", info.get("final_observation"))  # as Gymnasium called it before 1.0
        if final is None:
            raise UserCodeError(
                f"{self.name}: an episode was truncated and reset in the same step, without info['final_obs']: there "
                "is nothing to bootstrap from. Put it there, or use AutoresetMode.NEXT_STEP"
            )
        return self._seen(np.stack([np.asarray(final[i]) for i in np.flatnonzero(cut)]))

    def _step(
        self, observation: NDArray[Any], reward: NDArray[Any], *, new_game: NDArray[np.bool_], **rows: NDArray[np.bool_]
    ) -> Step:
        """The record; rows that are not given are False everywhere."""
        terminated, over, ignored = (rows.get(name, self._none) for name in ("terminated", "over", "ignored"))
        score = np.asarray(reward, np.float32)
        return self._record(observation, score, terminated=terminated, over=over, ignored=ignored, new_game=new_game)

    def _seen(self, observation: Any) -> NDArray[Any]:
        return self._observed.convert(observation)

    @contextlib.contextmanager
    def _call(self, what: str) -> Iterator[None]:
        try:
            with self._guard.call(what):
                yield
        except BaseException:
            self._failed = True
            raise


def autoreset_mode(pool: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    """How a vector environment starts its next episodes.

    Raises:
        UserError: it does not say.
    """
    found = pool.metadata.get("autoreset_mode")
    try:
        return found if isinstance(found, AutoresetMode) else AutoresetMode(found)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        says = "does not say" if found is None else f"says {found!r}"
        raise UserError(
            f"{name}: metadata['autoreset_mode'] {says}, how it starts its next episode: set it to the one of "
            f"gymnasium.vector's {modes} that it follows (a wrong one makes wrong returns)"
        ) from None
