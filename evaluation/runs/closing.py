"""Things that are closed at the end of a `with` block."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that ends in `close`."""

    def close(self) -> None:
        """Free what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
