"""The processes of a run: one, or those that `torchrun` started, one for each device.

    torchrun --nproc-per-node 8 -m supervised.cli train ...

A process that ends in an error leaves the others waiting for it; `torchrun` ends them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from evaluation.cli.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from evaluation.runs.stopping import Left
from supervised.launched import RANKS, launched

T = TypeVar("T")
K = TypeVar("K")

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
START = "start the processes with `torchrun --nproc-per-node N -m supervised.cli train ...`"
TIMEOUT = timedelta(minutes=30)  # of a collective: the longest that one process may be busy alone (a slow disk)
FAILED = "asgc/failed"  # in the store, when a process has said why it ends
PATIENCE_S = 3.0  # until a process whose partner is gone says so itself: torchrun is faster


@dataclass(frozen=True)
class Group:
    """The processes that train one model together: an `evaluation.runs.agreement.Agreement`.

    Attributes:
        rank: of this process, from 0.
        ranks: how many there are.
        local_rank, local_ranks: the same among those on this machine.
        store: through which they find each other.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    store: Any = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> Any:  # for processes that read data, which talk to nobody
        return Group, (self.rank, self.ranks, self.local_rank, self.local_ranks)

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder and talks to the user."""
        return self.rank == 0

    @property
    def launcher(self) -> str | None:
        """What starts so many processes again; None for one."""
        if self.ranks == 1:
            return None
        machines = -(-self.ranks // self.local_ranks)
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.local_ranks} -m supervised.cli"

    def device(self, name: str) -> torch.device:
        """This process's own device of a kind: "cpu" or "cuda", where one process may name one ("cuda:1") as well.

        Raises:
            UserError: there is none for it.
        """
        if self.ranks == 1 or name == "cpu":
            return torch.device(name)
        if name != "cuda":
            raise UserError(f"--device {name}: several processes have one GPU each: --device cuda")
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UserError(
                f"{self.local_ranks} processes for {count} GPUs: torchrun --nproc-per-node {count}, or --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    # In training ----------------------------------------------------------------------------------------------------

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place. Not in evaluations, which a signal may end: see `sum`."""
        if self.ranks > 1:
            dist.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """Give all processes the main one's tensors, in place."""
        if self.ranks > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        if self.ranks == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)  # on the host: no GPU is waited for
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(map(bool, votes.tolist()))

    def told(self, value: T) -> T:
        if self.ranks == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gathered(self, value: T) -> list[T]:
        if self.ranks == 1:
            return [value]
        values = [value] * self.ranks if self.main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    @contextlib.contextmanager
    def first_on_each_machine(self) -> Iterator[None]:
        """One process on each machine runs the block before the others: what it prepares, they find."""
        if self.local_rank > 0:
            self.any(False)
        yield
        if self.local_rank == 0:
            self.any(False)

    # In evaluations -------------------------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same in all of them; in place."""
        self._all_here()
        return self.all_reduce(tensor)

    def merged(self, found: Mapping[K, T]) -> dict[K, T]:
        """The entries that all processes have found."""
        if self.ranks == 1:
            return dict(found)
        self._all_here()
        parts: list[Any] = [None] * self.ranks
        dist.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def leaves(self, asked: bool) -> bool:
        return self.any(asked, True)[0]

    def _all_here(self) -> None:
        """Wait for the processes that are still evaluating, answering each time that they ask whether to leave.

        Raises:
            Left: they leave.
        """
        busy = self.ranks > 1
        while busy:
            left, busy = self.any(False, False)
            if left:
                raise Left


ALONE = Group()


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """The processes that `torchrun` started, joined for the block; `ALONE` without it.

    Raises:
        UserError: the environment has a part of what torchrun sets, or the processes do not find each other.
    """
    here = _ranks(environment)
    if here is None:
        yield ALONE
        return
    try:
        store, rank, ranks = next(rendezvous("env://", timeout=TIMEOUT))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # what is agreed on stays on the host
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        address = ":".join(environment[name] for name in ADDRESS)
        raise UserError(f"the {here.ranks} processes do not find each other at {address} ({error}): {START}") from error
    group = Group(here.rank, here.ranks, here.local_rank, here.local_ranks, store)
    with _one_voice(group):
        yield group
    dist.destroy_process_group()  # not after an error: it would wait for the others


def _ranks(environment: Mapping[str, str]) -> Group | None:
    names = (*RANKS, *ADDRESS)
    if not launched(environment) or environment.get("WORLD_SIZE") == "1":
        return None
    if missing := [name for name in names if not environment.get(name)]:
        have = [name for name in names if name not in missing]
        unset = " ".join(name for name in RANKS if name in have)
        raise UserError(f"{' and '.join(have)} are set, but not {' and '.join(missing)}: {START}, or `unset {unset}`")
    try:
        rank, ranks, local_rank = (int(environment[name]) for name in RANKS)
        local_ranks = int(environment.get("LOCAL_WORLD_SIZE") or ranks)
        fits = 0 <= rank < ranks and 0 <= local_rank < local_ranks
    except ValueError:
        fits = False
    if not fits:
        shown = ", ".join(f"{name}={environment[name]}" for name in RANKS)
        raise UserError(f"{shown} are no ranks of processes: {START}")
    return Group(rank, ranks, local_rank, local_ranks)


@contextlib.contextmanager
def _one_voice(group: Group) -> Iterator[None]:
    """Of an error that all processes meet, one line is printed; of one process's own, its line and no other's."""
    try:
        yield
    except UserError as error:
        if not group.main:
            if _somebody_failed(group, 1.0):
                raise SystemExit(EXIT_USER_ERROR) from None
            error = UserError(f"process {group.rank} of {group.ranks}: {error}")
        with contextlib.suppress(RuntimeError):
            group.store.set(FAILED, "")
        raise error from None
    except KeyboardInterrupt:
        if group.main:
            raise
        raise SystemExit(EXIT_INTERRUPTED) from None
    except RuntimeError as error:
        if not _is_lost(error):
            with contextlib.suppress(RuntimeError):
                group.store.set(FAILED, "")
            raise
        if _somebody_failed(group, PATIENCE_S):  # nor where torchrun ends this process meanwhile
            raise SystemExit(1) from None
        raise UserError(
            f"process {group.rank} of {group.ranks}: another process has ended or does not answer; go on with --resume"
        ) from error


def _somebody_failed(group: Group, seconds: float) -> bool:
    """Whether a process says so within some time."""
    end = time.monotonic() + seconds
    with contextlib.suppress(RuntimeError):  # nobody there any more who could say it
        while time.monotonic() < end:
            if group.store.check([FAILED]):
                return True
            time.sleep(0.05)
    time.sleep(max(0.0, end - time.monotonic()))
    return False


def _is_lost(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in words for word in ("gloo", "nccl", "connection closed"))
