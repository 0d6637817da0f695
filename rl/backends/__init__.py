"""Other libraries' DQN in the place of this package's: `--backend sb3` or `tianshou`.

The same game, protocol, seeds, network and optimizer, the same run folder, evaluator and checkpoints; how transitions
are stored, drawn and learned from is the library's own code. Nothing of a library is imported before it is needed, and
a finished run is played without it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.cli.values import show
from rl import tasks

if TYPE_CHECKING:
    from rl.config import TrainConfig

NATIVE = "native"
RESET_ALONE = ("atari", "control")  # families whose environments EnvPool can reset one by one


@dataclass(frozen=True)
class Backend:
    """A library that trains.

    Attributes:
        name: of the option's value, and of the extra that installs it.
        package, distribution: the library's, to import and to install.
        home: of its `rl.backends.base.LibraryDQN`.
        refused: options that it cannot honour, with the only values it takes.
        silent: options that presets set and it does not have: what they become, which is said.
    """

    name: str
    package: str
    distribution: str
    home: str
    refused: Mapping[str, tuple[Any, ...]]
    silent: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def version(self) -> str:
        """As pip names it: "stable-baselines3 2.9.2"."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"


_FP32 = {"precision": ("auto", "fp32"), "channels_last": (None, False), "compile": (False,)}
BACKENDS = {
    "sb3": Backend(
        name="sb3",
        package="stable_baselines3",
        distribution="stable-baselines3",
        home="rl.backends.sb3:SB3DQN",
        refused={**_FP32, "loss": ("huber",)},
        silent={"double": False},
    ),
    "tianshou": Backend(
        name="tianshou",
        package="tianshou",
        distribution="tianshou",
        home="rl.backends.tianshou:TianshouDQN",
        refused=_FP32,
    ),
}
NAMES = (NATIVE, *BACKENDS)

# What both take over. Any other option must have its default: a new one is refused until somebody has mapped it.
_GROUPS = ("env", "exploration", "optimizer", "lr_schedule", "evaluation", "gradients")
_RUN = (
    *("game", "backend", "seed", "device", "threads", "total_steps", "run_dir", "checkpoint_interval"),
    *("checkpoint_minutes", "segment_steps", "log_interval", "tensorboard", "track", "keep_models", "callbacks"),
)
_DQN = ("replay_size", "batch_size", "train_every", "gradient_steps", "learning_starts", "n_step", "gamma", "double")
_NETWORK = ("channels", "kernels", "strides", "hidden", "units", "layer_norm", "standardize")
_HONOURED = {*_RUN, *_DQN, "loss", "target_interval", *(f"network.{name}" for name in _NETWORK)}


def adapt(config: TrainConfig) -> Iterator[str]:
    """What a backend cannot do of a configuration, a line each; what it does otherwise is changed and noted."""
    backend = BACKENDS.get(config.backend)
    if backend is None:
        return
    whose = f"the backend {backend.name}"
    if config.algorithm != "dqn":
        yield config.wrong("algorithm", f"{whose} has only dqn")
        return
    for path, one in config.settings().items():
        value, allowed = one.get(config), backend.refused.get(path)
        if allowed is None and path not in _HONOURED and path.partition(".")[0] not in _GROUPS:
            allowed = (one.default,)
        if allowed is not None and value not in allowed:
            yield config.wrong(path, f"{whose} has only {' or '.join(map(show, allowed))}")
    alone = tasks.family(config.game).name in RESET_ALONE and config.env.source == "envpool"
    if not alone and config.env.num_envs > 1:
        yield config.wrong("env.num_envs", f"{whose} needs environments that can be reset one by one: 1")
    for path, value in backend.silent.items():
        one = config.settings()[path]
        if one.get(config) != value:
            config.notes += (
                f"{one.flag} {show(one.get(config))}: {whose} has only {show(value)}, which it goes on with",
            )
            one.put(config, value)


def load(name: str) -> Any:
    """The `LibraryDQN` of a backend.

    Raises:
        UserError: its library, or what that needs, is not installed.
    """
    backend = BACKENDS[name]
    module, _, attribute = backend.home.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        package = (error.name or "rl").partition(".")[0]
        if package == "rl":
            raise
        raise UserError(f"--backend {name}: {package} is not installed: pip install 'asgc[{name}]'") from error


def trainer(config: TrainConfig) -> Any:
    """The class that trains a configuration: (config, run, device, watchers) -> trainer. UserError as `load`."""
    if config.backend == NATIVE:
        return importlib.import_module("rl.trainer").Trainer
    load(config.backend)
    return importlib.import_module("rl.backends.base").LibraryTrainer
