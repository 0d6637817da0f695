"""Whether this process is one of several, as its environment says. (Needs no PyTorch.)"""

from __future__ import annotations

import os
from collections.abc import Mapping

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # `torchrun` sets all of them


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody, as a rule `torchrun`, started it as one of several."""
    return any(environment.get(name) for name in RANKS)
