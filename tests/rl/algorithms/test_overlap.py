"""DQN whose environments step while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs.trainer_protocol import EvaluationResult
from rl import TrainConfig, train
from rl.algorithms.dqn import DQN
from rl.step import Environments
from rl.trainer import Trainer
from tests.rl.test_trainer import Killed, StopAt, catch_config, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_with_overlap_only_the_actions_come_earlier(catch: None, tmp_path: Path) -> None:
    """Random actions come from no weights: then each step's updates, targets and draws are those of a run in turn. The
    last step's are not made."""
    random: dict[str, Any] = {"exploration": {"start": 1.0, "end": 1.0}, "replay_size": 800}
    random["segment_steps"] = 1_008  # cut in mid-game, with a step's updates to come
    train(catch_config(tmp_path / "overlap", total_steps=1_608, overlap=True, **random))
    train(catch_config(tmp_path / "turn", total_steps=1_600, **random))
    train(catch_config(tmp_path / "longer", total_steps=1_608, **random))
    overlapping, in_turn, longer = (weights(tmp_path / name) for name in ("overlap", "turn", "longer"))
    assert all(torch.equal(tensor, in_turn[name]) for name, tensor in overlapping.items())
    assert not all(torch.equal(tensor, longer[name]) for name, tensor in overlapping.items())


def test_a_run_in_which_overlap_would_learn_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--total-steps 480: must be above 484 with --overlap"):
        catch_config(Path("none"), total_steps=480, learning_starts=476, overlap=True).validate()
    with pytest.raises(UserError, match="--total-steps 2048: must be at least 2112 for one rollout"):
        TrainConfig.preset("pqn-quick", total_steps=2_048, overlap=True).validate()


def test_with_overlap_updates_come_while_the_environments_step(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(owner: Any, method: str, sign: str) -> None:
        real = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda self, *args: (events.append(sign), real(self, *args))[1])

    noted(Environments, "send", "(")
    noted(Environments, "receive", ")")
    noted(DQN, "learn", "u")
    monkeypatch.setattr(Trainer, "evaluate", lambda self, number, final: EvaluationResult(0.0, "none"))
    for overlap, expected in ((False, "()u" * 60), (True, "()" + "(u)" * 59)):
        events.clear()
        train(catch_config(tmp_path / str(overlap), total_steps=480, overlap=overlap))
        assert "".join(events) == expected


def test_what_is_owed_when_new_games_begin_is_told_to_watchers_that_are_restored(
    catch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 800 owes the first target update. A resume that has to begin new games makes it before."""

    class Shifts(StopAt):
        name, shifts = "shifts", 0

        def shifted(self, updates: int) -> None:
            self.shifts += 1

        def state_dict(self) -> dict[str, int]:
            return {"shifts": self.shifts}

        def load_state_dict(self, state: Any) -> None:
            self.shifts = state.get("shifts", 0)

    config = catch_config(
        tmp_path / "run", overlap=True, total_steps=1_208, target_interval=800, checkpoint_interval=800
    )
    with pytest.raises(Killed):
        train(config, watchers=[Shifts(1_000)])
    monkeypatch.setattr("rl.trainer.Segment.load", lambda *arguments: False)
    counted = Shifts(10**9)
    train(config, resume=True, watchers=[counted])
    assert any("resumed at step 800" in text for text in counted.said)
    assert counted.shifts == 1
