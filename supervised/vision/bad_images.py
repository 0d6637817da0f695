"""Images that cannot be read: which they are, and when they are too many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from evaluation.cli.errors import UserError
from supervised.order import Indices

NAMED = 20  # of them one by one; the others are counted


class BadImages:
    """Those found so far in one split, by this process and all that it has started (in shared memory).

    Args:
        size: images of the split.
        share: of them that may be bad.
        name: what an image is called, and why it cannot be read.
    """

    def __init__(self, size: int, share: float, name: Callable[[int], str]) -> None:
        self._flags = torch.zeros(size, dtype=torch.uint8).share_memory_()
        self._news = torch.zeros(1, dtype=torch.uint8).share_memory_()  # so that a look costs nothing
        self._allowed, self._share, self._name = share * size, share, name
        self._told: set[int] = set()

    def add(self, index: int) -> None:
        """One that cannot be read.

        Raises:
            UserError: there are more than may be; names the first few.
        """
        if not self._flags[index]:
            self.merge(np.array([index]))

    def merge(self, others: Indices) -> None:
        """Those that processes of other devices have found count as well.

        Raises:
            UserError: as `add`.
        """
        flags = self._flags.numpy()
        if flags[others].all():
            return
        flags[others] = self._news[0] = 1
        found = self.found()
        if len(found) > self._allowed:
            names = "; ".join(self._name(int(k)) for k in found[:3])
            raise UserError(
                f"{len(found):,} of {len(self._flags):,} images cannot be read, more than --data.bad-share "
                f"{self._share:g} of them: {names}{'; ...' if len(found) > 3 else ''}. Get them anew, or remove them, "
                "or allow more"
            )

    def restore(self, found: Indices) -> None:
        """Those that an earlier session found, and told of."""
        self._flags[torch.from_numpy(found)] = 1
        self._told.update(found.tolist())

    def __contains__(self, index: int) -> bool:
        return bool(self._flags[index])

    def found(self) -> Indices:
        """All that were found."""
        return np.flatnonzero(self._flags.numpy())

    def tell(self, message: Callable[[str], None], instead: str) -> None:
        """A line for each that was found since the last time."""
        if not self._news[0]:
            return
        self._news[0] = 0
        new = [int(index) for index in self.found() if int(index) not in self._told]
        for index in new[: max(0, NAMED - len(self._told))]:
            message(f"cannot be read, {instead}: {self._name(index)}")
        self._told.update(new)
        if new and len(self._told) > NAMED:
            message(f"{len(self._told):,} images cannot be read so far, {instead}")
