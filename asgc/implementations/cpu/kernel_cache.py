"""Where compiled kernels are kept: in which folder, whose files are loaded, and whose turn it is to build one.

The folder is $ASGC_CACHE_DIR, or ``asgc`` in the user's cache ($XDG_CACHE_HOME, ~/.cache). Where it cannot be used
(no home, read-only, mounted noexec) a folder in the temporary one serves.

Kernels are readable for all (0644), so one folder can serve many users. Loading one runs its code. So it is loaded only
if it belongs to this user, to root, or to the owner of the folder that $ASGC_CACHE_DIR names (who names it trusts it),
and if no one else can write to the file, or swap it in its folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: several processes may build at once
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "folder_to_build_in", "found", "keep", "note_seconds", "say", "seen", "turn"]

_log = logging.getLogger("asgc")
WAIT = 300  # seconds that a process waits for another one that builds
_POLL = 0.1


def cache_folder() -> Path | None:
    """$ASGC_CACHE_DIR, or the folder ``asgc`` in the user's cache; None: there is no home folder."""
    own, cache = os.environ.get("ASGC_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(own).expanduser() if own else (Path(cache) if cache else Path.home() / ".cache") / "asgc"
    except RuntimeError:  # neither $HOME nor an entry in passwd
        return None


@functools.cache  # once: the cache is looked through before and after the wait for another process
def say(message: str) -> None:
    _log.warning(message)


def _temporary_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir()) / f"asgc-{_user()}"
    except FileNotFoundError:  # nothing to write to at all
        return None


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _foreign(path: Path) -> str | None:
    """Why others could have put something of theirs into a file or folder, or None. OSError: it is not there."""
    if not hasattr(os, "geteuid"):
        return None
    own = path.stat()
    trusted = {_user(), 0}
    named = cache_folder() if os.environ.get("ASGC_CACHE_DIR") else None
    if named in (path, path.parent):
        trusted.add(named.stat().st_uid)
    if own.st_uid not in trusted:
        return f"it belongs to another user ({own.st_uid})"
    if stat.S_ISDIR(own.st_mode):
        return "every user can write to it" if own.st_mode & stat.S_IWOTH and not own.st_mode & stat.S_ISVTX else None
    return "other users can write to it" if own.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def found(key: str) -> Iterator[Path]:
    """Kept kernels of this key that may be loaded. A damaged one is removed: the loader could crash on it."""
    for folder in (cache_folder(), _temporary_folder()):
        try:
            files = sorted(folder.glob(f"kernel-{key}-*.so")) if folder is not None else []
            reason = _foreign(folder) if folder is not None and files else None
        except OSError:  # it cannot be searched
            continue
        for file in files:
            try:
                why = reason or _foreign(file)
                if why is not None:
                    say(f"the cached CPU kernel {file} is not loaded: {why}. ASGC_CACHE_DIR may name a trusted folder")
                elif _digest(file) == file.stem.rpartition("-")[2]:
                    yield file
                else:
                    say(f"the cached CPU kernel {file} is damaged and is built again")
                    file.unlink()
            except FileNotFoundError:  # another process was faster
                pass
            except OSError as error:
                say(f"the cached CPU kernel cannot be read: {error}")


def folder_to_build_in() -> Path | None:
    """The first folder in which a kernel can be kept, made where it is not there; None: there is none."""
    reasons: list[str] = []
    for folder in (cache_folder(), _temporary_folder()):
        reason = "there is no home folder" if folder is None else _unusable(folder)
        if folder is not None and reason is None:
            if reasons:
                _log.warning("the CPU kernel cannot be kept in the cache: %s. It is kept in %s", reasons[0], folder)
            for left in folder.glob("building-*"):  # by a process that was killed
                with contextlib.suppress(FileNotFoundError):  # of one that has just ended
                    if time.time() - left.stat().st_mtime > 3600:
                        shutil.rmtree(left, ignore_errors=True)
            return folder
        reasons.append(str(reason))
    _log.warning("the CPU kernel cannot be kept for the next time: %s", "; ".join(reasons))
    return None


def _unusable(folder: Path) -> str | None:
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        reason = _foreign(folder)
        if reason is not None:
            return f"{folder}: {reason}"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} cannot be written"
        if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            return f"{folder} is on a file system that is mounted noexec"
    except OSError as error:
        return str(error)
    return None


@contextlib.contextmanager
def turn(folder: Path, key: str) -> Iterator[None]:
    """One process at a time builds a kernel. The lock of a process that dies is let go by the system.

    After ``WAIT`` seconds, and where the file system has no locks, this process goes on without.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((folder / f"{key}.lock").open("a+"))
            _acquire(file.fileno(), folder, key)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except OSError:
            pass
        yield


def _acquire(descriptor: int, folder: Path, key: str) -> None:
    if fcntl is None:
        return
    begin = time.monotonic()
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() - begin > WAIT:
                _log.warning("process %s still compiles after %d s: this one does it, too", _holder(folder, key), WAIT)
                raise
        if not said:
            _log.warning(
                "process %s compiles the CPU kernel (%s): waiting for it, %d s at most",
                _holder(folder, key), seen(folder), WAIT,
            )  # fmt: skip
            said = True
        time.sleep(_POLL)


def _holder(folder: Path, key: str) -> str:
    return (folder / f"{key}.lock").read_text() or "of another user"


def keep(built: Path, folder: Path, key: str) -> None:
    """Give a kernel, built inside the folder, its final name in one step: others see all of it or nothing."""
    try:
        built.chmod(0o644)
        built.replace(folder / f"kernel-{key}-{_digest(built)}.so")
    except OSError as error:
        _log.warning("the CPU kernel cannot be kept for the next time: %s", error)


def note_seconds(folder: Path, seconds: float) -> None:
    """Keep how long a build took, for ``seen``."""
    with contextlib.suppress(OSError):
        (folder / "seconds").write_text(f"{seconds:.0f}")


def seen(folder: Path | None) -> str:
    """How long the last build took here."""
    try:
        if folder is not None:
            return f"took {int((folder / 'seconds').read_text())} s here last time"
    except (OSError, ValueError):
        pass
    return "how long that takes here is not known yet"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:24]
