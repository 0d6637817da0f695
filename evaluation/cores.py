"""How many cores there are for this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and by its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, cpu_quota()))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores that a container (control groups, version 2 or 1) may use; without a limit `sys.maxsize`."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (root / quota).read_text().split() + ((root / period).read_text().split() if period else [])
            if int(words[0]) > 0:
                return max(1, round(int(words[0]) / int(words[1])))
        except (OSError, ValueError, IndexError):
            continue  # no such file, or "max"
    return sys.maxsize
