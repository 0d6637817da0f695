"""Studies that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation import run_trees
from tests.evaluation.synthetic_study import write_study

DEMO_SEEDS = 3


@pytest.fixture(scope="session")
def demo_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two tasks, two settings and three optimizers, with parts of every kind; not to be changed."""
    pytest.importorskip("duckdb", reason="the study extra is not installed")
    pytest.importorskip("pyarrow", reason="the study extra is not installed")
    return write_study(tmp_path_factory.mktemp("demo") / "demo", seeds=DEMO_SEEDS, trials=4, draws=6)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Runs adam 1 to 3; what a test breaks is adam 2."""
    planned = [run_trees.Planned("adam", seed) for seed in (1, 2, 3)]
    return run_trees.write_study(tmp_path / "tiny", planned)
