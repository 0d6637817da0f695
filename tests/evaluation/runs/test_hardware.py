"""Device, precision and threads of a run."""

import contextlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.cores import cpu_quota, usable_cores
from evaluation.runs.hardware import (
    cpu_multiplies_bf16,
    keep_freed_memory,
    select_device,
    select_precision,
    select_threads,
    torch_threads,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--device cuda"):
        select_device("cuda")
    assert select_device("auto").type == "cpu"


def test_auto_precision_follows_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512_bf16 sse\n")
    assert cpu_multiplies_bf16(cpuinfo)
    cpuinfo.write_text("flags : fpu avx2 sse\n")
    assert not cpu_multiplies_bf16(cpuinfo)
    cpu = torch.device("cpu")
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("evaluation.runs.hardware.cpu_multiplies_bf16", lambda has=has: has)
        assert select_precision("auto", cpu) == expected
    assert select_precision("fp32", cpu) == "fp32"


def test_threads_are_lent_for_a_block() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(ValueError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("cores", "load", "of_torch", "quota", "most", "expected"),
    [
        (2, 0.3, 2, 99, None, 2),
        (2, 1.0, 2, 99, None, 1),
        (2, 15.0, 2, 99, None, 1),  # where two were four times slower
        (64, 3.2, 32, 99, None, 32),
        (64, 60.0, 32, 99, None, 4),
        (64, 0.0, 32, 2, None, 2),  # a container of two cores on a large machine
        (8, 0.0, 1, 99, None, 1),  # OMP_NUM_THREADS=1
        (8, 0.0, 8, 99, 1, 1),
    ],
)
def test_threads_are_the_free_cores(
    cores: int,
    load: float,
    of_torch: int,
    quota: int,
    most: int | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("torch.get_num_threads", lambda: of_torch)
    monkeypatch.setattr("evaluation.runs.hardware.cpu_quota", lambda: quota)
    assert select_threads(None, most) == expected
    assert select_threads(7, most) == 7  # given


def test_quotas_of_containers(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == sys.maxsize
    (tmp_path / "cpu").mkdir()
    for quota, expected in (("-1", sys.maxsize), ("250000", 2), ("50000", 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert cpu_quota(tmp_path) == expected
    for text, expected in (("400000 100000\n", 4), ("max 100000\n", 1)):  # version 2 first, where it has a limit
        (tmp_path / "cpu.max").write_text(text)
        assert cpu_quota(tmp_path) == expected


FAULTS = """
import resource
import torch
from evaluation.runs.hardware import keep_freed_memory

keep_freed_memory()
torch.set_num_threads(1)

def steps(count):
    for _ in range(count):
        tensors = [torch.ones(2 << 20) for _ in range(3)]  # 8 MiB each
        del tensors

steps(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_is_freed_is_kept_for_the_next_tensors() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5_000  # of 4 KiB each; without, 120,000


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_=1", "GLIBC_TUNABLES=glibc.malloc.mmap_max=1", "OTHER=1"])
def test_what_the_user_has_told_the_c_library_stays(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        mallopt = staticmethod(lambda *option: told.append(option))

    monkeypatch.setattr("evaluation.runs.hardware.ctypes.CDLL", lambda name: Library)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(*variable.split("=", 1))
    keep_freed_memory()
    assert [option for option, _ in told] == ([-3, -1] if variable == "OTHER=1" else [])


def test_cores_are_those_of_the_affinity_and_the_quota(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for quota, expected in ((sys.maxsize, 6), (4, 4), (1, 1)):
        monkeypatch.setattr("evaluation.cores.cpu_quota", lambda quota=quota: quota)
        assert usable_cores() == expected
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1
