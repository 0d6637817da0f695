"""Runs that switch games: the schedule, the boundaries, resumes, what is told of each game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rl.tasks.atari
import rl.trainer
from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_summary, read_series
from evaluation.runs.schedule import Schedule
from evaluation.runs.weight_average import WeightAverage
from rl import TrainConfig, load_agent, train
from rl.algorithms.dqn import DQN
from rl.game_schedule import Stage, played_at, stage_at, stages, trained_at
from rl.tasks.atari import AtariEnvs
from tests.rl.catch import CatchPool
from tests.rl.test_trainer import Killed, StopAt, assert_same_run, catch_config

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULE = "Breakout@600,Breakout:mode=4@1200"
PIXEL = {"Pong": 10, "Breakout": 20, "Breakout:mode=4": 30}  # of every frame's corner
REWARD = {"Pong": 1.0, "Breakout": 100.0, "Breakout:mode=4": 10_000.0}  # of every step


class MarkedPool(CatchPool):
    """Catch in which frames and rewards say which game they are of."""

    def __init__(self, label: str, num_envs: int, seed: int) -> None:
        self.label = label
        super().__init__(num_envs, seed)

    def _draw(self) -> NDArray[np.uint8]:
        frames = super()._draw()
        frames[:, 0, 0] = PIXEL[self.label]
        return frames

    def step(self, actions: NDArray[np.int32]) -> tuple[Any, ...]:
        observation, _, done, truncated, info = super().step(actions)
        every = np.where(info["elapsed_step"] > 0, np.float32(REWARD[self.label]), np.float32(0))
        return observation, every, done, truncated, info | {"reward": every}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Marked games; which were made, and whether for training."""
    found: list[tuple[str, bool]] = []

    def make(game: str, protocol: object, env: Any, *, num_envs: int, seed: int, training: bool) -> AtariEnvs:
        assert env.full_actions or num_envs == 1  # the check of a mode
        label = Stage(0, game, env.mode).label
        if num_envs > 1:
            found.append((label, training))
        return AtariEnvs(MarkedPool(label, num_envs, seed), num_envs, episodic_life=False)

    monkeypatch.setattr(rl.tasks.atari, "make_envs", make)
    return found


def scheduled(run: Path, **options: Any) -> TrainConfig:
    more: dict[str, Any] = {"total_steps": 1_800, "learning_starts": 200, "n_step": 3, "game_schedule": SCHEDULE}
    more |= {"evaluation": {"interval": 300, "episodes": 4, "final_episodes": 8}}
    return catch_config(run, **(more | options))


def config_of(text: str, **options: Any) -> TrainConfig:
    return TrainConfig.preset("quick", game_schedule=text, total_steps=1_000_000, **options)


def test_stages() -> None:
    config = config_of(" breakout@200_000, SpaceInvaders:mode=3:difficulty=1@400000", env={"mode": 1})
    config.validate()
    assert stages(config) == (
        Stage(0, "Pong", 1),
        Stage(200_000, "Breakout"),
        Stage(400_000, "SpaceInvaders", 3, 1),
    )
    assert [stage_at(config, step).game for step in (0, 199_999, 200_000, 10**9)] == [
        *("Pong", "Pong", "Breakout", "SpaceInvaders")
    ]
    assert stages(config)[2].label == "SpaceInvaders:mode=3:difficulty=1"
    assert stages(config)[2].split == "eval SpaceInvaders mode 3 difficulty 1"
    # An advance of 16 environments that ends at the switch was played before it.
    assert (trained_at(config, 200_000).game, trained_at(config, 200_016).game) == ("Pong", "Breakout")
    game, env = played_at(config, None)
    assert (game, env.mode, env.difficulty) == ("SpaceInvaders", 3, 1)


def test_one_set_of_actions() -> None:
    several = config_of("Breakout@200000")
    several.validate()
    several.validate()
    assert several.env.full_actions
    assert [note for note in several.notes if "18 actions" in note] == list(several.notes)[-1:]
    modes = config_of("Pong:mode=1@200000")
    modes.validate()
    assert not modes.env.full_actions, "ALE's minimal set is the same in every mode"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Breakout", r"--game-schedule Breakout: must be GAME\[:mode=M\]"),
        ("Breakout:level=2@5", "must be GAME"),
        ("Brekout@5", "did you mean Breakout"),
        ("Breakout@500,Pong@500", "the steps must grow"),
        ("Breakout@1000000", "must come before the end of the run, --total-steps 1000000"),
        ("Pong@500", "is what is played already"),
        ("Breakout@0,Pong@500", "begins with another game than --game Pong"),
        ("CartPole@500", "schedules are of Atari games"),
        ("Pong:mode=7@500", "Pong has no mode 7"),
    ],
)
def test_wrong_schedules(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        config_of(text).validate()


def test_control_tasks_have_none() -> None:
    with pytest.raises(UserError, match="has no such option"):
        TrainConfig.preset(None, game="CartPole", game_schedule="Acrobot@500").validate()


def test_no_transition_joins_two_games(
    made: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks, next stacks and sums of rewards are of one game, in every batch that is learned from."""
    seen: dict[int, int] = {}
    real = DQN.learn

    def learn(self: DQN, due: int) -> None:
        if len(self.replay):
            batch = self.replay.sample(256, np.random.default_rng(due))
            corners = np.concatenate([batch.observation[..., 0, 0], batch.next_observation[..., 0, 0]], axis=1)
            assert (corners == corners[:, :1]).all(), "a stack of two games"
            for pixel, reward in zip(corners[:, 0].tolist(), batch.reward.tolist(), strict=True):
                label = next(label for label, mark in PIXEL.items() if mark == pixel)
                steps = reward / REWARD[label]
                assert 0 <= steps <= 1 + 0.99 + 0.99**2 + 1e-3, "rewards of another game"
                assert min(abs(steps - sum(0.99**k for k in range(n))) for n in range(4)) < 1e-3
                seen[pixel] = seen.get(pixel, 0) + 1
        real(self, due)

    monkeypatch.setattr(DQN, "learn", learn)
    train(scheduled(tmp_path / "run"))
    assert sorted(seen) == [10, 20, 30], "all games were learned from"
    training = [label for label, is_training in made if is_training]
    assert training == ["Pong", "Breakout", "Breakout:mode=4"]


def test_switches_shift_the_optimizer_and_are_told(
    made: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[rl.trainer.Trainer] = []
    steps: list[int] = []
    real = rl.trainer.Trainer.__init__

    def init(self: rl.trainer.Trainer, *arguments: Any) -> None:
        trainers.append(self)
        real(self, *arguments)
        self.algorithm.learner.optimizer.shift = lambda: steps.append(self.step)  # type: ignore[attr-defined]

    class Shifts(StopAt):
        def __init__(self) -> None:
            super().__init__(10**9)
            self.updates: list[int] = []

        def shifted(self, updates: int) -> None:
            self.updates.append(updates)

    watcher = Shifts()
    monkeypatch.setattr(rl.trainer.Trainer, "__init__", init)
    train(scheduled(tmp_path / "run", target_interval=10_000), watchers=[watcher])
    assert steps == [600, 1200]
    assert watcher.updates == [trainers[0].schedule.updates(step) for step in (600, 1200)]
    assert [line for line in watcher.said if "from here on" in line] == [
        "step 600: from here on Breakout",
        "step 1,200: from here on Breakout:mode=4",
    ]


def test_the_recorder_knows_when_a_switch_follows() -> None:
    """The update before a switch, and no other; with a target update as well, both."""
    how: dict[str, int] = {"total": 1000, "stride": 8, "log": 100, "evaluation": 100, "checkpoint": 100}
    schedule = Schedule(**how, learning_starts=96, train_every=16, switches=(300,))
    follows = [update for update in range(50) if schedule.shift_follows(update)]
    last_before = max(update for update in range(50) if schedule.step_of(update) <= 304)  # 300, in whole advances
    assert follows == [last_before]
    assert [step for step in range(8, 1000, 8) if schedule.switched(step)] == [304]
    both = Schedule(**how, learning_starts=96, train_every=16, switches=(300,), shift=200)
    alone = Schedule(**how, learning_starts=96, train_every=16, shift=200)
    targets = {update for update in range(50) if alone.shift_follows(update)}
    assert {update for update in range(50) if both.shift_follows(update)} == targets | {last_before}


@pytest.mark.parametrize("kill", [500, 700, 1300])
def test_resumed_across_a_switch_is_uninterrupted(made: list[tuple[str, bool]], kill: int, tmp_path: Path) -> None:
    """Killed before a switch, after it, and after the second; the checkpoint at 600 is at the very switch."""
    how = {"checkpoint_interval": 200, "log_interval": 100}
    train(scheduled(tmp_path / "whole", **how))
    with pytest.raises(Killed):
        train(scheduled(tmp_path / "killed", **how), watchers=[StopAt(kill)])
    train(scheduled(tmp_path / "killed", **how), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    whole, resumed = (load_summary(tmp_path / name) for name in ("whole", "killed"))
    assert whole["games"] == resumed["games"]


def test_an_average_of_weights_is_of_one_game(
    made: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    restart = WeightAverage.restart

    def seen(self: WeightAverage[Any]) -> None:
        told.append(self.state_dict()["updates"])
        restart(self)

    monkeypatch.setattr(WeightAverage, "restart", seen)
    train(scheduled(tmp_path / "run", ema_decay=0.9))
    first, second = told  # two switches
    assert 0 < first < 200
    assert 0 < second < 200, "counted anew"


def test_scores_are_of_the_game_of_the_moment(made: list[tuple[str, bool]], tmp_path: Path) -> None:
    config = scheduled(tmp_path / "run", evaluation={"interval": 300, "episodes": 4, "final_episodes": 8, "last_k": 5})
    config.evaluation.target = None
    summary = train(config)
    per_step = 7  # steps of a game of Catch, each with the game's reward
    curve = read_series(tmp_path / "run", "eval", "score")
    scores = dict(zip(curve["step"].tolist(), curve["value"].tolist(), strict=True))
    expected = {"Pong": (304, 600), "Breakout": (904, 1200), "Breakout:mode=4": (1504, 1800)}
    assert scores == {step: per_step * REWARD[label] for label, steps in expected.items() for step in steps}
    for label, steps in expected.items():
        split = Stage(0, *label.split(":mode=")[:1], mode=4 if "mode" in label else None).split
        found = read_series(tmp_path / "run", split, "score")["step"].tolist()
        assert found == [*steps, *([] if 1800 in steps else [1800])], "and all of them at the end"
    assert set(summary["games"]) == set(PIXEL)
    assert summary["games"]["Pong"]["mean_score"] == per_step
    assert (summary["games"]["Pong"]["target"], summary["games"]["Pong"]["reached_at_step"]) == (0.0, 304)
    assert (summary["games"]["Breakout"]["target"], summary["games"]["Breakout"]["reached_at_step"]) == (None, None)
    assert len(summary["games"]["Breakout"]["scores"]) == 8
    assert summary["final"] == per_step * 10_000, "the mean over evaluations of the last game only"
    assert (summary["last_k"], summary["time_to_threshold"]) == (2, None)
    assert summary["signature"]["game_schedule"] == SCHEDULE
    assert summary["signature"]["full_actions"] is True
    best = load_agent(tmp_path / "run", best=True)
    assert best.step in (1504, 1800), "the best of the last game"
    returns = read_series(tmp_path / "run", "train", "return")
    for step, value in zip(returns["step"].tolist(), returns["value"].tolist(), strict=True):
        assert value == per_step * REWARD[trained_at(config, step).label], "no mean over two games"
