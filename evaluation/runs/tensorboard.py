"""The TensorBoard mirror of metrics.jsonl."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from evaluation.cli.errors import UserError, reason
from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.watchers import Watcher

_SECONDS = re.compile(r"events\.out\.tfevents\.(\d{10})\.")  # of the writer's clock


class TensorBoardMirror(Watcher):
    """Writes every row as the scalar ``split/name``. A mirror only: when it fails, one message, and the run goes on.

    `purge_step` (on resume): TensorBoard drops what earlier files hold at that step and later; the rows of `kept` (what
    the checkpoint holds) from that step on are written again. So no event shows twice and none is missing.

    Events are what torch's `SummaryWriter.add_scalar` writes, but written at once and in the caller's thread: its queue
    loses up to ten of them to a kill, and its thread meets a full disk with a traceback that nobody can catch.
    """

    def __init__(
        self,
        folder: Path,
        message: Callable[[str], None],
        *,
        purge_step: int | None = None,
        kept: Iterable[MetricRow] = (),
    ) -> None:
        self._message = message
        self._events: _EventFile | None = None
        with self._guard():
            self._events = _EventFile(folder)
            if purge_step is not None:
                self._events.restart(purge_step)
                self.logged(row for row in kept if row.step >= purge_step)

    def logged(self, rows: Iterable[MetricRow]) -> None:
        """Mirror `rows`."""
        with self._guard():
            for row in rows:
                if self._events is not None:
                    self._events.scalar(f"{row.split}/{row.name}", row.value, row.step)

    def close(self, finished: bool = False) -> None:
        """Close the event file, whether the run is finished or not."""
        if self._events is not None:
            self._events.close()
            self._events = None

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._message(f"TensorBoard events are no longer written ({reason(error)}); metrics.jsonl goes on")
            self.close()


class _EventFile:
    """A new event file in `folder`, unbuffered."""

    def __init__(self, folder: Path) -> None:
        try:  # about half a second: only where it is wanted
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise UserError("tensorboard is not installed: pip install tensorboard, or --tensorboard false") from error
        self._event, self._summary, self._session_log = Event, Summary, SessionLog
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, which must be that of the sessions, also
        # where the clock has gone back. A kill and a resume may come within a second.
        found = [_SECONDS.match(file.name) for file in folder.iterdir()]
        seconds = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._write(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, simple_value=value)]))

    def restart(self, step: int) -> None:
        """Tell TensorBoard that the run goes on at `step`."""
        self._write(step=step, session_log=self._session_log(status=self._session_log.START))

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
