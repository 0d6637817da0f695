"""Image classification and translation with any optimizer of the registry.

`asgc-sup` is the command line; from Python:

>>> from supervised import TrainConfig, train
>>> summary = train(TrainConfig.preset("fashion-mnist", run_dir="runs/fashion"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.runs.callbacks import Callback
    from evaluation.runs.loop import Interrupted
    from supervised.config import TrainConfig
    from supervised.trainer import train

__all__ = ["Callback", "Interrupted", "TrainConfig", "train"]

_HOMES = {
    "TrainConfig": "supervised.config",
    "Callback": "evaluation.runs.callbacks",
    "Interrupted": "evaluation.runs.loop",
    "train": "supervised.trainer",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `asgc-sup --help` and its error messages need no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'supervised' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
