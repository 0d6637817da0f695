"""One thread for each process of the tests, which run side by side (see addopts in pyproject.toml); and the signals
that they send to themselves and to what they start: under nohup, or behind `&` in a script, some are ignored."""

from __future__ import annotations

import os
import signal

# Read by the numerical libraries when they are imported, in the tests' own processes and in those that tests start.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

for _number, _usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
