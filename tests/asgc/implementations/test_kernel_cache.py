"""Where kernels are kept, whose are loaded, and how processes wait for one that builds."""

import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgc.implementations.cpu import build, kernel_cache
from tests.asgc.implementations.kernel_files import forget, kernels, messages

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="files without owners, no fork"),
]


@pytest.fixture
def cache(quick: Path) -> Path:
    """One kernel in the cache, none in the process."""
    build.load_kernel()
    forget()
    return quick


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "asgc"):
        yield caplog


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(build, "_compile", compile_)


def in_a_process(function: Any, *args: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    return process


def joined(process: Any) -> bool:
    process.join(timeout=60)
    return bool(process.exitcode == 0)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_others_may_read_it(quick: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        build.load_kernel()
    finally:
        os.umask(before)
    assert quick.stat().st_mode & 0o777 == 0o755
    assert kernels(quick)[0].stat().st_mode & 0o777 == 0o644


def test_a_folder_that_was_there_keeps_its_mode(quick: Path) -> None:
    quick.mkdir(mode=0o700)
    build.load_kernel()
    assert quick.stat().st_mode & 0o777 == 0o700


def test_it_is_found_before_a_compiler_is_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail(f"ran {args}"))
    assert build.unavailable() is None
    assert kernels(cache)


def test_one_that_cannot_be_read_is_not_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    (file,) = kernels(cache)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert build.unavailable() is None
    assert messages(said, "cannot be read: [Errno 13] Permission denied") == 1
    assert messages(said, "damaged") == 0
    assert file.exists()


def test_one_that_does_not_load_here_stays_for_others(cache: Path, said: pytest.LogCaptureFixture) -> None:
    """Such as one for a newer C library, or another torch, that shares the folder."""
    (file,) = kernels(cache)
    other = cache / "other.so"
    other.write_bytes(b"made for another system")
    name = f"{file.stem.rpartition('-')[0]}-{kernel_cache._digest(other)}.so"
    file.unlink()
    other.rename(cache / name)
    assert build.unavailable() is None
    assert messages(said, "does not load") == 1
    assert messages(said, "damaged") == 0
    assert len(kernels(cache)) == 2
    forget()
    assert build.unavailable() is None
    assert messages(said, "compiling the CPU") == 1


def test_a_folder_that_cannot_be_searched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "glob", refuse)
    assert list(kernel_cache.found("key")) == []


@pytest.mark.parametrize("who", ["another user", "a user whose folder ASGC_CACHE_DIR names"])
def test_whose_kernels_are_loaded(
    who: str, cache: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Loading one runs its code."""
    real, owner = Path.stat, 4321

    def stat(path: Path, **kwargs: Any) -> os.stat_result:
        fields = list(real(path, **kwargs))
        fields[4] = owner
        return os.stat_result(fields)

    if who == "another user":  # in the default folder: $HOME may be that of another one, as under sudo
        monkeypatch.delenv("ASGC_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        shutil.copytree(cache, tmp_path / "home" / "asgc")
    else:
        forbid(monkeypatch)
    monkeypatch.setattr(kernel_cache, "_user", lambda: 1234)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        assert build.unavailable() is None
    found = messages(said, "is not loaded: it belongs to another user (4321)")
    assert found == (1 if who == "another user" else 0)
    assert messages(said, "compiling the CPU") == found


@pytest.mark.parametrize(
    ("file", "folder", "loads"),
    [(0o666, 0o755, False), (0o664, 0o755, False), (0o644, 0o777, False), (0o600, 0o700, True)],
)
def test_one_that_others_can_write_is_not_loaded(
    file: int, folder: int, loads: bool, cache: Path, said: pytest.LogCaptureFixture
) -> None:
    kernels(cache)[0].chmod(file)
    cache.chmod(folder)
    assert build.unavailable() is None
    assert messages(said, "can write to it") == (0 if loads else 2 if folder == 0o777 else 1)
    assert messages(said, "compiling the CPU") == (0 if loads else 1)


@pytest.mark.parametrize("home", ["none", "read-only", "noexec"])
def test_a_temporary_folder_where_there_is_no_home(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("ASGC_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "none":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        if home == "read-only":
            access = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: ".cache" not in str(path) and access(path, mode))
        else:
            (tmp_path / ".cache" / "asgc").mkdir(parents=True)
            real = os.statvfs

            def statvfs(path: Any) -> Any:
                fields = list(real(path))
                return os.statvfs_result([*fields[:8], os.ST_NOEXEC if ".cache" in str(path) else 0, fields[9]])

            monkeypatch.setattr(os, "statvfs", statvfs)
    assert build.unavailable() is None
    reason = {"none": "there is no home folder", "read-only": "cannot be written", "noexec": "mounted noexec"}[home]
    assert messages(said, reason) == 1
    folder = tmp_path / "temporary" / f"asgc-{os.geteuid()}"
    assert len(kernels(folder)) == 1
    forget()
    assert build.unavailable() is None
    assert messages(said, "compiling the CPU") == 1  # and found there


def test_without_any_folder_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: None)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert "no folder to compile the CPU kernel in" in str(build.unavailable())


def test_the_wait_is_announced_with_what_was_seen(
    quick: Path,
    said: pytest.LogCaptureFixture,
) -> None:
    build.load_kernel()
    assert messages(said, "how long that takes here is not known yet") == 1
    assert messages(said, "the CPU kernel was compiled in ") == 1
    (quick / "seconds").write_text("43")
    kernels(quick)[0].unlink()
    forget()
    build.load_kernel()
    assert messages(said, "took 43 s here last time") == 1
    assert int((quick / "seconds").read_text()) < 43
    (quick / "seconds").write_text("no number")
    assert kernel_cache.seen(quick) == "how long that takes here is not known yet"


def slow_build(calls: Path, seconds: float) -> None:
    real = build._compile

    def compile_(*args: Any) -> None:
        with calls.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        real(*args)

    build._compile = compile_
    build.load_kernel()


def test_one_process_builds_and_the_others_wait(quick: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    runs = [in_a_process(slow_build, calls, 0.5) for _ in range(4)]
    assert all(map(joined, runs))
    assert len(calls.read_text().split()) == 1


def test_a_killed_builder_is_survived(
    quick: Path,
    tmp_path: Path,
    said: pytest.LogCaptureFixture,
) -> None:
    calls = tmp_path / "calls"
    builder = in_a_process(slow_build, calls, 60)
    while not calls.exists():
        time.sleep(0.02)
    waiting = in_a_process(build.load_kernel)
    time.sleep(0.3)
    assert waiting.is_alive()
    os.kill(builder.pid, signal.SIGKILL)
    assert joined(waiting)
    assert len(kernels(quick)) == 1
    builder.join()
    # What it has left is removed later.
    (left,) = quick.glob("building-*")
    os.utime(left, (0, 0))
    kernels(quick)[0].unlink()
    build.load_kernel()
    assert not left.exists()


def test_the_wait_has_an_end(
    quick: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kernel_cache, "WAIT", 0.3)
    real = kernel_cache.turn

    def taken(folder: Path, key: str) -> Any:
        held = (folder / f"{key}.lock").open("w")
        held.write("1234")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(kernel_cache, "_held", held, raising=False)
        return real(folder, key)

    monkeypatch.setattr(kernel_cache, "turn", taken)
    (quick).mkdir()
    (quick / "seconds").write_text("43")
    assert build.unavailable() is None
    assert messages(said, "process 1234 compiles the CPU kernel (took 43 s here last time): waiting") == 1
    assert messages(said, "process 1234 still compiles") == 1
    assert len(kernels(quick)) == 1


def test_a_file_system_without_locks(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert build.unavailable() is None
    assert len(kernels(quick)) == 1
