"""What several tests of pictures and reports share: one made-up study, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.synthetic_study import write_study

DEMO_SEEDS = 3


@pytest.fixture(scope="session")
def demo_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two tasks, two settings and three optimizers, with parts of every kind; not to be changed."""
    pytest.importorskip("duckdb", reason="the study extra is not installed")
    pytest.importorskip("pyarrow", reason="the study extra is not installed")
    return write_study(tmp_path_factory.mktemp("demo") / "demo", seeds=DEMO_SEEDS, trials=4, draws=6)
