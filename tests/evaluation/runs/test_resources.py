"""Memory and disk are checked before a run, with one line that names the flag."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.cli.errors import UserError
from evaluation.runs import resources
from evaluation.runs.resources import available_disk, available_memory, check_disk, check_memory, human_bytes

GIB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   16777216 kB\n"


def test_without_limits_it_is_what_the_kernel_calls_available(tmp_path):
    assert available_memory(root=system(tmp_path, {"proc/meminfo": MEMINFO})) == 16 * GIB
    unlimited = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.stat": ""}
    assert available_memory(root=system(tmp_path, unlimited)) == 16 * GIB


def test_a_limit_of_control_group_2_counts_also_when_a_parent_holds_it(tmp_path):
    group = "sys/fs/cgroup/batch"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/batch/job\n",
        f"{group}/job/memory.max": "max\n",
        f"{group}/job/memory.current": "100\n",
        f"{group}/job/memory.stat": "anon 50\ninactive_file 0\n",
        f"{group}/memory.max": f"{4 * GIB}\n",
        f"{group}/memory.current": f"{3 * GIB}\n",
        f"{group}/memory.stat": f"anon {GIB}\ninactive_file {GIB}\n",
    }
    assert available_memory(root=system(tmp_path, files)) == 2 * GIB  # 4 - 3 + 1 that is only cache


def test_a_limit_of_control_group_1_counts_inside_a_container_too(tmp_path):
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert available_memory(root=system(tmp_path, files)) == GIB


def test_a_system_that_does_not_tell_refuses_nothing(tmp_path, monkeypatch):
    assert available_memory(root=tmp_path) is None
    monkeypatch.setattr(resources, "available_memory", lambda device: None)
    check_memory(1 << 60, "the replay", "lower --replay-size")


def test_this_machine_tells():
    assert 1 << 20 < available_memory() < 1 << 50


def test_too_little_memory_names_the_flag(monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda device: 3_000_000_000)
    check_memory(3_000_000_000, "the replay", "lower --replay-size")
    with pytest.raises(UserError) as caught:
        check_memory(7_100_000_000, "the replay", "lower --replay-size")
    assert str(caught.value) == "not enough memory: 7.1 GB needed for the replay, 3.0 GB available; lower --replay-size"


def test_too_little_disk_names_both_flags(tmp_path):
    folder = tmp_path / "not" / "yet" / "there"
    assert available_disk(folder) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    remedy = "lower --replay-size or choose another --run-dir"
    check_disk(folder, 1000, "the checkpoints", remedy)
    with pytest.raises(UserError) as caught:
        check_disk(folder, 10**18, "the checkpoints", remedy)
    message = str(caught.value)
    assert message.startswith(f"not enough disk space for {folder}: 1000000.0 TB needed for the checkpoints, ")
    assert message.endswith("lower --replay-size or choose another --run-dir")
    assert not folder.parent.parent.exists()


def test_a_read_only_mount_is_called_read_only(tmp_path, monkeypatch):
    """Also where nothing is free on it, as on every image that was made read-only."""
    flags = os.statvfs(tmp_path).f_flag
    monkeypatch.setattr(resources, "available_disk", lambda path: 0)
    monkeypatch.setattr(resources.os, "statvfs", lambda path: SimpleNamespace(f_flag=flags | os.ST_RDONLY))
    with pytest.raises(UserError, match="run is on a read-only file system: choose another --run-dir"):
        check_disk(tmp_path / "run", 1000, "the checkpoints", "free some")


def test_bytes_for_people():
    texts = [human_bytes(count) for count in (0, 999, 1000, 1_500_000, 7_056_000_000, 10**13)]
    assert texts == ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "7.1 GB", "10.0 TB"]
