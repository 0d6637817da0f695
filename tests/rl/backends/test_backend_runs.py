"""Whole runs of the backends: learning, exact resume, the run folder, playing without the library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.files import read_json
from evaluation.runs.recorder import part_paths
from evaluation.runs.run_folder import load_config, load_summary, read_metrics
from rl import TrainConfig, cli, load_agent, train
from tests.rl.backends.test_replay_of_backends import LIBRARIES
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=LIBRARIES)
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    name: str = request.param
    return name


def catch_run(run: Path, backend: str, **options: Any) -> TrainConfig:
    return catch_config(run, backend=backend, **options)


@pytest.mark.parametrize("n_step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    catch: None, tmp_path: Path, backend: str, n_step: int
) -> None:
    options: dict[str, Any] = {
        "optimizer": {"name": "asgc"},
        "network": {"standardize": True},
        "lr_schedule": {"name": "linear", "end_factor": 0.2},
        "n_step": n_step,
        "segment_steps": 1_000,
        "replay_size": 800,  # goes round
        "gradients": {"interval": 37},
    }
    train(catch_run(tmp_path / "whole", backend, **options))
    with pytest.raises(Killed):
        train(catch_run(tmp_path / "killed", backend, **options), watchers=[StopAt(1_000)])
    for stop in (1_500, 1_800):
        with pytest.raises(Killed):
            train(catch_run(tmp_path / "killed", backend, **options), resume=True, watchers=[StopAt(stop)])
    train(catch_run(tmp_path / "killed", backend, **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert [path.read_bytes() for path in part_paths(tmp_path / "whole")] != []


def test_it_learns_catch_and_is_played_without_its_library(
    catch: None, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random player scores about -0.7; one that learns the game scores near 1."""
    run = tmp_path / "run"
    options = {"total_steps": 6_400, "checkpoint_interval": 100_000, "gradients": {"interval": 101}}
    summary = train(catch_run(run, backend, evaluation={"interval": 2_000, "final_episodes": 100}, **options))
    assert summary["mean_score"] > 0.7
    library = LIBRARIES[backend]
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    assert cli.main(["eval", str(run), "--episodes", "20"]) == 0
    assert float(capsys.readouterr().out.split()[0].removeprefix("score=")) > 0.6
    assert load_agent(run).step == 6_400


def test_the_run_folder_says_who_learned_and_records_the_same_things(catch: None, tmp_path: Path, backend: str) -> None:
    run, native = tmp_path / "run", tmp_path / "native"
    options: dict[str, Any] = {"optimizer": {"name": "asgc"}, "gradients": {"interval": 53, "offsets": [-1, 0]}}
    watcher = StopAt(10**9)
    train(catch_run(run, backend, **options), watchers=[watcher])
    train(catch_run(native, "native", **options))
    used = read_json(run / "provenance.json")["backend"]
    name, version = used.split()
    assert (name, version) == (LIBRARIES[backend].replace("_", "-"), __import__(LIBRARIES[backend]).__version__)
    assert any(line.startswith(used) for line in watcher.said)
    config = load_config(run)
    assert (config["backend"], config["double"]) == (backend, backend == "tianshou")
    assert (config["optimizer"], config["env"]) == (load_config(native)["optimizer"], load_config(native)["env"])
    mine, theirs = ({(row.split, row.name) for row in read_metrics(one)} for one in (run, native))
    assert theirs - mine == {
        ("train", "q"),
        *(("gradients", name) for name in ("noise_scale", "noise_trace", "squared_norm")),
    }
    assert mine <= theirs
    assert load_summary(run)["signature"] == load_summary(native)["signature"]
    import pyarrow.parquet as parquet

    table = parquet.ParquetDataset(part_paths(run)).read().to_pydict()
    recorded = {kind: sorted({n for n, e in zip(table["update"], table["event"], strict=True) if e == kind})
                for kind in ("interval", "shift")}  # fmt: skip
    assert recorded["interval"] == list(range(0, 400, 53))
    # The last with the old target network and the first with the new one, which comes every 400 steps or 100 updates;
    # 98 updates are made before the steps at which it is 800. Tianshou's comes before an update: the fourth never does.
    firsts, last = ((98, 198, 298, 398), []) if backend == "sb3" else ((100, 200, 300), [399])
    assert recorded["shift"] == [n for first in firsts for n in (first - 1, first)] + last


def test_updates_target_updates_and_exploration_come_when_they_are_due(
    catch: None, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl.backends.base import LibraryDQN, LibraryTrainer

    events: list[tuple[str, int]] = []
    trainers: list[LibraryTrainer] = []
    make, learn, shift = LibraryTrainer._make_algorithm, LibraryDQN.make_optimizer, LibraryDQN.shift
    monkeypatch.setattr(
        LibraryTrainer, "_make_algorithm", lambda self, setup: (trainers.append(self), make(self, setup))[1]
    )

    def optimizer(self: LibraryDQN, params: Any, **more: Any) -> Any:
        made = learn(self, params, **more)
        made.register_step_post_hook(lambda *_: events.append(("update", trainers[0].step)))
        return made

    def shifted(self: LibraryDQN) -> None:
        network, target = (list(one.parameters()) for one in self._networks)
        same = all(bool((a == b).all()) for a, b in zip(network, target, strict=True))
        # Tianshou copies right behind this, before the update.
        events.append(("sync", trainers[0].step + (self.config.env.num_envs if same else 0)))
        shift(self)

    monkeypatch.setattr(LibraryDQN, "make_optimizer", optimizer)
    monkeypatch.setattr(LibraryDQN, "shift", shifted)
    train(catch_run(tmp_path / "run", backend, gradient_steps=2, target_interval=200))
    updates = [step for kind, step in events if kind == "update"]
    assert len(updates) == (2_000 - 400) // 4 * 2
    assert min(updates) == 408
    assert updates.count(1_000) == 4
    syncs = [step for kind, step in events if kind == "sync"]
    if backend == "sb3":
        assert syncs == list(range(200, 2_001, 200))
    else:  # before every 100th update, two of which are made every 4 steps from 408 on
        assert syncs == [608, 808, 1_008, 1_208, 1_408, 1_608, 1_808]
    epsilon = {row.step: row.value for row in read_metrics(tmp_path / "run") if row.name == "epsilon"}
    assert epsilon[600] == pytest.approx(1 - 0.6 * 0.95)
    assert epsilon[2_000] == pytest.approx(0.05)


def test_the_optimizer_sees_the_gradient_that_nobody_has_clipped(
    catch: None, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stable-Baselines3's own limit is a norm of 10."""
    from rl.backends.base import LibraryDQN

    norms: list[float] = []
    real = LibraryDQN.make_optimizer

    def seen(self: LibraryDQN, params: Any, **more: Any) -> Any:
        made = real(self, params, **more)
        parameters = made.param_groups[0]["params"]
        for parameter in parameters:
            parameter.data.mul_(6)  # large features: Huber's own gradient is at most 1
        norm = lambda *_: norms.append(float(sum(p.grad.square().sum() for p in parameters)) ** 0.5)  # noqa: E731
        made.register_step_pre_hook(norm)
        return made

    monkeypatch.setattr(LibraryDQN, "make_optimizer", seen)
    options = {"total_steps": 600, "optimizer": {"name": "sgd", "lr": 0.0}, "gradients": {"enabled": False}}
    train(catch_run(tmp_path / "run", backend, **options))
    assert max(norms) > 20


@pytest.mark.slow
def test_tianshou_learns_cartpole(tmp_path: Path) -> None:
    pytest.importorskip("tianshou")
    summary = train(TrainConfig.preset("control", backend="tianshou", run_dir=str(tmp_path / "run"), total_steps=8_000))
    assert summary["mean_score"] > 250
