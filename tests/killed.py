"""Training processes that are killed in the middle, for the tests of both trainers."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from evaluation.runs.run_folder import is_finished, read_metrics


def kill_at(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """kill -9 a process as soon as the metrics of its run show `step`."""
    deadline = time.monotonic() + 120
    try:
        while not (run / "config.yaml").exists() or max((row.step for row in read_metrics(run)), default=0) < step:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not is_finished(run)
