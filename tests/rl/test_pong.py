"""A short real run that must improve: minutes long, so `python -m pytest -m slow tests/rl/test_pong.py`."""

from pathlib import Path

import pytest

from evaluation.runs import read_series
from rl import TrainConfig, train


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["asgc", "adam"])
def test_quick_learns_pong(tmp_path: Path, optimizer: str) -> None:
    """A random player scores -20.3; seen after 100,000 steps: -3.8 (asgc) and -11.0 (adam), one seed each."""
    config = TrainConfig.preset(
        "quick", total_steps=100_000, run_dir=str(tmp_path / "run"), optimizer={"name": optimizer}
    )
    summary = train(config)
    curve = read_series(tmp_path / "run", "eval", "score")["value"]
    assert summary["mean_score"] > -16
    assert curve[-1] > curve[0]
