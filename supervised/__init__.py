"""Supervised tasks with the same optimizers: images and translation. `from supervised import TrainConfig, train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.runs.watchers import Watcher as Callback
    from supervised.config import TrainConfig
    from supervised.trainer import train

__all__ = ["Callback", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    """The API, imported when it is asked for: help pages do without torch."""
    if name == "TrainConfig":
        from supervised.config import TrainConfig

        return TrainConfig
    if name == "train":
        from supervised.trainer import train

        return train
    if name == "Callback":
        from evaluation.runs.watchers import Watcher

        return Watcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
