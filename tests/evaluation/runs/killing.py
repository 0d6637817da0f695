"""Kills a program with SIGKILL before its n-th file operation, for every n: what a power cut or `kill -9` may hit.

Each trial runs in a forked child of a small process without torch or threads, so hundreds of them take seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.scandir", "shutil.rmtree"}


def survive_every_kill(program: Callable[[], None], check: Callable[[int], None], prepare: Callable[[], None]) -> int:
    """For n = 0, 1, ...: `prepare`, `program` killed before operation n, `check(n)`; until `program` gets through.

    Returns the number of kills. An exception in any of the three ends it.
    """
    for kill_at in range(10_000):
        prepare()
        child = os.fork()
        if child == 0:
            _kill_before(kill_at)
            try:
                program()
            except BaseException as error:
                print(f"operation {kill_at}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the program failed by itself"
            check(kill_at)
            return kill_at
        assert os.WTERMSIG(status) == signal.SIGKILL
        check(kill_at)
    raise AssertionError("the program never got through")


def _kill_before(kill_at: int) -> None:
    left = kill_at

    def tick(*_: Any) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        tick()
        fsync(descriptor)

    os.fsync = counted_fsync  # the one operation among them that has no audit event
    sys.addaudithook(lambda event, _: tick() if event in FILE_EVENTS else None)
