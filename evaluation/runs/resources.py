"""Is there enough memory and disk? Asked before a run starts, answered in one line that names the flag to change."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from evaluation.cli.errors import UserError


def human_bytes(count: float) -> str:
    """Bytes for people, in powers of 1000: ``7.1 GB``."""
    if abs(count) < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if abs(count) < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def available_memory(device: str = "cpu", *, root: Path = Path("/")) -> int | None:
    """Bytes a process can still allocate on `device`, or None where the system does not tell.

    On a CPU the least of /proc/meminfo's MemAvailable and what every control group above this process (version 1 or 2:
    containers, batch systems) leaves below its limit; file cache that the kernel would give back counts as available.
    `root` is where /proc and /sys are found (for tests).
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    limits = [_meminfo(root / "proc/meminfo"), *_cgroup_limits(root)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def check_memory(needed: int, what: str, remedy: str, *, device: str = "cpu") -> None:
    """Raise `UserError` when `what` (its size in bytes: `needed`) does not fit into the memory of `device`; `remedy`
    says what to do ("lower --replay-size")."""
    available = available_memory(device)
    if available is not None and needed > available:
        place = "GPU memory" if device.startswith("cuda") else "memory"
        raise UserError(
            f"not enough {place}: {human_bytes(needed)} needed for {what}, {human_bytes(available)} available; {remedy}"
        )


def available_disk(path: Path) -> int:
    """Bytes free for this user on the file system where `path` is or would be created."""
    return shutil.disk_usage(_existing(path)).free


def check_disk(path: Path, needed: int, what: str, remedy: str) -> None:
    """Raise `UserError` when `needed` bytes of `what` do not fit on the disk of `path` (which need not exist yet), or
    nothing may be written there."""
    if os.statvfs(_existing(path)).f_flag & os.ST_RDONLY:
        raise UserError(f"{path} is on a read-only file system: choose another --run-dir")
    available = available_disk(path)
    if needed > available:
        raise UserError(
            f"not enough disk space for {path}: {human_bytes(needed)} needed for {what}, "
            f"{human_bytes(available)} free; {remedy}"
        )


def _existing(path: Path) -> Path:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def _meminfo(path: Path) -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+)", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _cgroup_limits(root: Path) -> list[int]:
    """What each control group that holds this process leaves: its limit less its usage, plus reclaimable file cache."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for membership in memberships:
        _, controllers, name = membership.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / name.lstrip("/")
        # Inside a container the path may be the host's, absent here: the mount point itself then is the container's
        # group.
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount) and (limit := _cgroup_left(folder, *names)) is not None:
                left.append(limit)
    return left


def _cgroup_left(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - usage + int(stat.get(cache_name, 0)))
