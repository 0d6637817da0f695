"""DQN and PQN on Atari and control tasks through EnvPool, with any optimizer of the registry.

`asgc-rl` is the command line; from Python:

>>> from rl import TrainConfig, load_agent, train
>>> summary = train(TrainConfig.preset("quick", game="Breakout", run_dir="runs/breakout"))
>>> agent = load_agent("runs/breakout")
>>> actions = agent.act(observation)  # observation: (N, 4, 42, 42) uint8 of the preset `quick`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.runs.callbacks import Callback
    from evaluation.runs.loop import Interrupted
    from rl.agent import Agent, load_agent
    from rl.config import TrainConfig
    from rl.trainer import train

__all__ = ["Agent", "Callback", "Interrupted", "TrainConfig", "load_agent", "train"]

_HOMES = {
    "Agent": "rl.agent",
    "load_agent": "rl.agent",
    "TrainConfig": "rl.config",
    "Callback": "evaluation.runs.callbacks",
    "Interrupted": "evaluation.runs.loop",
    "train": "rl.trainer",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `asgc-rl --help` and its error messages need no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
