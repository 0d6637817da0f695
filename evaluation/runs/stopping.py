"""Signals that stop a run after a whole step, or in the middle of an evaluation."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from evaluation.runs.agreement import Agreement, Alone
from evaluation.runs.watchers import Watcher, Watchers

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Left(BaseException):
    """An evaluation was left because of a signal. (No `Exception`: nothing on the way is to catch it.)"""


class Stop(Watcher):
    """Whether a signal has asked the run to stop; ends an evaluation that goes on."""

    def __init__(self, agreement: Agreement) -> None:
        self.asked, self._agreement = False, agreement

    def evaluating(self, done: int, total: int) -> None:
        if self._agreement.leaves(self.asked):
            raise Left


@contextlib.contextmanager
def stop_on_signal(watchers: Watchers, agreement: Agreement | None = None) -> Iterator[Stop]:
    """What Ctrl-C, SIGTERM and SIGHUP ask, so that a loop can end after a whole step; a second Ctrl-C interrupts.

    (A terminal that is closed may send SIGHUP twice, by itself and by its shell.) SIGHUP stays ignored under nohup.
    """
    stop = Stop(agreement or Alone())
    watchers.members.append(stop)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.asked = True
        with contextlib.suppress(RuntimeError):  # the signal may have come while a line was printed
            watchers.message("stopping: saving a checkpoint (Ctrl-C once more to stop at once, unsaved)")

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [number for number in STOPPING if not (number == signal.SIGHUP and ignored)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
