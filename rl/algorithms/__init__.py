"""What learns. An algorithm is a subclass of `algorithm.Algorithm` in a file of its own, and a name here."""

from __future__ import annotations

import importlib
from typing import Any

# Not imported before they are needed: help pages need no PyTorch.
ALGORITHMS = {"dqn": "rl.algorithms.dqn:DQN", "pqn": "rl.algorithms.pqn:PQN"}


def find(name: str) -> Any:
    """The class of the algorithm of this name."""
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
