"""What the processes of one run agree on. How they talk is theirs (`supervised.distributed`), or there is only one."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Agreement(Protocol):
    """The processes that train one model together. All of them call each method, in the same order.

    Where one of them ends, whatever it raised, the others must be ended from outside, as `torchrun` does.
    """

    @property
    def rank(self) -> int:
        """Of this process, from 0. Process 0 is the main one: it writes the run folder, and only it has watchers."""
        ...

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        ...

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in any process."""
        ...

    def told(self, value: T) -> T:
        """The main process's value, in all of them."""
        ...

    def gathered(self, value: T) -> list[T]:
        """The values of all, in the order of their ranks, in the main process; elsewhere whatever."""
        ...

    def leaves(self, asked: bool) -> bool:
        """Whether any process asks to leave the evaluation that they are in. No process needs to call it as often as
        another: one that is further on, at sums over all of them, answers as well."""
        ...


class Alone:
    """The one process of a run."""

    rank, ranks = 0, 1

    def any(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def told(self, value: T) -> T:
        return value

    def gathered(self, value: T) -> list[T]:
        return [value]

    def leaves(self, asked: bool) -> bool:
        return asked
