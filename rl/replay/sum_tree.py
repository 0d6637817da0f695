"""Sums over many numbers that change: what draws a number's place in proportion to it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

FAN = 32  # children of a node


class SumTree:
    """A tree whose leaves are numbers and whose nodes are the sums of their children, in one flat tensor.

    All methods take many leaves at once, without waiting for the device. (The tree of Schaul et al. 2016, appendix
    B.2.1, is binary and walked leaf by leaf. With 32 children it has four levels where that has twenty: so many kernels
    fewer to launch.) Sums are always made anew of all children, in the same order: they neither drift nor depend on
    what happened before.

    Args:
        size: leaves, all 0.
        device: where.

    Attributes:
        flat: float64, the leaves (padded with zeros to a multiple of 32), then the levels above.
        leaves: a view of the leaves (size,).
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        sizes = [_padded(size)]
        while sizes[-1] > FAN:
            sizes.append(_padded(sizes[-1] // FAN))
        self.flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._levels = self.flat.split(sizes)
        self._families = [level.view(-1, FAN) for level in self._levels]  # a parent's children in each row
        self.leaves = self._levels[0][:size]
        self._places = torch.arange(FAN, device=device)
        self._up_to = torch.ones(FAN, FAN, dtype=torch.float64, device=device).tril()  # [i, j] = 1 where j <= i

    @property
    def total(self) -> Tensor:
        """Sum of all leaves, a scalar on the device."""
        return self._levels[-1].sum()

    def set(self, rows: Tensor, values: Tensor) -> None:
        """Write leaves (B,), not negative; of a row that comes twice any one value stays."""
        self._levels[0][rows] = values
        for (_, parents), children in zip(itertools.pairwise(self._levels), self._families, strict=False):
            rows = rows // FAN
            parents[rows] = children[rows].sum(1)

    def find(self, height: Tensor) -> Tensor:
        """For heights (B,) in [0, total) the leaf r with sum(leaves[:r]) <= height < sum(leaves[: r + 1]).

        Where rounding of sums decides, it is a neighbour; never a leaf that is 0, unless all are.
        """
        node = torch.zeros_like(height, dtype=torch.int64)
        for families in reversed(self._families):
            children = families[node]
            # Products with 0 and 1, not cumsum, which on a GPU has no fixed order.
            sums = (children.unsqueeze(1) * self._up_to).sum(2)
            child = (sums <= height.unsqueeze(1)).sum(1)
            last = torch.where(children > 0, self._places, 0).amax(1)
            child = torch.minimum(child, last)
            below = sums.gather(1, (child - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
            height = height - torch.where(child > 0, below, 0)
            node = node * FAN + child
        return node


def _padded(size: int) -> int:
    return -(-size // FAN) * FAN
