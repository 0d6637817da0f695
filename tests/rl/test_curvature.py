"""Looks at the curvature of RL runs: whose loss it is, and that learning is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.curvature.measure import read
from evaluation.runs.run_folder import RunFolder, read_metrics
from evaluation.runs.watchers import Watchers
from rl import TrainConfig, train
from rl.curvature import training_loss
from rl.trainer import Trainer
from tests.rl.test_control_runs import tiny
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config

pytestmark = pytest.mark.usefixtures("one_thread")
LOOKS = {"every": 1, "samples": 60, "vectors": 8}
VALUES = {"loss", "hessian_max", "hessian_min", "gradient_curvature", "preconditioned_max"}


@pytest.mark.parametrize(
    "options",
    [
        {"name": "control", "optimizer": {"name": "adam"}, "learning_starts": 400, "network": {"spectral_norm": [2]}},
        {
            "name": "control",
            "learning_starts": 400,
            "network": {"noisy": True, "dueling": True},
            "head": {"name": "c51"},
        },
        {"name": "pqn-control", "env": {"num_envs": 8}},
    ],
    ids=["dqn", "rainbow", "pqn"],
)
def test_learning_is_the_same_and_the_looks_are_logged(tmp_path: Path, options: dict[str, Any]) -> None:
    """Rainbow's noise is not drawn anew for a look; PQN is looked at in mid-rollout."""

    def config(name: str, **more: Any) -> TrainConfig:
        run = {"run_dir": str(tmp_path / name), "game": "CartPole", "total_steps": 2_100, "tensorboard": False}
        evaluation = {"interval": 1_000, "episodes": 2, "final_episodes": 2}
        return TrainConfig.preset(**{**run, "evaluation": evaluation, **options, **more})

    train(config("plain"))
    train(config("looked", curvature=LOOKS))
    rows = read_metrics(tmp_path / "looked")
    found = [row for row in rows if row.split == "curvature"]
    assert {row.name for row in found} == VALUES
    assert len({row.step for row in found}) >= 2
    assert [one["step"] for one in read(tmp_path / "looked")] == sorted({row.step for row in found})
    plain = [row for row in read_metrics(tmp_path / "plain") if row.name != "evaluation_s"]
    kept = [row for row in rows if row.split != "curvature" and row.name != "evaluation_s"]
    assert [(r.step, r.split, r.name, r.value) for r in kept] == [(r.step, r.split, r.name, r.value) for r in plain]


def test_it_is_the_loss_of_an_update_in_float32(tmp_path: Path) -> None:
    """Of the convolutions, too, whatever precision they learn in; targets are those of now, and fixed."""
    config = catch_config(tmp_path / "run", precision="bf16")
    with RunFolder(tmp_path / "run", config.to_dict(), seeds={"seed": 1}, device="cpu") as run:
        trainer = Trainer(config, run, torch.device("cpu"), Watchers())
        trainer.start()
        with training_loss(trainer.algorithm, 40, np.random.default_rng(3)) as none:
            assert none is None  # nothing is remembered yet
        while trainer.step < 1_000:
            trainer.advance()
        learner = trainer.algorithm.learner
        before = learner.network.training
        part = trainer.algorithm.part(40, np.random.default_rng(3))
        assert part is not None
        with training_loss(trainer.algorithm, 40, np.random.default_rng(3)) as problem:
            assert problem is not None
            with torch.no_grad():
                expected = float(learner.losses(part).double().mean())
            assert problem.value() == pytest.approx(expected, rel=1e-6)
            half = sum(float(problem.loss(rows).detach()) for rows in torch.arange(40).split(20))
            assert half / 40 == pytest.approx(expected, rel=1e-5)
            assert learner.precision == "fp32"
        assert (learner.precision, learner.network.training) == ("bf16", before)
        trainer.close()


def test_another_librarys_update_cannot_be_looked_at() -> None:
    config = TrainConfig.preset("control", game="CartPole", backend="sb3", curvature=LOOKS)
    with pytest.raises(UserError, match=r"--curvature.every 1: "):
        config.validate()


@pytest.mark.parametrize("noisy", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, noisy: bool) -> None:
    """Also where a resume begins with a look: the noise last drawn is in no checkpoint."""
    options: dict[str, Any] = {"curvature": LOOKS, "network": {"units": [16], "noisy": noisy}}
    train(tiny(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(tiny(tmp_path / "killed", **options), watchers=[StopAt(1_000)])
    train(tiny(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert read(tmp_path / "whole") == read(tmp_path / "killed")
