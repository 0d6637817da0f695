"""Eyes on calls into environments: what they raise is told apart from our own errors, and a call that hangs is told.

One thread looks at all guards. It can only speak and, at last, send this process's main thread a signal, in whose
handler an exception is raised: no thread is killed. Python code, `sleep` and waiting for another process end by that;
a library that never comes back to Python does not, and then the lines that are told are all that can be done.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType

from evaluation.cli.errors import tell
from evaluation.cli.user_code import UserCodeError, users

GIVES_UP_AFTER = 10  # times the patience
_SIGNAL = signal.SIGVTALRM  # no shell, scheduler or library uses it
_guards: weakref.WeakSet[Guard] = weakref.WeakSet()
_made = threading.Event()  # a guard has been made: it may be less patient than those that are looked at
_watching = threading.Lock()  # held by the thread that looks


class Guard:
    """Watches the calls into some environments.

    Args:
        name: whose they are.
        patience: seconds after which a call that has not returned is told, and again whenever as many have passed;
            after `GIVES_UP_AFTER` times as many it is ended, where it can be. inf: neither.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.name, self.patience = name, patience
        self.calls = 0  # begun so far
        self._since = math.inf  # when the call that goes on began
        self._told = 0
        self._caller: int | None = None
        if math.isfinite(patience):
            if threading.current_thread() is threading.main_thread():
                signal.signal(_SIGNAL, _end_call)
            _guards.add(self)
            _made.set()
            if _watching.acquire(blocking=False):
                threading.Thread(target=_watch, name="environments' guard", daemon=True).start()

    @contextlib.contextmanager
    def call(self, what: str) -> Iterator[None]:
        """Around a call: "step" or "reset"."""
        self.calls += 1
        self._told, self._caller, self._since = 0, threading.get_ident(), time.monotonic()
        try:
            with users(f"{self.name}: its {what} (call {self.calls:,})"):
                yield
        finally:
            self._since = math.inf

    def look(self, now: float) -> None:
        """Tell that a call is late, or end it."""
        times = int((now - self._since) / self.patience) if self._since < now else 0
        if times <= self._told:
            return
        self._told = times
        late = f"{self.name} has not answered for {now - self._since:.0f} s"
        if times < GIVES_UP_AFTER:
            left = (GIVES_UP_AFTER - times) * self.patience
            tell(f"{late}: still waiting, and giving up in {left:.0f} s (--env.patience {self.patience:g})")
        elif (main := threading.main_thread().ident) is not None and self._caller == main:
            signal.pthread_kill(main, _SIGNAL)
        else:
            tell(f"{late}: nothing here can end that; end the program, and go on from its last checkpoint")

    def end(self) -> None:
        """Raise in the call that is too late."""
        if time.monotonic() - self._since > self.patience:
            raise UserCodeError(
                f"{self.name} has not answered for {time.monotonic() - self._since:.0f} s in call {self.calls:,}: "
                f"given up; should it need longer, raise --env.patience {self.patience:g}"
            )


def _end_call(number: int, frame: FrameType | None) -> None:
    for guard in list(_guards):
        guard.end()


def _watch() -> None:
    while True:
        _made.clear()
        guards = list(_guards)
        _made.wait(min([1.0, *(guard.patience / 4 for guard in guards)]))
        for guard in guards:
            guard.look(time.monotonic())
        del guards
