"""Real runs that must improve: minutes long, so `python -m pytest -m slow tests/rl/test_pong.py`."""

from pathlib import Path

import pytest

from evaluation.runs.run_folder import read_series
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


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["asgc", "adam+clip", "radam+clip"])
def test_pqn_quick_learns_pong(tmp_path: Path, optimizer: str) -> None:
    """Two and a half minutes of one core each."""
    config = TrainConfig.preset(
        "pqn-quick", total_steps=250_000, run_dir=str(tmp_path / "run"), optimizer={"name": optimizer}
    )
    assert train(config)["mean_score"] > -17


@pytest.mark.slow
@pytest.mark.parametrize(("game", "score"), [("Pong", -18.0), ("Breakout", 4.0), ("SpaceInvaders", 190.0)])
def test_atari_small_learns_each_of_its_games(tmp_path: Path, game: str, score: float) -> None:
    """Random players score -20.7, 1.7 and 148 (Mnih et al., 2015, Extended Data Table 2)."""
    config = TrainConfig.preset(
        "atari-small", game=game, run_dir=str(tmp_path / "run"), optimizer={"name": "adam", "lr": 5e-4}
    )
    assert train(config)["mean_score"] > score
