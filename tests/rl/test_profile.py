"""Where the time went, and what is said when a GPU's memory is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.trainer
from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.hardware import deterministic
from rl import train
from rl.algorithms.dqn import QLearner
from rl.cli import main
from rl.preflight import memory_named
from rl.profile import ACT, ENV, LEARN, OTHER, SAMPLE, WAIT, Profile
from tests.rl.test_trainer import StopAt, assert_same_run, catch_config

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_a_block_has_inside_counts_there_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rl.profile.time.perf_counter", lambda: now[0])
    profile = Profile(torch.device("cpu"))

    def spend(seconds: float) -> None:
        now[0] += seconds

    for _ in range(2):
        with profile(OTHER):
            spend(1)
            with profile(ACT):
                spend(2)
                with profile(WAIT):
                    spend(3)
            with profile(ENV):
                spend(4)
            with profile(LEARN):
                spend(5)
                with profile(SAMPLE):
                    spend(6)
    profile.steps = 84
    assert profile.seconds == {OTHER: 2, ACT: 4, WAIT: 6, ENV: 8, LEARN: 10, SAMPLE: 12}
    summary = profile.summary()
    assert (summary["seconds"], summary["steps_per_s"]) == (42, 2)
    assert summary["parts"][ENV] == {"seconds": 8, "share": 8 / 42}
    head, *rows = profile.lines()
    assert "42.0 s of training, 2 environment steps/s" in head
    assert [row.split()[:2] for row in rows] == [
        ["env", "8.0"],
        ["act", "4.0"],
        ["wait", "6.0"],
        ["learn", "22.0"],  # with what is inside of it
        ["sample", "12.0"],
        ["other", "2.0"],
    ]


def test_a_profiled_run_is_the_same_run_and_tells_its_parts(catch: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"total_steps": 800}
    display = StopAt(10**9)
    train(catch_config(tmp_path / "plain", **options))
    train(catch_config(tmp_path / "run", **options, profile=True), watchers=[display])
    assert_same_run(tmp_path / "plain", tmp_path / "run")
    assert not (tmp_path / "plain" / "profile.json").exists()
    summary = read_json(tmp_path / "run" / "profile.json")
    assert summary["steps"] == 800
    names = {"env", "upload", "act", "learn", "other"} | {
        f"learn/{x}" for x in ("sample", "forward", "backward", "step")
    }
    assert set(summary["parts"]) == names
    assert sum(part["share"] for part in summary["parts"].values()) == pytest.approx(1)
    assert any("environment steps/s" in text for text in display.said)


def test_deterministic_is_torchs_setting_in_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_a_deterministic_run_has_deterministic_operations_only(catch: None, tmp_path: Path) -> None:
    """As far as a CPU tells: torch raises where an operation has no such form."""
    options: dict[str, Any] = {"total_steps": 600, "prioritized": {"enabled": True}, "cuda_graphs": "always"}
    for name in ("a", "b"):
        train(catch_config(tmp_path / name, **options, deterministic=True))
    assert_same_run(tmp_path / "a", tmp_path / "b")


OUT = r"GPU is out of memory: lower --replay-size \(now 4000, .*\), --batch-size \(32\) or --env.num-envs \(8\)"


def test_memory_that_runs_out_names_the_settings_and_loses_nothing(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, options = QLearner.updates, {"total_steps": 800, "checkpoint_interval": 600}

    def updates(self: QLearner, *arguments: Any) -> Any:
        if len(list((tmp_path / "run" / "checkpoints").glob("*"))) > 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *arguments)

    train(catch_config(tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        patch.setattr(QLearner, "updates", updates)
        with pytest.raises(UserError, match=OUT):
            train(catch_config(tmp_path / "run", **options))
    with monkeypatch.context() as patch:  # also while it is resumed: no fault of the checkpoint's
        patch.setattr(rl.trainer.Trainer, "load", _raises)
        with pytest.raises(UserError, match=OUT):
            train(catch_config(tmp_path / "run", **options), resume=True)
    train(catch_config(tmp_path / "run", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def _raises(*arguments: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_of_a_backend_whose_replay_is_not_on_the_gpu_other_settings_are_named(tmp_path: Path) -> None:
    config = catch_config(tmp_path / "run", backend="sb3", replay_size=4_000, batch_size=32)
    line = r"out of memory: lower --batch-size \(now 32\) or --env.num-envs \(8\) in a new run; or free some"
    with pytest.raises(UserError, match=line), memory_named(config):
        _raises()


def test_memory_that_runs_out_is_one_line_and_exit_code_2(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rl.trainer.Trainer, "__init__", _raises)
    sizes = ["--replay-size", "4000", "--env.num-envs", "8", "--learning-starts", "100", "--total-steps", "1000"]
    assert main(["train", "--game", "Pong", "--device", "cpu", "--run-dir", str(tmp_path / "run"), *sizes]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: the GPU is out of memory: lower --replay-size (now 4000, ")
