"""`--track`: the same run with it and without, also when only one of its sessions is followed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.tasks.atari
from evaluation.cli.errors import UserError
from evaluation.runs import tracking
from rl import train
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import CatchPool
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config


@pytest.fixture(autouse=True)
def catch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play Catch instead of Atari, in one thread."""

    def make(game: str, protocol: object, env: object, *, num_envs: int, seed: int, **options: Any) -> AtariEnvs:
        return AtariEnvs(CatchPool(num_envs, seed), num_envs, episodic_life=False)

    monkeypatch.setattr(rl.tasks.atari, "make_envs", make)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_followed_run_is_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train(catch_config(tmp_path / "alone", total_steps=1_200))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "followed", total_steps=1_200, track="wandb"), watchers=[StopAt(1_000)])
    train(catch_config(tmp_path / "followed", total_steps=1_200), resume=True)
    assert_same_run(tmp_path / "alone", tmp_path / "followed")
    assert json.loads((tmp_path / "followed" / tracking.IDENTITY).read_text())["wandb"]["id"]
    assert list((tmp_path / "followed" / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_package_stops_before_the_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--track mlflow: mlflow is not installed"):
        train(catch_config(tmp_path / "run", track="mlflow"))
    assert not (tmp_path / "run").exists()
