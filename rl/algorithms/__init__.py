"""What learns. An algorithm is a class with the protocol `algorithm.Algorithm`, and a name here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.algorithms.algorithm import Algorithm

ALGORITHMS = {"dqn": "rl.algorithms.dqn:DQN"}  # not imported before it is needed: help pages need no PyTorch


def find(name: str) -> type[Algorithm]:
    """The class of the algorithm of this name."""
    module, _, attribute = ALGORITHMS[name].partition(":")
    found: type[Algorithm] = getattr(importlib.import_module(module), attribute)
    return found
