"""Tasks by their names: what `--task` takes. A new one is a file beside this and a line here."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervised.tasks.task import Task

CLASSES = MappingProxyType(
    {
        "imagenet": "supervised.tasks.imagenet:ImageNet",
        "wmt14": "supervised.tasks.wmt14:WMT14",
        "streams": "supervised.tasks.streams:Streams",
    }
)


def find(name: str) -> type[Task]:
    """The class of a task."""
    module, _, cls = CLASSES[name].partition(":")
    found: type[Task] = getattr(importlib.import_module(module), cls)
    return found
