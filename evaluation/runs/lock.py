"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from evaluation.cli.errors import UserError, reason

TRIES, PAUSE_S = 3, 0.02  # `is_held` of another process takes the lock for some microseconds


class FolderLock:
    """An exclusive `flock` on a file that holds its owner's process id.

    The kernel frees it when the process ends, however it ends, so a lock is never stale. The file itself stays:
    removing it would let a third process lock a new file while a second one waits on the old.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock at once, or raise `UserError` naming the process that holds it."""
        self._file: IO[str] = path.open("a+", encoding="utf-8")
        try:
            self._take()
        except OSError as error:
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"{path.parent} is in use by {owner or 'another process'}") from error
            raise UserError(f"cannot lock {path}: {reason(error)}") from error
        self._write(f"process {os.getpid()} on {socket.gethostname()}\n")

    def release(self) -> None:
        """Free the lock; a second call does nothing."""
        if not self._file.closed:
            self._write("")
            self._file.close()

    def _take(self) -> None:
        for _ in range(TRIES - 1):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(PAUSE_S)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _write(self, text: str) -> None:
        self._file.truncate(0)
        self._file.write(text)
        self._file.flush()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on `path`; it is not taken."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False
