"""Runs of PQN: learning, exact resume in mid-rollout, small checkpoints, environments that step while it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_config, load_summary, read_metrics, read_series
from evaluation.runs.trainer_protocol import EvaluationResult
from rl import TrainConfig, load_agent, train
from rl.algorithms.algorithm import Setup
from rl.algorithms.pqn import PQN, RolloutLearner
from rl.algorithms.rollout import Rollout
from rl.preflight import check_resources
from rl.step import Environments, Step
from rl.tasks import ObservationSpec
from rl.tasks.atari import AtariEnvs
from rl.trainer import Trainer, schedule_of
from tests.rl.catch import SIZE, CatchPool
from tests.rl.test_preflight import CheckpointSizes, asked_of_the_disk
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, numbers, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def catch_config(run: Path, **options: Any) -> TrainConfig:
    """Rollouts of 20 steps of 8 environments, 10 updates each."""
    defaults: dict[str, Any] = {
        "run_dir": str(run),
        "total_steps": 2_000,
        "checkpoint_interval": 408,
        "log_interval": 304,
        "precision": "fp32",
        "tensorboard": False,
        "overlap": False,
        "lr_schedule": {"name": "constant"},
        "pqn": {"rollout_steps": 20, "epochs": 2, "minibatches": 5, "td_lambda": 0.8},
        "env": {"num_envs": 8, "height": SIZE, "width": SIZE, "stack": 2},
        "network": {"channels": [8], "kernels": [4], "strides": [2], "hidden": 32},
        "exploration": {"steps": 1_000, "end": 0.05},
        "optimizer": {"name": "adam", "lr": 2e-3},
        "evaluation": {"interval": 1_000, "episodes": 16, "final_episodes": 32, "epsilon": 0.0, "target": 0.5},
        "gradients": {"interval": 37},
    }
    for name, value in options.items():
        defaults[name] = defaults.get(name, {}) | value if isinstance(value, dict) else value
    return TrainConfig.preset("pqn-quick", **defaults)


def test_environments_have_the_other_cores_in_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[bool, set[int]] = {True: set(), False: set()}

    def make(game: str, protocol: Any, env: Any, *, num_envs: int, seed: int, training: bool) -> AtariEnvs:
        made[training].add(env.threads)
        return AtariEnvs(CatchPool(num_envs, seed), num_envs, episodic_life=False)

    monkeypatch.setattr("rl.tasks.atari.make_envs", make)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    train(catch_config(tmp_path / "run", overlap=True, threads=1))
    assert made == {True: {7}, False: {0}}


@pytest.mark.parametrize("overlap", [False, True])
def test_learns_catch(catch: None, tmp_path: Path, overlap: bool) -> None:
    """A random player scores about -0.7; one that learns the game scores near 1."""
    config = catch_config(
        tmp_path / "run",
        total_steps=9_600,
        checkpoint_interval=100_000,
        optimizer={"name": "asgc"},
        overlap=overlap,
        pqn={"td_lambda": 0.95, "epochs": 4},
        evaluation={"interval": 4_800, "final_episodes": 100},
        gradients={"enabled": False},
    )
    summary = train(config)
    assert summary["mean_score"] > 0.7
    assert load_agent(tmp_path / "run").act(np.zeros((5, 2, SIZE, SIZE), np.uint8)).shape == (5,)


def test_a_finished_run_has_all_that_one_of_dqn_has(catch: None, tmp_path: Path) -> None:
    train(catch_config(tmp_path / "run"))
    rows = read_metrics(tmp_path / "run")
    names = {(row.split, row.name) for row in rows}
    assert {("train", name) for name in ("epsilon", "loss", "q", "return")} <= names
    assert {("diagnostics", name) for name in ("churn", "dormant", "feature_rank")} <= names
    assert ("gradients", "noise_scale") in names
    assert rows[-1].samples == 12 * 160 * 2  # rollouts, of their transitions, passes; 80 steps are left over
    config = load_config(tmp_path / "run")
    assert config["algorithm"] == "pqn"
    assert config["pqn"]["rollout_steps"] == 20
    assert not {"replay_size", "target_interval", "train_every", "n_step", "batch_size", "double"} & set(config)
    assert "pqn" not in TrainConfig.preset("quick").to_dict()
    assert TrainConfig.from_dict(config).to_dict() == config
    events = read_events(tmp_path / "run")
    assert {(update, since) for update, event, since in events if event == "interval"} == {
        (update, update % 10 if update >= 10 else -1) for update in range(0, 120, 37)
    }
    # 9: a rollout's last update; -1: the first rollout's, before which nothing had changed. 20 and 50 are not reached.
    assert {since for _, event, since in events if event == "shift"} == {-1, 0, 1, 2, 5, 9}


def read_events(run: Path) -> set[tuple[int, str, int]]:
    from pyarrow import parquet

    from evaluation.runs.recorder import part_paths

    rows = [row for path in part_paths(run) for row in parquet.read_table(path).to_pylist()]
    return {(row["update"], row["event"], row["since_shift"]) for row in rows}


@pytest.mark.parametrize(("overlap", "precision"), [(False, "fp32"), (True, "fp32"), (True, "bf16")])
def test_on_a_device_it_is_the_run_of_the_host(
    catch: None, tmp_path: Path, overlap: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal on the CPU of acting and updates as graphs: the same numbers, what is recorded included. Only the
    newest frame of each stack goes to the device."""
    add = Rollout.add

    def add_newest(self: Rollout, actions: Any, step: Step) -> None:
        hidden = step.observation.copy()
        hidden[:, :-1] = 0
        add(self, actions, dataclasses.replace(step, observation=hidden))

    for where in ("never", "always"):
        options: dict[str, Any] = {"overlap": overlap, "optimizer": {"name": "asgc", "lr": 2**-9}}
        options["precision"] = precision
        if where == "always":
            monkeypatch.setattr(Rollout, "add", add_newest)
        train(catch_config(tmp_path / where, cuda_graphs=where, **options))
    host, device = tmp_path / "never", tmp_path / "always"
    rounded = {"clipped", "attenuation"}  # means over layers, in float32 on the device
    rows = [[row for row in numbers(run) if row[3] not in rounded] for run in (host, device)]
    assert rows[0] == rows[1]
    assert len(rows[0]) < len(numbers(host))
    assert all(torch.equal(tensor, weights(device)[name]) for name, tensor in weights(host).items())
    assert read_events(host) == read_events(device)


@pytest.mark.parametrize(
    ("optimizer", "overlap", "segment", "graphs"),
    [
        ("asgc", False, 1_000, "auto"),
        ("radam+clip", True, 1_000, "auto"),
        ("asgc", True, 10**6, "auto"),
        ("asgc", True, 1_000, "always"),
    ],
)
def test_resumed_in_mid_rollout_is_the_uninterrupted_run_bit_for_bit(
    catch: None, tmp_path: Path, optimizer: str, overlap: bool, segment: int, graphs: str
) -> None:
    """Rollouts end every 160 steps, checkpoints come every 408, environments are made anew at 1,000."""
    options: dict[str, Any] = {
        "optimizer": {"name": optimizer},
        "network": {"standardize": True},
        "lr_schedule": {"name": "linear", "end_factor": 0.2},
        "ema_decay": 0.99,
        "overlap": overlap,
        "segment_steps": segment,
        "cuda_graphs": graphs,
    }
    train(catch_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", **options), watchers=[StopAt(900)])
    for stop in (1_300, 1_750):
        with pytest.raises(Killed):
            train(catch_config(tmp_path / "killed", **options), resume=True, watchers=[StopAt(stop)])
    train(catch_config(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert read_events(tmp_path / "whole") == read_events(tmp_path / "killed")


def test_checkpoints_are_small_and_preflight_knows(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of_the_disk(monkeypatch)
    look = CheckpointSizes(tmp_path / "run")
    train(catch_config(tmp_path / "run"), watchers=[look])
    assert max(look.found) < look.about < max(look.found) + 500_000
    check_resources(TrainConfig.preset("pqn-quick"), torch.device("cpu"), tmp_path / "none")
    assert asked[-1] < 120e6  # of two rollouts, as it overlaps; that of `quick` is above 1 GB
    monkeypatch.setattr("evaluation.runs.resources.available_memory", lambda *a, **k: 1_000_000)
    with pytest.raises(UserError, match=r"lower --env.num-envs or --pqn.rollout-steps"):
        check_resources(TrainConfig.preset("pqn-quick"), torch.device("cpu"), tmp_path / "none")


def test_updates_come_while_the_environments_step(catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `overlap` one by one between `send` and `receive`; else all at once at the rollout's end."""
    events: list[str] = []
    real_send, real_receive, real_update = Environments.send, Environments.receive, RolloutLearner.update

    def noted(name: str, real: Any) -> Any:
        return lambda self, *args: (events.append(name), real(self, *args))[1]

    monkeypatch.setattr(Environments, "send", noted("(", real_send))
    monkeypatch.setattr(Environments, "receive", noted(")", real_receive))
    monkeypatch.setattr(RolloutLearner, "update", noted("u", real_update))
    for overlap in (False, True):
        config = catch_config(tmp_path / str(overlap), overlap=overlap, pqn={"minibatches": 10}, total_steps=480)
        events.clear()
        monkeypatch.setattr(Trainer, "evaluate", lambda self, number, final: EvaluationResult(0.0, "none"))
        train(config)
        steps = "()" * 20
        expected = 2 * (steps + "u" * 20) + steps + "u" * 20 if not overlap else steps + "(u)" * 40
        assert "".join(events) == expected


def test_the_loss_is_that_of_the_chosen_actions_and_nearly_so_in_bf16() -> None:
    config = catch_config(Path("none"), network={"standardize": True}, precision="bf16")
    algorithm = PQN(
        Setup(
            config,
            ObservationSpec((2, SIZE, SIZE), "uint8"),
            3,
            torch.device("cpu"),
            schedule_of(config),
            lambda updates: None,
        )
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 2, SIZE, SIZE), dtype=np.uint8)
    part = torch.from_numpy(frames), torch.zeros(8, dtype=torch.int64), torch.ones(8)
    rough = algorithm.learner.losses(part)
    algorithm.learner.precision = "fp32"
    exact = algorithm.learner.losses(part)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.02)
    loss = (algorithm.learner.network(part[0])[:, 0] - 1).square()
    torch.testing.assert_close(exact, loss)


def test_cartpole_is_learned_within_seconds(tmp_path: Path) -> None:
    """500 is the best possible, 475 counts as solved; a random player balances for some 22 steps."""
    config = TrainConfig.preset(
        algorithm="pqn",
        game="cartpole",
        total_steps=20_000,
        run_dir=str(tmp_path / "run"),
        exploration={"steps": 8_000},
        evaluation={"interval": 5_000, "episodes": 10, "final_episodes": 20},
        gradients={"enabled": False},
    )
    assert config.pqn.minibatches > 0
    train(config)
    assert max(read_series(tmp_path / "run", "eval", "score")["value"]) > 400
    assert load_summary(tmp_path / "run")["steps"] >= 20_000
