"""Compiling, caching and loading the CPU kernel."""

import hashlib
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asgc import ASGC
from asgc.implementations.cpu import build, kernel_cache
from tests.asgc.implementations.kernel_files import forget, kernels, messages


def test_compiles_once_says_so_and_notices_damage(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asgc"):
        assert build.unavailable() is None
        assert messages(caplog, "compiling the CPU kernel once") == 1
        (file,) = kernels(fresh)
        content = file.read_bytes()
        forget()
        assert build.unavailable() is None
        assert messages(caplog, "compiling the CPU") == 1
        # Half a file crashes the dynamic loader, so it must be noticed before.
        file.unlink()
        file.write_bytes(content[: len(content) // 2])
        forget()
        assert build.unavailable() is None
        assert messages(caplog, "is damaged and is built again") == 1
        assert messages(caplog, "compiling the CPU") == 2
        assert [f.read_bytes() == content or len(f.read_bytes()) > 1000 for f in kernels(fresh)] == [True]
        # Whole, but not what it should be: an older kernel under this name does not load.
        (file,) = kernels(fresh)
        file.unlink()
        text = b"no shared object"
        (fresh / f"{file.stem.rpartition('-')[0]}-{hashlib.sha256(text).hexdigest()[:24]}.so").write_bytes(text)
        forget()
        assert build.unavailable() is None
        assert messages(caplog, "compiling the CPU") == 3


def test_another_compiler_flag_or_cpu_builds_its_own(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.load_kernel()
    forget()
    monkeypatch.setattr(build, "_cpu", lambda: "another CPU")
    build.load_kernel()
    forget()
    monkeypatch.setattr(build, "_variants", lambda cpu: [(["-O0"], [])])
    build.load_kernel()
    assert len({file.name.split("-")[1] for file in kernels(fresh)}) == 3


def test_falls_back_to_fewer_flags(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [(["-O1", "-fno-such-flag"], []), (["-O1"], ["-lno-such-library"]), (["-O1"], [])]
    monkeypatch.setattr(build, "_variants", lambda cpu: variants)
    assert build.unavailable() is None


def test_an_unwritable_cache_still_serves(
    fresh: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.write_text("a file where the folder should be")
    monkeypatch.setattr(kernel_cache, "_temporary_folder", lambda: None)
    with caplog.at_level(logging.WARNING, "asgc"):
        assert build.unavailable() is None
    assert messages(caplog, "cannot be kept") == 1
    p = torch.zeros(3)
    opt = ASGC([p], 0.1, implementation="cpu")
    p.grad = torch.ones(3)
    opt.step()
    assert (p < 0).all()


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_foreach_serves_and_it_is_said_once(
    fresh: Path, compiler: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING, "asgc"):
        for _ in range(2):
            p = torch.zeros(3)
            opt = ASGC([p], 0.1)
            p.grad = torch.ones(3)
            opt.step()
            opt.step()
    assert opt.param_groups[0]["implementation"] == "foreach"
    assert messages(caplog, "foreach implementation") == 1
    assert compiler.rpartition("/")[2] in caplog.text
    with pytest.raises(ValueError, match="implementation='cpu' cannot be used"):
        ASGC([torch.zeros(3)], 0.1, implementation="cpu")


def test_a_kernel_that_computes_wrong_noise_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "noise", lambda *args: torch.zeros(40))
    assert "wrong noise" in str(build.unavailable())


def build_twice() -> None:
    build.load_kernel()
    forget()
    build.load_kernel()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a new process would import torch")
def test_processes_that_build_at_the_same_time_share_one_file(fresh: Path) -> None:
    runs = [multiprocessing.get_context("fork").Process(target=build_twice) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=120)
        assert run.exitcode == 0
    # Every file is whole and nothing is left half-written.
    files = kernels(fresh)
    assert len(files) == 1
    assert all(kernel_cache._digest(file) == file.stem.rpartition("-")[2] for file in files)
    assert {file.suffix or file.name for file in fresh.iterdir()} == {".so", ".lock", "seconds"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the process's memory map")
def test_there_is_one_openmp_runtime() -> None:
    """The kernel's threads are torch's: no second runtime is loaded, and torch.set_num_threads holds."""
    # torch's pool of three threads is there; the step starts none of its own.
    code = (
        "import torch, os\n"
        "from asgc import ASGC\n"
        "torch.set_num_threads(3)\n"
        "p = torch.zeros(1 << 20); p.grad = torch.ones(1 << 20).add_(1)\n"
        "opt = ASGC([p], 0.1, implementation='cpu')\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "opt.step()\n"
        "maps = [line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'libomp' in line]\n"
        "print(before, len(os.listdir('/proc/self/task')), len(set(maps)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    before, after, runtimes = map(int, done.stdout.split())
    assert before == after >= 3
    assert runtimes <= 1  # in a process of its own: scikit-learn and others bring theirs
