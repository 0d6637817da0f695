"""The training loop in this process: schedules, learning, the run folder, exact resume."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rl.evaluate
import rl.tasks.atari
import rl.trainer
from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.run_folder import load_config, load_summary, read_metrics, read_series
from evaluation.runs.watchers import Watcher
from rl import Interrupted, TrainConfig, load_agent, train
from rl.algorithms.dqn import DQN, QLearner, epsilon_at
from rl.option_groups import ExplorationConfig
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import SIZE, CatchPool

TIMINGS = {"evaluation_s"}


pytestmark = pytest.mark.usefixtures("one_thread")


def catch_config(run: Path, **options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "run_dir": str(run),
        "total_steps": 2_000,
        "replay_size": 4_000,
        "batch_size": 32,
        "train_every": 4,
        "learning_starts": 400,
        "target_interval": 400,
        "checkpoint_interval": 700,
        "log_interval": 300,
        "precision": "fp32",
        "tensorboard": False,
        "env": {"num_envs": 8, "height": SIZE, "width": SIZE, "stack": 2},
        "network": {"channels": [8], "kernels": [4], "strides": [2], "hidden": 32},
        "exploration": {"steps": 1_000, "end": 0.05},
        "optimizer": {"name": "adam", "lr": 2e-3},
        "evaluation": {"interval": 1_000, "episodes": 16, "final_episodes": 32, "epsilon": 0.0, "target": 0.5},
    }
    for name, value in options.items():
        defaults[name] = defaults.get(name, {}) | value if isinstance(value, dict) else value
    return TrainConfig.preset("quick", **defaults)


def numbers(run: Path) -> list[tuple[int, int, str, str, float]]:
    """All metrics of a run but its timings."""
    return [
        (row.step, row.samples, row.split, row.name, row.value) for row in read_metrics(run) if row.name not in TIMINGS
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "model.pt", weights_only=True)["network"]


def assert_same_run(a: Path, b: Path) -> None:
    assert numbers(a) == numbers(b)
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name


def test_epsilon_falls_linearly() -> None:
    schedule = ExplorationConfig(start=1.0, end=0.1, steps=900)
    assert [epsilon_at(s, schedule) for s in (0, 450, 900, 10_000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("optimizer", ["adam", "asgc"])
def test_learns_catch(catch: None, tmp_path: Path, optimizer: str) -> None:
    """A random player scores about -0.7; one that learns the game scores near 1."""
    config = catch_config(
        tmp_path / "run",
        total_steps=6_400,
        checkpoint_interval=100_000,
        optimizer={"name": optimizer},
        evaluation={"interval": 408, "final_episodes": 100},
    )
    summary = train(config)
    curve = read_series(tmp_path / "run", "eval", "score")["value"]
    assert curve[0] < 0.3  # after two updates
    assert summary["mean_score"] > 0.7
    assert summary["time_to_threshold"]["reached"]
    agent = load_agent(tmp_path / "run")
    envs = AtariEnvs(CatchPool(50, seed=99), 50, episodic_life=False)
    observation, scores = envs.reset(), np.zeros(50)
    for _ in range(7):
        step = envs.step(agent.act(observation))
        observation, scores = step.observation, scores + step.score
    assert scores.mean() > 0.6


def test_schedules_happen_when_they_are_due(catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []
    trainers: list[rl.trainer.Trainer] = []
    real_init = rl.trainer.Trainer.__init__
    monkeypatch.setattr(
        rl.trainer.Trainer, "__init__", lambda self, *a: (trainers.append(self), real_init(self, *a))[1]
    )
    real_updates, real_sync = QLearner.updates, QLearner.sync_target

    def updates_seen(self: QLearner, batch: Any, count: int) -> Any:
        assert batch.observation.shape == (count * 32, 2, SIZE, SIZE)
        for values in real_updates(self, batch, count):
            events.append(("update", trainers[0].step))
            yield values

    def sync(self: QLearner) -> None:
        if hasattr(trainers[0], "algorithm"):  # not the one in QLearner.__init__
            events.append(("sync", trainers[0].step))
        real_sync(self)

    monkeypatch.setattr(QLearner, "updates", updates_seen)
    monkeypatch.setattr(QLearner, "sync_target", sync)
    train(catch_config(tmp_path / "run"))
    updates = [step for kind, step in events if kind == "update"]
    assert len(updates) == (2_000 - 400) // 4
    assert min(updates) == 408  # the first step after `learning_starts`, two updates for its 8 environment steps
    assert updates.count(1_000) == 2
    assert [step for kind, step in events if kind == "sync"] == [400, 800, 1_200, 1_600, 2_000]
    rows = read_metrics(tmp_path / "run")
    assert sorted({row.step for row in rows if row.name == "epsilon"}) == [8, 304, 600, 904, 1200, 1504, 1800, 2000]
    assert [row.step for row in rows if row.name == "score"] == [1_000, 2_000]
    assert rows[-1].samples == 400 * 32


@pytest.mark.parametrize(("load", "given", "expected"), [(0.0, None, 2), (15.0, None, 1), (15.0, 2, 2)])
def test_threads_are_chosen_and_recorded(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, given: int | None, expected: int
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    seen: list[int] = []

    class Look(Watcher):
        def start(self, info: Mapping[str, Any]) -> None:
            seen.extend([info["threads"], torch.get_num_threads()])

    options: dict[str, Any] = {"threads": given, "total_steps": 40, "learning_starts": 8}
    train(catch_config(tmp_path / "run", **options), watchers=[Look()])
    assert seen == [expected] * 2
    assert read_json(tmp_path / "run" / "provenance.json")["machine"]["threads"] == expected
    assert load_config(tmp_path / "run")["threads"] == given
    assert torch.get_num_threads() == 2


def test_run_folder_of_a_finished_run(catch: None, tmp_path: Path) -> None:
    summary = train(catch_config(tmp_path / "run", tensorboard=True))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "model.pt", "tensorboard"} <= names
    assert "checkpoints" not in names
    assert load_summary(tmp_path / "run")["final"] == summary["final"]
    assert summary["signature"]["protocol"] == "classic"
    assert len(summary["scores"]) == 32
    with pytest.raises(UserError, match="finished"):
        train(catch_config(tmp_path / "run"))


class StopAt(Watcher):
    """Kills the run at a step, and records what was said."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.said: list[str] = []

    def start(self, info: Mapping[str, Any]) -> None:
        assert info["checkpoint_bytes"] > 0

    def update(self, stats: Mapping[str, Any]) -> None:
        if stats["step"] >= self.step:
            raise Killed

    def message(self, text: str) -> None:
        self.said.append(text)


class Killed(BaseException):
    """What a kill looks like from inside: nothing more is written."""


@pytest.mark.parametrize(("optimizer", "schedule"), [("asgc", "linear"), ("adam", "linear"), ("asgc", "constant")])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    catch: None, tmp_path: Path, optimizer: str, schedule: str
) -> None:
    options: dict[str, Any] = {
        "optimizer": {"name": optimizer},
        "network": {"standardize": True},
        "ema_decay": 0.99,
        "lr_schedule": {"name": schedule} | ({} if schedule == "constant" else {"end_factor": 0.2}),
    }
    train(catch_config(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed", **options), watchers=[StopAt(1_000)])
    for stop in (1_500, 1_800):  # two more kills on the way
        with pytest.raises(Killed):
            train(catch_config(tmp_path / "killed", **options), resume=True, watchers=[StopAt(stop)])
    train(catch_config(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_the_learning_rate_falls_over_the_updates_of_the_run(catch: None, tmp_path: Path) -> None:
    """From 2e-3 at step 400, where learning starts, to a tenth of it at the last step."""
    options: dict[str, Any] = {"lr_schedule": {"name": "linear", "end_factor": 0.1}, "total_steps": 1_995}
    train(catch_config(tmp_path / "run", **options))
    rates = read_series(tmp_path / "run", "train", "lr")
    expected = [2e-3 * (1 - 0.9 * max(0, step - 400) / 1_600) for step in rates["step"]]
    assert list(rates["value"]) == pytest.approx(expected, rel=1e-9)
    assert (rates["step"][-1], rates["value"][-1]) == (2_000, pytest.approx(2e-4))
    config = TrainConfig.from_dict(load_config(tmp_path / "run"))
    assert (config.lr_schedule.name, config.lr_schedule.end_factor) == ("linear", 0.1)


def test_environments_are_made_anew_at_fixed_steps_and_their_games_are_cut(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the checkpoints do. Games of Catch take 8 steps: after 125 all environments are in the middle of one."""
    renewed: list[tuple[int, int]] = []
    finished: list[int] = []
    real_renew, real_add = rl.trainer.Trainer._renew, rl.trainer.EpisodeTracker.add

    def renew(self: rl.trainer.Trainer, segment: int) -> None:
        assert isinstance(self.algorithm, DQN)
        before = len(self.algorithm.replay)
        self.tracker._running[:] = 50.0  # what a return would show if a game went on over the cut
        real_renew(self, segment)
        waiting = self.config.n_step - 1  # steps whose returns were not complete: cut, they are bootstrapped from
        assert len(self.algorithm.replay) - before == 8 * waiting > 0
        assert np.array_equal(self.segment.observation, self._make_envs(segment).reset())
        renewed.append((self.step, segment))

    def add(self: Any, step: Any) -> list[float]:
        scores = real_add(self, step)
        finished.extend(map(int, scores))
        return scores

    monkeypatch.setattr(rl.trainer.Trainer, "_renew", renew)
    monkeypatch.setattr(rl.trainer.EpisodeTracker, "add", add)
    options: dict[str, Any] = {"segment_steps": 1_000, "total_steps": 2_400}
    train(catch_config(tmp_path / "whole", **options, checkpoint_interval=56))
    assert renewed == [(1_000, 1), (2_000, 2)]
    assert len(finished) > 200
    assert set(finished) <= {-1, 1}
    for stop in (600, 1_500):  # in the first segment and in the second
        with pytest.raises(Killed):
            train(catch_config(tmp_path / "killed", **options), resume=stop > 600, watchers=[StopAt(stop)])
    train(catch_config(tmp_path / "killed", **options), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_killed_before_the_first_checkpoint_starts_over_and_says_so(catch: None, tmp_path: Path) -> None:
    train(catch_config(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "killed"), watchers=[StopAt(600)])
    display = StopAt(10**9)
    train(catch_config(tmp_path / "killed"), resume=True, watchers=[display])
    assert any("starts over" in text for text in display.said)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_an_unfinished_run_gives_the_agent_of_its_newest_checkpoint(catch: None, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run"), watchers=[StopAt(600)])
    with pytest.raises(UserError, match="first checkpoint"):
        load_agent(tmp_path / "run")
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run"), resume=True, watchers=[StopAt(904)])
    actions = load_agent(tmp_path / "run").act(np.zeros((5, 2, SIZE, SIZE), np.uint8))
    assert actions.shape == (5,)


def test_the_model_of_the_best_evaluation_is_kept(catch: None, tmp_path: Path) -> None:
    kept: dict[str, torch.Tensor] = {}

    class Keep(Watcher):
        best = -np.inf

        def evaluated(self, event: Any) -> None:
            if event.score > self.best:
                self.best = event.score
                event.save_model(tmp_path / "model.pt")
                kept.update(torch.load(tmp_path / "model.pt", weights_only=True)["network"])

    train(
        catch_config(tmp_path / "run", evaluation={"interval": 160, "episodes": 4, "epsilon": 0.5}), watchers=[Keep()]
    )
    scores = read_series(tmp_path / "run", "eval", "score")["value"]
    assert scores.argmax() < len(scores) - 1  # else the last model would do
    best, last = load_agent(tmp_path / "run", best=True), load_agent(tmp_path / "run")
    for name, tensor in best.network.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert any(not torch.equal(tensor, last.network.state_dict()[name]) for name, tensor in kept.items())


def test_another_seed_is_another_run(catch: None, tmp_path: Path) -> None:
    """What makes the equalities above worth something."""
    train(catch_config(tmp_path / "a"))
    train(catch_config(tmp_path / "b", seed=2))
    assert numbers(tmp_path / "a") != numbers(tmp_path / "b")


def test_resume_refuses_another_configuration(catch: None, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run"), watchers=[StopAt(800)])
    with pytest.raises(UserError, match=r"gamma 0\.99 -> 0\.9"):
        train(catch_config(tmp_path / "run", gamma=0.9), resume=True)
    with pytest.raises(UserError, match="--resume"):
        train(catch_config(tmp_path / "run"))


def test_interrupt_saves_and_says_how_to_go_on(catch: None, tmp_path: Path) -> None:
    import signal

    class Interrupt(StopAt):
        def update(self, stats: Mapping[str, Any]) -> None:
            if stats["step"] == 600:
                signal.raise_signal(signal.SIGINT)

    train(catch_config(tmp_path / "whole"))
    with pytest.raises(Interrupted, match="asgc-rl train --resume") as stopped:
        train(catch_config(tmp_path / "run"), watchers=[Interrupt(0)])
    assert stopped.value.step == 600
    summary = train(catch_config(tmp_path / "run"), resume=True)
    assert summary["steps"] == 2_000
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_evaluation_plays_a_fixed_number_of_games_in_each_environment() -> None:
    """Counting the first games to finish would count the short ones twice."""
    from tests.rl.tasks.scripted_env import ScriptedPool, game

    short, long = game([1.0]), game([0.0] * 9 + [10.0])
    pool = ScriptedPool([[short], [long], [short], [long]])

    def policy(observation: Any, epsilon: float, rng: np.random.Generator) -> Any:
        return np.zeros(len(observation), np.int64)

    scores = rl.evaluate.play_games(
        policy, lambda n: AtariEnvs(pool, n, episodic_life=False), 8, 0.0, np.random.default_rng(0), max_envs=4
    )
    assert sorted(scores) == [1.0] * 4 + [10.0] * 4


def test_memory_and_disk_are_checked_before_anything_is_written(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.runs.resources.available_memory", lambda *a, **k: 1_000_000)
        with pytest.raises(UserError, match=r"memory.*--replay-size"):
            train(catch_config(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.runs.resources.available_disk", lambda path: 1_000)
        with pytest.raises(UserError, match=r"disk.*--run-dir"):
            train(catch_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_ctrl_c_in_an_evaluation_leaves_it_and_the_resume_is_the_uninterrupted_run(catch: None, tmp_path: Path) -> None:
    import signal

    class Interrupt(Watcher):
        """At the third look at an evaluation."""

        games = 0

        def evaluating(self, done: int, total: int) -> None:
            self.games += 1
            if self.games == 3:
                signal.raise_signal(signal.SIGINT)

    train(catch_config(tmp_path / "whole"))
    for step in (1_000, 1_000, 2_000):  # twice in the scheduled one, then in the last one
        watcher = Interrupt()
        watcher.games = 0 if step == 1_000 else -8
        with pytest.raises(Interrupted) as stopped:
            train(catch_config(tmp_path / "run"), resume=(tmp_path / "run").exists(), watchers=[watcher])
        assert stopped.value.step == step
        assert watcher.games == 3
    train(catch_config(tmp_path / "run"), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_new_games_after_a_resume_are_in_the_provenance(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        train(catch_config(tmp_path / "run"), watchers=[StopAt(1_000)])
    monkeypatch.setattr(rl.trainer.Segment, "load", lambda *arguments: False)
    display = StopAt(10**9)
    train(catch_config(tmp_path / "run"), resume=True, watchers=[display])
    assert any("new games begin" in text for text in display.said)
    (resumed,) = read_json(tmp_path / "run" / "provenance.json")["resumed"]
    assert resumed["new_games_at"] == resumed["from_step"] == 704
