"""Control tasks: Gymnasium's classic control and Box2D environments in EnvPool, observed as vectors.

They cost a hundredth of an Atari game and are learned in seconds to minutes by a small MLP, so that ten seeds of many
settings fit on a laptop. EnvPool reports an end at the very step limit as truncated only (seen in 1.2.5): each task's
rule says whether it had ended as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.step import Answer, Step, WholeEpisodes

Rows = NDArray[np.float32]
Ended = Callable[[Rows, Rows], NDArray[np.bool_]]


class ControlEnvs(WholeEpisodes):
    """N environments of a control task, with observations (N, 1, d), float32.

    Args:
        ended: the task's rule for the end of an episode: (observations (N, d), rewards (N,)) after a step -> (N,).
        pool, num_envs, reward_clip, reward_scale: see `WholeEpisodes`.
    """

    def __init__(
        self, pool: Any, num_envs: int, ended: Ended, *, reward_clip: bool = False, reward_scale: float = 1.0
    ) -> None:
        super().__init__(pool, num_envs, reward_clip=reward_clip, reward_scale=reward_scale)
        self._ended = ended

    def _started(self, observation: NDArray[Any], info: Mapping[str, Any]) -> NDArray[Any]:
        return np.asarray(observation[:, None], np.float32)

    def _result(self, ignored: NDArray[np.bool_], over: NDArray[np.bool_], answer: Answer) -> Step:
        observation, reward, terminated, _, _ = answer
        ended = over & (terminated | self._ended(observation, reward))
        score = np.where(ignored, np.float32(0), reward)
        return self._record(observation[:, None], score, terminated=ended, over=over, ignored=ignored, new_game=ignored)
