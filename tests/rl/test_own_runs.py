"""Runs in environments of the user's own, with the user's network and callbacks, and what happens when these fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rl
from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_summary, newest_checkpoint, read_metrics
from evaluation.runs.watchers import Watcher
from rl import Callback, Interrupted, TrainConfig, load_agent, train
from tests.rl.tasks.scripted_gymnasium import Countdown, Failing

pytestmark = pytest.mark.usefixtures("one_thread")
HERE, ENVS = "tests.rl.test_own_runs", "tests.rl.tasks.scripted_gymnasium"
DOCS = Path(rl.__file__).parents[1] / "docs"


def config(run: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "run_dir": str(run),
        "env": {"make": f"{ENVS}:Countdown", "num_envs": 4},
        "total_steps": 1_200,
        "train_every": 8,
        "batch_size": 32,
        "learning_starts": 100,
        "target_interval": 50,
        "exploration": {"steps": 600},
        "replay_size": 2_000,
        "log_interval": 400,
        "checkpoint_interval": 400,
        "tensorboard": False,
        "precision": "fp32",
        "optimizer": {"name": "adam", "lr": 5e-3},
        "network": {"units": [32]},
        "gradients": {"enabled": False},
        "evaluation": {"interval": 600, "episodes": 4, "final_episodes": 4},
    }
    for name, value in options.items():
        defaults[name] = defaults.get(name, {}) | value if isinstance(value, dict) else value
    return TrainConfig.preset("gymnasium", **defaults)


class Net(nn.Module):
    """Without a ReLU module, of pictures or vectors."""

    def __init__(self, observation: Any, num_actions: int, config: Any) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]  # nothing that a meta device could
        self.output = nn.Linear(int(np.prod(observation.shape)), num_actions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32
        assert x.max() <= 1
        return torch.tanh(self.output(x.flatten(1)))


def small_net(num_actions: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_actions + 1))


def no_net(num_actions: int) -> int:
    return num_actions


class Noted(Callback):
    """Writes down what it is told."""

    told: list[tuple[Any, ...]] = []  # noqa: RUF012 - of all that are made in a test

    def __init__(self) -> None:
        self.steps = 0

    def stepped(self, step: int, result: Any) -> None:
        self.steps += 1
        self.told.append(("stepped", step, result.score.shape))

    def learned(self, updates: int) -> None:
        self.told.append(("learned", updates))

    def update(self, stats: Any) -> None:
        self.told.append(("update", stats["step"]))

    def evaluated(self, event: Any) -> None:
        self.told.append(("evaluated", event.step))

    def saved(self, step: int, path: Path) -> None:
        assert (path / "state.pt").is_file()
        self.told.append(("saved", step))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state.get("steps", 0)
        self.told.append(("state", self.steps))


class Shaken(Callback):
    """Raises in the middle of a step: the tenth target update."""

    left = 10

    def shifted(self, updates: int) -> None:
        Shaken.left -= 1
        if Shaken.left == 0:
            raise KeyError("no such thing")


class Broken(Callback):
    def evaluated(self, event: Any) -> None:
        raise KeyError("no such thing")


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    Noted.told.clear()
    Failing.steps = 0


def numbers(run: Path) -> list[tuple[Any, ...]]:
    return [(row.step, row.name, row.value) for row in read_metrics(run) if row.name != "evaluation_s"]


class StopAt(Watcher):
    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, result: Any) -> None:
        import signal

        if step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("make", ["Countdown", "make_vector", "make_picture"])
def test_a_run_of_ones_own_is_learned_resumed_exactly_and_played(tmp_path: Path, make: str) -> None:
    network = {"channels": [4], "kernels": [3], "strides": [2], "hidden": 16} if make == "make_picture" else {}
    options: dict[str, Any] = {"env": {"make": f"{ENVS}:{make}"}, "network": network}
    summary = train(config(tmp_path / "whole", **options))
    assert summary["mean_score"] == 1.0
    with pytest.raises(Interrupted):
        train(config(tmp_path / "halves", **options), watchers=[StopAt(700)])
    train(config(tmp_path / "halves", **options), resume=True)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "halves")
    best = load_agent(tmp_path / "whole", best=True)
    assert best.model == "best"
    assert best.act(np.zeros((2, *best._spec.shape), best._spec.dtype)).shape == (2,)


def test_cartpole_by_its_id_is_learned(tmp_path: Path) -> None:
    """A random player keeps the pole up for about 20 steps."""
    options: dict[str, Any] = {"game": "gym:CartPole-v1", "env": {"make": None, "num_envs": 8}, "total_steps": 5_000}
    options |= {"evaluation": {"interval": 5_000, "final_episodes": 5}, "optimizer": {"lr": 1e-3}, "batch_size": 64}
    options |= {"network": {"units": [128, 128]}, "target_interval": 200, "replay_size": 5_000, "learning_starts": 300}
    summary = train(config(tmp_path / "run", **options))
    assert summary["mean_score"] > 100
    assert load_summary(tmp_path / "run")["signature"]["game"] == "gym:CartPole-v1"


def test_an_environment_that_raises_ends_the_run_in_one_line_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = config(run, env={"make": f"{ENVS}:Failing"}, checkpoint_interval=100_000)
    with pytest.raises(UserError) as caught:
        train(settings)
    line = str(caught.value)
    assert f"make:{ENVS}:Failing: its step (call " in line
    assert "ZeroDivisionError: the maze is broken (" in line
    assert "scripted_gymnasium.py:" in line
    assert "the maze is broken" in (run / "traceback.txt").read_text()
    assert "in step" in (run / "traceback.txt").read_text()
    saved = newest_checkpoint(run)
    assert saved is not None
    assert f"saved at step {saved.step:,}; go on with: asgc-rl train --resume {run}" in line
    Failing.steps = 1_000  # mended
    train(settings, resume=True)
    assert load_summary(run)["steps"] == 1_200
    train(config(tmp_path / "whole", env={"make": f"{ENVS}:Failing"}, checkpoint_interval=100_000))
    whole, resumed = (torch.load(one / "model.pt")["network"] for one in (tmp_path / "whole", run))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("options", "begin"), [({"network": {"noisy": True}}, -44), ({"backend": "sb3", "env": {"num_envs": 1}}, -250)]
)
def test_what_an_environment_left_in_its_middle_is_not_saved(
    tmp_path: Path, options: dict[str, Any], begin: int
) -> None:
    """The noise, or the library's draws, of the step that failed are gone: the checkpoint before it stands."""
    if "backend" in options:
        pytest.importorskip("stable_baselines3")
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = options | {"env": {"make": f"{ENVS}:Failing"} | options.get("env", {})}
    Failing.steps = begin  # so that it fails after the first checkpoint
    words = r"step 5\d\d was left in its middle and is not saved: the checkpoint of step 400 stands; go on with"
    with pytest.raises(UserError, match=words):
        train(config(run, **options))
    saved = newest_checkpoint(run)
    assert saved is not None
    assert saved.step == 400
    train(config(run, **options), resume=True)
    train(config(whole, **options))
    assert numbers(whole) == numbers(run)
    first, second = (torch.load(one / "model.pt")["network"] for one in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("make", ["Countdown", "make_picture"])
def test_a_network_of_ones_own(tmp_path: Path, make: str) -> None:
    options: dict[str, Any] = {"env": {"make": f"{ENVS}:{make}"}, "network": {"cls": f"{HERE}:Net"}}
    options |= {"gradients": {"enabled": True, "interval": 53}, "optimizer": {"lr": 2e-2}}
    assert train(config(tmp_path / "run", **options))["mean_score"] == 1.0
    agent = load_agent(tmp_path / "run")
    assert type(agent.network.layers[0]).__name__ == "Net"


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        ("no.such:Net", "--network.cls no.such:Net: there is no module 'no'"),
        (f"{HERE}:small_net", r"of \(2, 3\) it made \(2, 19\), where \(2, 18\) was expected"),
        (f"{HERE}:config", "--network.cls .*:config: making it failed: TypeError"),
        (f"{HERE}:no_net", "it made a int, where a torch.nn.Module was expected"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line_before_anything_is_written(
    tmp_path: Path, cls: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(config(tmp_path / "run", network={"cls": cls}))
    assert not (tmp_path / "run").exists()


def test_callbacks_are_told_and_their_state_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = config(run, callbacks=[f"{HERE}:Noted"])
    with pytest.raises(Interrupted):
        train(settings, watchers=[StopAt(700)])
    told, Noted.told[:] = list(Noted.told), []
    assert [step for kind, step, *_ in told if kind == "stepped"] == list(range(4, 704, 4))
    assert told[:3] == [("state", 0), ("update", 4), ("stepped", 4, (4,))]
    assert [step for kind, step, *_ in told if kind == "saved"] == [400, 700]
    assert ("evaluated", 600) in told
    assert [updates for kind, updates, *_ in told if kind == "learned"] == list(range(1, 76))
    assert [step for kind, step, *_ in told if kind == "update"] == [4, 400]
    train(settings, resume=True)
    assert Noted.told[0] == ("state", 175)
    assert Noted.told[-1] == ("evaluated", 1_200)


def test_a_callback_that_raises_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"callback {HERE}:Broken: its evaluated failed: KeyError: 'no such thing'"):
        train(config(tmp_path / "run", callbacks=[f"{HERE}:Broken"]))
    saved = newest_checkpoint(tmp_path / "run")
    assert saved is not None
    assert saved.step == 600
    train(config(tmp_path / "run", callbacks=None), resume=True)  # without it


def test_a_callback_that_raises_in_the_middle_of_a_step_leaves_an_exact_run(tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    Shaken.left = 10
    words = rf"callback {HERE}:Shaken: its shifted failed: KeyError.*; saved at step 500; go on with"
    with pytest.raises(UserError, match=words):
        train(config(run, callbacks=[f"{HERE}:Shaken"]))
    train(config(run), resume=True)
    train(config(whole))
    assert numbers(whole) == numbers(run)
    first, second = (torch.load(one / "model.pt")["network"] for one in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("path", "words"),
    [(f"{HERE}:config", "making it failed: TypeError"), (f"{ENVS}:Countdown", "is no subclass of rl.Callback")],
)
def test_what_is_no_callback_is_said(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--callbacks {path}: .*{words}"):
        train(config(tmp_path / "run", callbacks=[path]))


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from rl.cli import main

    monkeypatch.syspath_prepend(str(DOCS))
    assert "--env.make own_environment:Corridor --network.cls" in (DOCS / "own_environment.py").read_text()
    arguments = "--env.make own_environment:Corridor --network.cls own_environment:Net --total-steps 1000"
    run = ["--callbacks", "own_environment:FirstVictory", "--run-dir", str(tmp_path / "run"), "--tensorboard", "false"]
    assert main(["train", *arguments.split(), *run, "--threads", "1"]) == 0
    assert "first victory within" in capfd.readouterr().out
    assert main(["eval", str(tmp_path / "run"), "--best", "--episodes", "3"]) == 0
    assert "score=" in capfd.readouterr().out
    sys.modules.pop("own_environment", None)


def test_the_scripted_walk_is_what_the_tests_take_it_for() -> None:
    env = Countdown()
    env.reset()
    assert [env.step(6)[1:3] for _ in range(3)] == [(0.0, False), (0.0, False), (1.0, True)]
