"""What the rest of the package knows of a task: everything that differs from one to another is asked of its record."""

from __future__ import annotations

import importlib.metadata
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.cli.settings import option

if typing.TYPE_CHECKING:  # help pages and error messages do without NumPy
    from rl.step import Environments


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules under which a task is played: scores of two protocols are never put side by side.

    Attributes:
        eval_epsilon: share of random actions in evaluation.
        episodic_life: a lost life ends the learning episode; evaluation scores whole games.
    """

    name: str
    eval_epsilon: float
    episodic_life: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """What tasks of a kind have in common.

    Attributes:
        name: options that `rl.config` marks with it exist for this family's tasks only.
        title: what one of them is, in messages.
        preset: the preset where none is named.
        protocols: those that its tasks can be played under.
        torch_threads: threads of torch that its networks profit from, at most; None: any number.
    """

    name: str
    title: str
    preset: str
    protocols: tuple[Protocol, ...]
    torch_threads: int | None = None

    def protocol(self, name: str) -> Protocol:
        """The protocol of this name; KeyError: not one of this family's."""
        return {protocol.name: protocol for protocol in self.protocols}[name]


@dataclass(frozen=True)
class ObservationSpec:
    """One observation: a stack of frames.

    Attributes:
        shape: (stack, *frame): (stack, H, W) of pictures, (1, d) of vectors.
        dtype: NumPy type or its name: uint8 of pictures, float32 of vectors.
        center, scale: d numbers each; a network sees (vector - center) / scale, of the order of 1. Of pictures none:
            their scaling is the network's own.
    """

    shape: tuple[int, ...]
    dtype: Any
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def stack(self) -> int:
        """Frames in an observation."""
        return self.shape[0]

    @property
    def frame(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.shape[1:]


@dataclass
class EnvConfig:
    """Environments (EnvPool), and how the frames of Atari games are preprocessed."""

    protocol: Literal["nature", "classic", "sticky", "control", "gymnasium"] = option(
        "classic", "evaluation protocol; scores of two protocols are never compared. Other families have their own"
    )
    make: str | None = option(
        None, "package.module:function that makes the environments, in the place of --game", only="gymnasium"
    )
    source: Literal["envpool", "ale"] = option(
        "envpool", "what steps Atari games; ale: ale-py's own vector environment", only="atari"
    )
    processes: bool = option(False, "each environment in a process of its own: for slow ones", only="gymnasium")
    patience: float = option(
        60.0,
        "seconds without an answer of the environments that are told; ten times as many end the run",
        "(0, inf]",
        only="gymnasium",
    )
    num_envs: int = option(16, "environments stepped together", "[1, 4096]")
    threads: int = option(
        0,
        "EnvPool threads; 0: EnvPool chooses (with PQN's --overlap on a CPU the cores that --threads leaves)",
        "[0, 1024]",
    )
    height: int = option(84, "frame height in pixels", "[8, 210]", only="atari")
    width: int = option(84, "frame width in pixels", "[8, 210]", only="atari")
    stack: int = option(4, "frames in one observation", "[1, 16]", only="atari")
    reward_clip: bool = option(True, "learn from the reward's sign (scores are always the true rewards)")
    reward_scale: float = option(1.0, "factor on the reward to learn from, after the clip", "(0, 1e6]")
    mode: int | None = option(None, "game mode (ALE flavour); null: the game's default", "[0, 255]", only="atari")
    difficulty: int | None = option(
        None, "game difficulty (ALE flavour); null: the game's default", "[0, 3]", only="atari"
    )
    full_actions: bool = option(
        False, "all 18 actions of the console, not only those that the game has a use for", only="atari"
    )


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task that an agent can learn; `rl.tasks.find` gives it by its name.

    Attributes:
        name: the canonical spelling.
        family: what it has in common with others.
        target: score whose first reaching is timed; None: there is none.
    """

    name: str
    family: Family
    target: float | None = None

    @abstractmethod
    def observation(self, env: EnvConfig) -> ObservationSpec:
        """What an observation is under a configuration of environments."""

    @abstractmethod
    def make(self, env: EnvConfig, *, num_envs: int, seed: int, training: bool) -> Environments:
        """N environments with the rules and frames of a configuration, `num_envs` in place of the configuration's own.

        Args:
            seed: of everything random in them: the same seed and actions give the same observations and rewards.
            training: learning episodes may end at lost lives; evaluation plays whole games.

        Raises:
            UserError: the task has no such mode or difficulty.
        """

    def source(self, env: EnvConfig) -> dict[str, Any]:
        """What steps the environments, and its version: {"envpool": "1.2.5"}."""
        return {"envpool": importlib.metadata.version("envpool")}

    def check(self, env: EnvConfig) -> None:
        """Refuse what only environments know, before anything is written for a run.

        Raises:
            UserError: the task has no such mode or difficulty.
        """
        if env.mode is not None or env.difficulty is not None:
            self.make(env, num_envs=1, seed=0, training=True).close()
