"""`asgc-rl eval RUN --flavours`: which flavours there are, what their scores say, and where that is kept."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rl.flavours
import rl.flavours_cli
import rl.tasks.atari
from evaluation.analysis.comparisons.selection import select
from evaluation.analysis.data import dataset
from evaluation.cli.errors import UserError
from evaluation.files import read_json
from evaluation.runs.run_folder import load_summary
from rl import cli, generalization, tasks, train
from rl.flavours import STICKY_ACTIONS, TRAINED, available, flavours
from rl.tasks import EnvConfig
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import CatchPool
from tests.rl.test_trainer import catch_config

ENV = EnvConfig(threads=1, height=42, width=42)


def test_the_flavours_of_a_real_game() -> None:
    """Pong's two modes by four difficulties, the default among them once, and sticky actions; one set of actions."""
    found = flavours("Pong", ENV, [0, 1], [0, 1, 2, 3])
    pairs = [(mode, difficulty) for mode in (0, 1) for difficulty in (0, 1, 2, 3)][1:]
    assert [one.name for one in found] == [
        TRAINED,
        *(f"mode={mode}:difficulty={difficulty}" for mode, difficulty in pairs),
        STICKY_ACTIONS,
    ]
    assert [one.protocol.repeat_action_probability for one in found] == [0.0] * 8 + [0.25]
    for one in (found[4], found[-1]):
        envs = one.make("Pong", 1, 1)
        assert envs.num_actions == 6
        envs.close()


def test_a_run_trained_in_another_mode_has_the_default_as_another_flavour() -> None:
    names = [one.name for one in flavours("Pong", dataclasses.replace(ENV, mode=1, difficulty=1), [0, 1], [0, 1])]
    assert names == [TRAINED, "mode=0:difficulty=0", "mode=0:difficulty=1", "mode=1:difficulty=0", STICKY_ACTIONS]
    sticky = dataclasses.replace(ENV, protocol="sticky")
    assert flavours("Pong", sticky, [0], [0])[-1].name == TRAINED, "sticky actions are what it was trained with"


def test_envpool_is_asked_what_a_game_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ale-py; Breakout's modes are 0, 4, ..., its difficulties 0 and 1."""

    def missing(game: str) -> Any:
        raise ImportError

    monkeypatch.setattr(rl.flavours, "_from_ale", missing)
    monkeypatch.setattr(rl.flavours, "MODES", range(9))
    told: list[tuple[int, int]] = []
    assert available("Breakout", lambda done, total: told.append((done, total))) == ([0, 4, 8], [0, 1])
    assert told == [(number, 13) for number in range(13)]


def test_intervals_and_the_gap_are_those_of_the_formulas() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (5, 7.5, 29, 58, 1000):
        assert generalization.t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)
    rng = np.random.default_rng(0)
    scores = {TRAINED: rng.normal(100, 10, 30), "a": rng.normal(40, 30, 12), "b": rng.normal(70, 5, 30)}
    scores[STICKY_ACTIONS] = rng.normal(90, 10, 30)
    rows = generalization.table(scores)
    for name, values in scores.items():
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert rows[name]["score"] == pytest.approx(values.mean())
        assert rows[name]["score_interval"] == pytest.approx((high - low) / 2, rel=2e-3)
        if name == TRAINED:
            assert "drop" not in rows[name]
            continue
        welch = stats.ttest_ind(scores[TRAINED], values, equal_var=False).confidence_interval(0.95)
        assert rows[name]["drop"] == pytest.approx(scores[TRAINED].mean() - values.mean())
        assert rows[name]["drop_interval"] == pytest.approx((welch.high - welch.low) / 2, rel=2e-3)
        assert rows[name]["drop_percent"] == pytest.approx(100 * (1 - values.mean() / scores[TRAINED].mean()))
    gap = scores[TRAINED].mean() - (scores["a"].mean() + scores["b"].mean()) / 2
    assert generalization.generalization_gap(rows) == pytest.approx(gap), "sticky actions are no flavour of the game"


def test_what_few_games_and_scores_below_0_cannot_say() -> None:
    rows = generalization.table({TRAINED: [-20.0], "a": [-21.0]})
    assert math.isnan(rows["a"]["drop_interval"])  # type: ignore[arg-type]
    assert rows["a"]["drop_percent"] is None
    assert rows["a"]["drop"] == 1.0
    assert generalization.generalization_gap(generalization.table({TRAINED: [1.0]})) is None
    assert "±" not in "".join(generalization.lines(rows))
    same = generalization.table({TRAINED: [3.0, 3.0], "a": [1.0, 1.0]})
    assert (same["a"]["drop"], same["a"]["drop_interval"]) == (2.0, 0.0)


class WorthPool(CatchPool):
    """Catch in which a game is worth a number, whoever plays."""

    worth = 1.0

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        observation, _, done, truncated, info = super().step(actions)
        reward = np.where(done, np.float32(self.worth), np.float32(0))
        return observation, reward, done, truncated, info | {"reward": reward}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flavours worth 12 (trained), 6, 3 and 10 (sticky); which evaluation environments were made."""
    made: list[str] = []

    def make(game: str, protocol: Any, env: Any, *, num_envs: int, seed: int, training: bool) -> AtariEnvs:
        sticky = protocol.repeat_action_probability > 0
        pool = WorthPool(num_envs, seed)
        pool.worth = 10.0 if sticky else {None: 12.0, 1: 6.0, 2: 3.0}[env.mode]
        made.append("sticky" if sticky else str(env.mode))
        return AtariEnvs(pool, num_envs, episodic_life=False)

    monkeypatch.setattr(rl.tasks.atari, "make_envs", make)
    monkeypatch.setattr(rl.flavours_cli, "available", lambda game, tell: ([0, 1, 2], [0]))
    monkeypatch.setattr(rl.flavours, "_plays_alike", lambda *arguments: True)
    return made


@pytest.fixture
def run(tmp_path: Path, played: list[str], one_thread: None) -> Path:
    train(catch_config(tmp_path / "runs" / "one", total_steps=500, learning_starts=100))
    played.clear()
    return tmp_path / "runs" / "one"


def evaluated(run: Path, *more: str) -> int:
    return cli.main(["eval", str(run), "--flavours", "--episodes", "4", "--device", "cpu", *more])


def test_the_table_the_summary_and_the_data_set(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_summary(run)
    assert before["generalization_gap"] is None
    with pytest.raises(UserError, match="`asgc-rl eval RUN --flavours` measures it"):
        select(dataset.load(run.parent), metric="generalization_gap")
    assert evaluated(run) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:-1] == [
        ["trained", "12.00", "±", "0.00", "-", "-"],
        ["mode=1:difficulty=0", "6.00", "±", "0.00", "6.00", "±", "0.00", "50.0", "%"],
        ["mode=2:difficulty=0", "3.00", "±", "0.00", "9.00", "±", "0.00", "75.0", "%"],
        ["sticky", "10.00", "±", "0.00", "2.00", "±", "0.00", "16.7", "%"],
    ]
    assert lines[-1][0] == "generalization_gap=7.50"
    after = load_summary(run)
    assert after["generalization_gap"] == 7.5
    assert set(after["generalization"]["flavours"]) == {
        "trained",
        "mode=1:difficulty=0",
        "mode=2:difficulty=0",
        "sticky",
    }
    assert after["generalization"]["signature"]["episodes"] == 4
    assert {key: value for key, value in after.items() if not key.startswith("generalization")} == {
        key: value for key, value in before.items() if not key.startswith("generalization")
    }
    assert read_json(run / "row.json")["summary"] == after
    data = dataset.load(run.parent)
    assert data.columns("SELECT generalization_gap FROM runs")["generalization_gap"].tolist() == [7.5]
    (methods,) = select(data, metric="generalization_gap").cells.values()
    assert [values.tolist() for values in methods.values()] == [[7.5]]


def test_what_has_been_played_is_not_played_again(
    run: Path, played: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third flavour; called again, it goes on there. Other games are other scores."""
    real = rl.flavours_cli.play

    def stopped(*arguments: Any, **options: Any) -> Any:
        if arguments[3].name == "mode=2:difficulty=0":
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(rl.flavours_cli, "play", stopped)
    assert evaluated(run) == 130
    assert load_summary(run)["generalization_gap"] is None
    monkeypatch.setattr(rl.flavours_cli, "play", real)
    played.clear()
    assert evaluated(run) == 0
    assert played == ["2", "sticky"]
    capsys.readouterr()
    played.clear()
    assert evaluated(run, "--json") == 0
    assert played == []
    assert json.loads(capsys.readouterr().out)["generalization_gap"] == 7.5
    assert evaluated(run, "--seed", "2") == 0
    assert played == ["None", "1", "2", "sticky"]
    capsys.readouterr()
    (run / "evaluations.jsonl").open("a").write('{"half')
    played.clear()
    assert evaluated(run) == 0
    assert played == []


def test_only_the_final_model_of_a_finished_run_goes_into_the_summary(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(run, "--best") == 0
    assert "the best model's table is not written into it" in capsys.readouterr().err
    assert load_summary(run)["generalization_gap"] is None


def test_what_cannot_be(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(run, "--mode", "1") == 2
    assert "leave out --mode and --difficulty" in capsys.readouterr().err
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("source: envpool", "source: ale"))
    assert evaluated(run) == 2
    assert "--flavours: the run's environments are --env.source ale's, which has none" in capsys.readouterr().err
    control = tmp_path / "control"
    options = {"total_steps": 300, "learning_starts": 100, "evaluation": {"final_episodes": 1, "interval": 1000}}
    from rl import TrainConfig

    train(TrainConfig.preset(None, game="CartPole", run_dir=str(control), **options))
    assert cli.main(["eval", str(control), "--flavours", "--device", "cpu"]) == 2
    assert "--flavours: CartPole is a control task and has none" in capsys.readouterr().err


def test_an_agent_with_other_actions_is_refused(played: list[str]) -> None:
    flavour = flavours("Pong", ENV, [0], [0])[0]
    with pytest.raises(UserError, match="3 actions, the agent has 6"):
        rl.flavours.play(
            lambda *arguments: np.zeros(1, np.int64), 6, "Pong", flavour, episodes=1, seed=1, epsilon=0.0,
            tell=lambda done, total: None,
        )  # fmt: skip
    assert tasks.find("Pong").name == "Pong"
