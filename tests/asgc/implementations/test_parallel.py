"""Replicas, shards and meshes: checks of ``parallel_checks.py`` in groups of 2, 3 and 4 processes, one test each."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.asgc.implementations.parallel_checks import CHECKS

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Made once, also where the tests of this file go to several workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "results.json").exists():
            _run(folder)
    found: dict[str, dict[str, str]] = json.loads((folder / "results.json").read_text())
    return found


def _run(folder: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    command = [sys.executable, "-m", "tests.asgc.implementations.parallel_checks", str(folder)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world, checks in CHECKS.items() for name in checks], ids=str
)
def test_ranks(results: dict[str, dict[str, str]], world: int, name: str) -> None:
    error = results[str(world)][name]
    assert not error, error
