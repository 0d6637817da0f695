"""One thread for each process of the tests, which run side by side (see addopts in pyproject.toml)."""

from __future__ import annotations

import os

# Read by the numerical libraries when they are imported, in the tests' own processes and in those that tests start.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
