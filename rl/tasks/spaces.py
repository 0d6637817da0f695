"""Which of Gymnasium's spaces an agent can see and act in, and how observations become frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.tasks.task import ObservationSpec

LARGEST_BOUND = 1e6  # larger ones are as good as none: "the largest float" is a bound that people write
SHOWN = 120  # letters of a space in errors


@dataclass(frozen=True)
class Observed:
    """How observations of a space are seen.

    Attributes:
        spec: one of them: a single frame, the stack is 1.
        convert: observations (N, *space) -> fresh frames (N, 1, *frame).
    """

    spec: ObservationSpec
    convert: Callable[[Any], NDArray[Any]]


def observed(space: Space[Any], name: str) -> Observed:
    """How observations of a space are seen.

    Pictures are boxes of bytes, or of true and false (which become 0 and 255): (H, W), or with channels or stacked
    frames before or behind, whichever axis is the shorter one. They become (C, H, W). Vectors are all other boxes of
    one axis; numbers of a `Discrete` space become vectors with a single 1.

    Args:
        name: of the environment, in errors.

    Raises:
        UserError: no picture and no vector; says what to wrap it in.
    """
    if isinstance(space, spaces.Box) and space.dtype in (np.uint8, np.bool_) and len(space.shape) in (2, 3):
        return _picture(space)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return _vector(space.low, space.high)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return _vector(np.zeros(space.shape), np.ones(space.shape))
    if isinstance(space, spaces.Discrete):
        return _one_hot(int(space.n), int(space.start))
    remedy = "wrap it in gymnasium.wrappers.FlattenObservation (--env.make module:function) for a vector"
    if isinstance(space, spaces.Box) and len(space.shape) in (2, 3):
        remedy = f"make it uint8, 0 to 255, for a picture, or {remedy}"
    raise UserError(f"{name}: its observations are {shown(space)}, neither a picture (uint8) nor a vector: {remedy}")


def number_of_actions(space: Space[Any], name: str) -> int:
    """The actions of a space.

    Raises:
        UserError: not a `Discrete` one.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    remedy = "choose a few of them and wrap it in gymnasium.wrappers.TransformAction (--env.make module:function)"
    raise UserError(
        f"{name}: its actions are {shown(space)}, but what learns here chooses among Discrete ones: {remedy}"
    )


def shown(space: Space[Any]) -> str:
    """A space in a few words on one line."""
    text = " ".join(str(space).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _picture(space: spaces.Box) -> Observed:
    shape = space.shape
    brightest = np.uint8(255 if space.dtype == np.bool_ else 1)
    last = len(shape) == 3 and shape[2] < shape[0]  # channels behind

    def convert(observation: Any) -> NDArray[Any]:
        pixels = np.asarray(observation).astype(np.uint8)
        pixels = np.moveaxis(pixels, -1, 1) if last else pixels
        return np.ascontiguousarray(pixels[:, None] * brightest)

    return Observed(ObservationSpec((1, *((shape[2], *shape[:2]) if last else shape)), "uint8"), convert)


def _vector(low: Any, high: Any) -> Observed:
    """Scaled by the bounds where there are some."""
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        bounded = (np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND) & (high > low)
        center = np.where(bounded, (low + high) / 2, 0.0)
        scale = np.where(bounded, (high - low) / 2, 1.0)
    spec = ObservationSpec((1, len(low)), "float32", tuple(center.tolist()), tuple(scale.tolist()))
    return Observed(spec, lambda observation: np.array(observation, np.float32)[:, None])


def _one_hot(count: int, start: int) -> Observed:
    rows = np.eye(count, dtype=np.float32)
    spec = ObservationSpec((1, count), "float32", (0.0,) * count, (1.0,) * count)
    return Observed(spec, lambda observation: rows[np.asarray(observation) - start][:, None])
