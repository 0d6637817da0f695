"""The processes of a run: one, or those that `torchrun` started."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The processes that train one model together.

    Attributes:
        rank: of this process, from 0.
        ranks: how many there are.
    """

    rank: int = 0
    ranks: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same in all of them; in place."""
        if self.ranks > 1:
            torch.distributed.all_reduce(tensor)
        return tensor


ALONE = Group()
