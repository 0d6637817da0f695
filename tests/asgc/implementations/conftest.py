"""A cache of kernels and a process that has loaded none."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgc.implementations.cpu import build
from tests.asgc.implementations.kernel_files import PLAIN, forget


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache and a process that has not loaded the kernel yet."""
    before = build._library, build._failure
    monkeypatch.setattr(build, "_variants", lambda cpu: PLAIN)
    monkeypatch.setenv("ASGC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    forget()
    yield tmp_path / "cache"
    forget()
    build._library, build._failure = before


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel: the compiler is asked once for all tests that only want a file that loads."""
    built = tmp_path_factory.mktemp("compiled") / "kernel.so"
    source = Path(build.__file__).parent / build._SOURCE
    build._compile(build._compiler(), source, built, *PLAIN[0])
    return built


@pytest.fixture
def quick(fresh: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``fresh``, with a compiler that takes no time."""
    monkeypatch.setattr(build, "_compile", lambda compiler, source, built, *flags: shutil.copyfile(compiled, built))
    return fresh
