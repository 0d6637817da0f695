"""Steps of environments that nobody plays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rl.replay.ring import FrameReplay
from rl.step import Step


def random_steps(rng: np.random.Generator, num_envs: int, stack: int, side: int) -> Callable[[], Step]:
    """Steps of environments that end, are cut and reset at random, with stacks as EnvPool makes them."""
    frames = rng.integers(0, 256, (num_envs, stack, side, side), dtype=np.uint8)
    over = np.zeros(num_envs, np.bool_)

    def step() -> Step:
        nonlocal frames, over
        ignored = over
        terminated = (rng.random(num_envs) < 0.1) & ~ignored
        truncated = (rng.random(num_envs) < 0.05) & ~ignored & ~terminated
        over = terminated | truncated
        new_game = ignored & (rng.random(num_envs) < 0.5)
        newest = rng.integers(0, 256, (num_envs, 1, side, side), dtype=np.uint8)
        frames = np.concatenate((frames[:, 1:], newest), 1)
        frames[new_game] = newest[new_game]
        reward = np.where(ignored, 0, rng.integers(-1, 2, num_envs)).astype(np.float32)
        return Step(
            observation=frames.copy(), reward=reward, score=reward, terminated=terminated, truncated=truncated,
            game_over=over, ignored=ignored, new_game=new_game, lives=np.zeros(num_envs, np.int32),
        )  # fmt: skip

    return step


def fill(replay: FrameReplay, steps: int) -> None:
    """Play random steps into a replay."""
    rng, layout = np.random.default_rng(0), replay.layout
    step = random_steps(rng, layout.num_envs, layout.stack, layout.frame_shape[0])
    first = step()
    replay.start(np.repeat(first.observation[:, -1:], layout.stack, 1))
    for _ in range(steps):
        replay.add(rng.integers(4, size=layout.num_envs), step())
