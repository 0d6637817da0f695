"""What tests of compiling and keeping the CPU kernel share."""

from pathlib import Path

import pytest

import asgc.optimizer
from asgc.implementations.cpu import build, kernel_cache

PLAIN = [(["-O1", "-fopenmp"], [])]  # compiles in seconds


def forget() -> None:
    """As a process that has not loaded a kernel and has said nothing."""
    build._library = build._failure = None
    asgc.optimizer._say.cache_clear()
    kernel_cache.say.cache_clear()


def kernels(folder: Path) -> list[Path]:
    return sorted(folder.glob("kernel-*.so"))


def messages(caplog: pytest.LogCaptureFixture, word: str) -> int:
    return sum(word in record.getMessage() for record in caplog.records)
