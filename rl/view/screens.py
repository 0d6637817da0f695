"""The pictures of games that are being played: what a person would see, in step with the agent's environments."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.step import Step
from rl.tasks import EnvConfig, Task
from rl.tasks.protocols import FRAME_SKIP, PROTOCOLS

Pictures = NDArray[np.uint8]  # (N, height, width, 3), red, green, blue
SCREEN = (210, 160)  # pixels of an Atari screen
ATARI_HZ = 60
# Steps a second of the control tasks, as Gymnasium shows them.
CONTROL_FPS = {"CartPole": 50, "Acrobot": 15, "MountainCar": 30, "LunarLander": 50}


DEFAULT_FPS = 30.0


class Screens(ABC):
    """The pictures of N environments."""

    @abstractmethod
    def reset(self, observation: NDArray[Any]) -> Pictures:
        """After `Environments.reset`, which returned this observation (N, stack, ...)."""

    @abstractmethod
    def step(self, actions: NDArray[np.integer], result: Step) -> Pictures:
        """After `Environments.step` of these actions (N,), which returned this step."""

    def close(self) -> None:  # noqa: B027 - optional
        """Free what it holds."""


class AtariScreens(Screens):
    """Atari screens in colour: a second pool with the same rules, seeds and actions, whose frames are the whole screen.

    EnvPool and ale-py hand out the preprocessed frames alone. Their games are deterministic, so both pools play the
    same ones; rewards and lives are compared in every step. As the agent's, a picture is the maximum of the last two of
    four frames.

    Args:
        pool: with observations (N, 3, 210, 160) of `rl.tasks.atari.make_pool`, or (N, 1, 210, 160, 3) of that of
            `rl.tasks.ale`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def reset(self, observation: NDArray[Any]) -> Pictures:
        return self._picture(self._pool.reset()[0])

    def step(self, actions: NDArray[np.integer], result: Step) -> Pictures:
        picture, _, _, _, info = self._pool.step(actions.astype(np.int32))
        score = np.where(result.ignored, np.float32(0), info["reward"])
        if not (np.array_equal(score, result.score) and np.array_equal(info["lives"], result.lives)):
            raise RuntimeError("the game on the screen is not the one that is played")
        return self._picture(picture)

    @staticmethod
    def _picture(frames: NDArray[np.uint8]) -> Pictures:
        return frames[:, -1] if frames.ndim == 5 else _channels_last(frames)

    def close(self) -> None:
        self._pool = None


class Frames(Screens):
    """The newest frame that the network sees, as a picture: for environments that show no other."""

    def reset(self, observation: NDArray[Any]) -> Pictures:
        newest = observation[:, -1]  # (N, H, W) or (N, channels, H, W)
        if newest.ndim == 4 and newest.shape[1] == 3:
            return _channels_last(newest)
        grey = newest if newest.ndim == 3 else newest.mean(axis=1).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)

    def step(self, actions: NDArray[np.integer], result: Step) -> Pictures:
        return self.reset(result.observation)


class Drawn(Screens):
    """Pictures drawn of vectors.

    Args:
        draw: observation (d,) -> picture (height, width, 3).
    """

    def __init__(self, draw: Callable[[NDArray[Any]], Pictures]) -> None:
        self._draw = draw

    def reset(self, observation: NDArray[Any]) -> Pictures:
        return np.stack([self._draw(vector) for vector in observation[:, -1]])

    def step(self, actions: NDArray[np.integer], result: Step) -> Pictures:
        return self.reset(result.observation)


def make_screens(task: Task, env: EnvConfig, *, num_envs: int, seed: int) -> Screens:
    """The screens of evaluation environments that are made with the same arguments.

    Raises:
        UserError: Pillow, which draws the control tasks, is missing.
    """
    if task.family.name == "atari":
        from rl.tasks import ale, atari

        protocol, how = PROTOCOLS[env.protocol], {"num_envs": num_envs, "seed": seed}
        env = dataclasses.replace(env, height=SCREEN[0], width=SCREEN[1], stack=1)
        if env.source == "ale":
            return AtariScreens(ale.make_pool(task.name, protocol, env, **how, colour=True))
        return AtariScreens(atari.make_pool(task.name, protocol, env, **how, training=False, gray_scale=False))
    if len(task.observation(env).frame) >= 2:
        return Frames()
    require_pillow()
    from rl.view.drawings import DRAWINGS, bars

    return Drawn(DRAWINGS.get(task.name, bars))


def speed(task: Task) -> float:
    """Steps a second at a game's own speed."""
    if task.family.name == "atari":
        return ATARI_HZ / FRAME_SKIP
    return CONTROL_FPS.get(task.name, DEFAULT_FPS)


def require_pillow() -> None:
    """Refuse to draw without Pillow."""
    try:
        import PIL.ImageDraw  # noqa: F401
    except ImportError as error:
        raise UserError("pictures are drawn by Pillow, which is missing: pip install 'asgc[video]'") from error


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture (H, W, ...) in another size: means over the pixels that fall together, or repeated ones."""
    found: NDArray[Any] = picture
    for axis, size in enumerate((height, width)):
        edges = np.arange(size) * found.shape[axis] // size
        if size >= found.shape[axis]:
            found = found.take(edges, axis=axis)
        else:
            counts = np.diff(np.append(edges, found.shape[axis]))
            shape = [-1 if other == axis else 1 for other in range(found.ndim)]
            found = np.add.reduceat(found.astype(np.float32), edges, axis=axis) / counts.reshape(shape)
    return np.rint(found).astype(np.uint8)


def fitted(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture (H, W, ...) as large as it fits, with its proportions; enlarged by whole factors where that is
    possible."""
    factor = min(height / picture.shape[0], width / picture.shape[1])
    if factor >= 1:
        factor = math.floor(factor)
    return resized(picture, max(1, int(picture.shape[0] * factor)), max(1, int(picture.shape[1] * factor)))


def _channels_last(frames: NDArray[np.uint8]) -> Pictures:
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))
