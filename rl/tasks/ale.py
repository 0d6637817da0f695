"""Atari games of ale-py's own vector environment, with EnvPool's interface: `--env.source ale`.

Beside EnvPool 1.2.5, ale-py 0.12.1 gives the same frames to the bit, at every size, the same rewards, lives and ends,
also from game to game, wherever the games start with the same number of no-ops (`tests/rl/tasks/test_ale.py`). It
differs in this:
- A game starts with 0 to `noop_max - 1` no-ops, drawn by a generator of its own; EnvPool's with 1 to `noop_max`.
- Sticky actions are drawn by generators of their own.
- The first stack holds black frames where EnvPool's holds copies of the first: stacks are made here, as EnvPool does.
- The step limit counts frames, those of the no-ops too.
- `episodic_life` starts the whole game anew at a lost life, where EnvPool goes on with it. So protocols that end
  episodes at lost lives are refused.
- There are no modes and difficulties.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.step import environment_seeds
from rl.tasks.protocols import FRAME_SKIP, AtariProtocol
from rl.tasks.task import EnvConfig


@functools.cache
def _module() -> Any:
    try:
        import ale_py
        import ale_py.vector_env
    except ImportError as error:
        raise UserError("--env.source ale needs ale-py 0.12 or later: pip install 'ale-py>=0.12'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # it greets on stderr
    return ale_py


class AlePool:
    """N games stepped together, with the interface and boundaries of EnvPool's that `AtariEnvs` reads.

    Args:
        vector: an `AtariVectorEnv` of unclipped rewards and a stack of one frame, with next-step resets. Frames are
            grey (H, W) or in colour (H, W, 3).
        stack: frames of an observation.
        seeds: (N,) of the games.
        reward_clip: return the reward's sign.
    """

    def __init__(self, vector: Any, stack: int, seeds: NDArray[np.int64], reward_clip: bool) -> None:
        self.action_space = SimpleNamespace(n=int(vector.single_action_space.n))
        self._vector, self._stack, self._seeds, self._reward_clip = vector, stack, seeds, reward_clip

    def reset(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        frames, info = self._vector.reset(seed=self._seeds)
        self._over = np.zeros(len(frames), np.bool_)
        self._observation = np.repeat(frames[:, -1:], self._stack, axis=1)
        return self._observation, self._info(info, np.zeros(len(frames), np.float32), self._over)

    def step(self, actions: NDArray[np.int32]) -> tuple[Any, ...]:
        frames, rewards, terminated, truncated, info = self._vector.step(actions)
        ignored = self._over  # a reset: a game begins
        observation = np.concatenate([self._observation[:, 1:], frames[:, -1:]], axis=1)
        observation[ignored] = frames[ignored][:, -1:]
        self._observation = observation
        self._over = (terminated | truncated) & ~ignored
        reward = np.where(ignored, 0, rewards).astype(np.float32)
        learned = np.sign(reward) if self._reward_clip else reward
        more = self._info(info, reward, terminated & ~ignored)
        return observation, learned, terminated.copy(), truncated.copy(), more

    def close(self) -> None:
        """Nothing: dropping it frees the games."""

    @staticmethod
    def _info(info: Mapping[str, Any], reward: NDArray[np.float32], ended: NDArray[np.bool_]) -> dict[str, Any]:
        return {"reward": reward, "lives": info["lives"].copy(), "terminated": ended.astype(np.int32)}


def make_pool(
    game: str, protocol: AtariProtocol, env: EnvConfig, *, num_envs: int, seed: int, colour: bool = False
) -> AlePool:
    """As `rl.tasks.atari.make_envs` makes EnvPool's; with the same seed and actions the same games are played, whatever
    is made of their frames.

    Raises:
        UserError: ale-py is not there, or has no such game; what it cannot do.
    """
    ale_py = _module()
    if protocol.episodic_life:
        raise UserError(
            f"--env.source ale: protocol {protocol.name} ends episodes at lost lives, where ale-py starts the whole "
            "game anew: --env.protocol sticky, or --env.source envpool"
        )
    for name in ("mode", "difficulty"):
        if getattr(env, name) is not None:
            raise UserError(f"--env.{name}: ale-py's vector environment plays the default only (--env.source envpool)")
    roms: Mapping[str, str] = {rom.replace("_", ""): rom for rom in ale_py.roms.get_all_rom_ids()}
    if game.lower() not in roms:
        raise UserError(f"--env.source ale: ale-py has no game {game} (--env.source envpool has it)")
    vector = ale_py.vector_env.AtariVectorEnv(
        roms[game.lower()],
        num_envs,
        num_threads=env.threads,
        max_num_frames_per_episode=protocol.max_episode_steps * FRAME_SKIP,
        repeat_action_probability=protocol.repeat_action_probability,
        full_action_space=protocol.full_action_space or env.full_actions,
        img_height=env.height,
        img_width=env.width,
        grayscale=not colour,
        stack_num=1,
        frameskip=FRAME_SKIP,
        noop_max=protocol.noop_max,
        reward_clipping=False,
        use_fire_reset=protocol.fire_reset,
    )
    return AlePool(vector, env.stack, environment_seeds(seed, num_envs), env.reward_clip)


def version() -> dict[str, Any]:
    """For a signature."""
    return {"source": "ale", "ale-py": _module().__version__}
