"""A run whose folder another process writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluation.runs.checkpoint import Checkpoint
from evaluation.runs.run_folder import RunFolder
from evaluation.runs.watchers import Watchers


class FollowedRun(RunFolder):
    """What a process has in the place of a `RunFolder` that the main one of its run (`agreement`) holds.

    Args:
        path: of the folder.
        checkpoint: what the main process goes on from.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint | None) -> None:
        self.path, self.checkpoint, self.watchers = path, checkpoint, Watchers()

    def note(self, **facts: Any) -> None:
        """Nothing."""

    def log(self, step: int, samples: int, wall_s: float, split: str, values: Mapping[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        raise NotImplementedError("the main process saves")

    def finish(self, summary: Mapping[str, Any]) -> None:
        raise NotImplementedError("the main process finishes")

    def close(self) -> None:
        """Nothing."""
