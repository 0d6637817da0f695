"""Errors a user can mend, and the guard that turns them into one line and an exit code."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What a path that was typed meets: no defect of the program.
_BAD_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_PLAIN = {"·": "-", "…": ".", "▲": "^", "▼": "v", "○": "o"}  # of one column each, so that tables keep their form
# Disks and mounts that fail while a program writes: the user's to mend as well.
DISK_FAILS = frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN})


class UserError(Exception):
    """Something the user can mend: the message is one clear line saying what is wrong and what to do."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


def reason(error: BaseException) -> str:
    """The cause of `error` in a few words on one line: an `OSError`'s own text, without its number and its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def tell(line: str) -> None:
    """Print a line to stderr, or to nobody where its terminal or pipe is gone."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def open_streams() -> None:
    """Where the shell closed stdin, stdout or stderr (``>&-``), open the null device in its place.

    Otherwise the first file that is opened takes the number, and what a library prints goes into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open


def main_guard(main: Callable[P, int | None]) -> Callable[P, int]:
    """Wrap a program's `main` so that it returns an exit code; the caller does ``sys.exit(main())``.

    `UserError`: its line on stderr and 2. A disk that is full, fails or has become read-only, a file that may not be
    read or written, a path that the system refuses: one line and 2. `KeyboardInterrupt`: 130. A reader that closed the
    pipe (``asgc-rl games | head``): silence and 141. Any other exception is a defect of the program and keeps its
    traceback; `SystemExit` passes through.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        open_streams()
        say_everything()
        try:
            code = main(*args, **kwargs) or 0
            sys.stdout.flush()  # here, not at the interpreter's exit, so that a closed pipe is met inside the guard
            return code
        except UserError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            tell("interrupted")
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.errno in _BAD_PATH and error.filename is not None:
                return _fail(f"{reason(error)}: {os.fsdecode(error.filename)}")
            if error.errno not in DISK_FULL | DISK_FAILS:
                raise
            where = f" writing {error.filename}" if error.filename else ""
            remedy = "free some space" if error.errno in DISK_FULL else "mend that"
            return _fail(f"{reason(error)}{where}: {remedy}, then run it again (a training run with --resume)")
        finally:
            _let_go()

    return guarded


def say_everything() -> None:
    """Let standard output and standard error take every text, whatever their encoding: a run does not end because a
    log cannot show a letter. File names that are no text are written as the bytes that they are."""
    codecs.register_error("asgc", _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="asgc")


def _spelled_out(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return _PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode(), error.start + 1


def _let_go() -> None:
    """Send what is still buffered for a pipe or terminal that is gone nowhere: it would raise again at exit (Python's
    documentation of SIGPIPE), and the exit code be 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str) -> int:
    tell(f"error: {message}")
    return EXIT_USER_ERROR
