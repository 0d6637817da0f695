"""The TensorBoard mirror of metrics.jsonl."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from evaluation.errors import UserError, reason
from evaluation.metrics_file import MetricRow


class TensorBoardMirror:
    """Writes every row as the scalar ``split/name``. A mirror only: when it fails, one message, and the run goes on.

    `purge_step` (on resume): TensorBoard drops what earlier files hold at that step and later; the rows of `kept` (what
    the checkpoint holds) from that step on are written again. So no event shows twice and none is missing.
    """

    def __init__(
        self,
        folder: Path,
        message: Callable[[str], None],
        *,
        purge_step: int | None = None,
        kept: Iterable[MetricRow] = (),
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # about a second: only where it is wanted
        except ImportError as error:
            raise UserError("tensorboard is not installed: pip install tensorboard, or --tensorboard false") from error
        self._message = message
        self._writer: Any = None
        _wait_for_a_later_name(folder)
        with self._guard():
            self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)
        if purge_step is not None:
            self.write(row for row in kept if row.step >= purge_step)

    def write(self, rows: Iterable[MetricRow]) -> None:
        """Mirror `rows`."""
        with self._guard():
            for row in rows:
                if self._writer is not None:
                    self._writer.add_scalar(f"{row.split}/{row.name}", row.value, row.step)

    def flush(self) -> None:
        """Bring what was mirrored into the event file."""
        with self._guard():
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        with self._guard():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._message(f"TensorBoard events are no longer written ({reason(error)}); metrics.jsonl goes on")
            self._writer = None


def _wait_for_a_later_name(folder: Path) -> None:
    """Let the second pass in which the folder's last event file was opened, if it is the present one.

    TensorBoard reads the files of a folder in the order of their names, ``events.out.tfevents.SECOND.HOST.PID``:
    opened in the same second, a resumed session could come before the one it goes on from.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)
