"""Prioritized replay (Schaul et al. 2016, arXiv 1511.05952), the proportional variant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.replay.sum_tree import SumTree

SMALLEST = 1e-6  # added to the errors (epsilon in section 3.3): no transition is never seen again
PRIORITIES, SUMS = "replay-priorities.npy", "replay-sums.npy"


class Prioritized:
    """Draws row i with probability P(i) = p_i^alpha / sum_k p_k^alpha, p_i = |error_i| + epsilon (equation 1).

    A transition that is new has the largest p so far (algorithm 1, line 6), one that is not valid has probability 0.
    Draws are stratified: of a batch of k, each comes from its own k-th of the sum (appendix B.2.1).

    Args:
        rows: of the replay.
        alpha: 0 is uniform.
        batch_size: of an update. Of several batches that are drawn together, each is stratified for itself.
        device: where the sum tree is.

    Attributes:
        tree: p^alpha of every row.
        largest: the largest p so far, a scalar on the device.
    """

    def __init__(self, rows: int, alpha: float, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.alpha, self.batch_size = alpha, batch_size
        self.tree = SumTree(rows, device)
        self.largest = torch.ones((), dtype=torch.float64, device=device)

    def changed(self, rows: Tensor, valid: Tensor) -> None:
        """The replay's word on which of these rows (n,) are valid now; those that were before keep their priority."""
        before = self.tree.leaves[rows]
        self.tree.set(rows, torch.where(valid, torch.where(before > 0, before, self.largest**self.alpha), 0))

    def draw(self, valid: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As of `uniform.Drawing`; which rows are `valid` it knows from `changed`."""
        uniform = torch.from_numpy(rng.random(count)).to(self.tree.flat.device)
        return self.find(uniform).cpu().numpy()

    def find(self, uniform: Tensor) -> Tensor:
        """The rows (n,) of whole batches that these numbers (n,) mean, float64 and uniform in [0, 1)."""
        strata = torch.arange(len(uniform), device=uniform.device) % self.batch_size
        return self.tree.find((strata + uniform) / self.batch_size * self.tree.total)

    def weights(self, rows: Tensor, beta: Tensor | float) -> Tensor:
        """Importance weights w_i = (n P(i))^-beta / max_j w_j, float32, of batches of rows (..., B), each with its own
        largest weight (section 3.4). n and the sum of the priorities drop out of the ratio."""
        priority = self.tree.leaves[rows]
        return (priority / priority.amin(-1, keepdim=True)).pow(-beta).float()

    def update(self, rows: Tensor, errors: Tensor) -> None:
        """New errors (B,) of rows: |TD error|, or the loss of a distribution. What has been overwritten since it was
        drawn stays at 0; an error that is not finite counts as the largest so far."""
        priority = errors.to(torch.float64).abs() + SMALLEST
        priority = torch.where(priority.isfinite(), priority, self.largest)
        self.largest.copy_(torch.maximum(self.largest, priority.amax()))
        self.tree.set(rows, torch.where(self.tree.leaves[rows] > 0, priority**self.alpha, 0))

    def save(self, path: Path, rows: int) -> None:
        """Write the first `rows` leaves and the sums."""
        size = len(self.tree.leaves)
        np.save(path / PRIORITIES, self.tree.leaves[:rows].cpu().numpy())
        np.save(path / SUMS, torch.cat((self.largest.view(1), self.tree.flat[size:])).cpu().numpy())

    def load(self, path: Path, rows: int) -> None:
        """Inverse of `save`.

        Raises:
            ValueError: there is nothing of a prioritized replay.
        """
        if not (path / PRIORITIES).is_file():
            raise ValueError(f"{path} has no priorities")
        size = len(self.tree.leaves)
        sums = torch.from_numpy(np.load(path / SUMS))
        self.tree.leaves.zero_()
        self.tree.leaves[:rows] = torch.from_numpy(np.load(path / PRIORITIES)).to(self.tree.flat.device)
        self.largest.copy_(sums[0])
        self.tree.flat[size:] = sums[1:].to(self.tree.flat.device)
