"""Watchers: several as one, and the best model."""

import math
from pathlib import Path

import pytest

from evaluation.runs.metrics_file import MetricRow
from evaluation.runs.watchers import BestModel, Evaluated, Watcher, Watchers

CALLS = {
    "start": ({"total_steps": 3},),
    "update": ({"step": 1},),
    "advanced": (5, 1.0, 2.0),
    "evaluating": (1, 10),
    "stepped": (8, None),
    "learned": (3,),
    "saved": (8, Path("checkpoints/000000-step-8")),
    "message": ("hello",),
    "logged": ([MetricRow(1, 1, 0.1, "train", "loss", 2.0)],),
    "evaluated": (Evaluated(1, 2.0, Path.touch),),
    "shifted": (7,),
    "close": (True,),
}


@pytest.mark.parametrize("method", CALLS)
def test_everyone_is_told_in_order(method: str) -> None:
    told: list[tuple[int, tuple[object, ...]]] = []

    def member(number: int) -> Watcher:
        watcher = Watcher()
        setattr(watcher, method, lambda *arguments: told.append((number, arguments)))
        return watcher

    everyone = Watchers([member(0)])
    everyone.members.append(member(1))
    getattr(everyone, method)(*CALLS[method])
    assert told == [(0, CALLS[method]), (1, CALLS[method])]


def test_the_protocol_is_whole() -> None:
    """A method that `Watchers` does not pass on would never reach anyone."""
    public = {name for name in vars(Watcher) if not name.startswith("_")} - {"name"}
    assert public == set(CALLS) | {"state_dict", "load_state_dict"}
    assert public <= set(vars(Watchers))


def test_one_that_fails_to_close_keeps_no_other_from_it() -> None:
    closed: list[int] = []

    class Member(Watcher):
        def __init__(self, number: int) -> None:
            self.number = number

        def close(self, finished: bool) -> None:
            closed.append(self.number)
            if self.number == 0:
                raise RuntimeError("cannot")

    with pytest.raises(RuntimeError, match="cannot"):
        Watchers([Member(0), Member(1)]).close(False)
    assert closed == [0, 1]


def test_states_are_kept_by_name(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "best.pt")
    best.evaluated(Evaluated(5, 1.5, lambda path: path.write_text("five") and None))
    state = Watchers([Watcher(), best]).state_dict()
    assert state == {"best_model": {"score": 1.5, "step": 5, "model": b"five"}}
    other = BestModel(tmp_path / "best.pt")
    Watchers([other, Watcher()]).load_state_dict(state)
    assert (other.score, other.step) == (1.5, 5)
    other.load_state_dict({})
    assert (other.score, other.step) == (-math.inf, None)
    assert list(tmp_path.iterdir()) == []  # a run that starts over has none


def test_a_resume_has_the_best_model_of_its_checkpoint(tmp_path: Path) -> None:
    """Not the one of a session that was killed afterwards: its evaluation is not among the metrics any more."""
    best = BestModel(tmp_path / "best.pt")
    best.evaluated(Evaluated(5, 1.5, lambda path: path.write_text("five") and None))
    state = best.state_dict()
    best.evaluated(Evaluated(6, 2.5, lambda path: path.write_text("six") and None))
    again = BestModel(tmp_path / "best.pt")
    again.load_state_dict(state)
    assert ((tmp_path / "best.pt").read_text(), again.score) == ("five", 1.5)
    (tmp_path / "best.pt").unlink()  # somebody tidied up: no reason to end a run
    assert again.state_dict()["model"] is None
    again.load_state_dict({"score": 1.5, "step": 5})  # a checkpoint of an earlier version
    assert again.step == 5


def test_the_best_model_stays(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "best.pt")
    for step, score in ((1, math.nan), (2, -3.0), (3, -1.0), (4, -1.0), (5, -2.0)):
        best.evaluated(Evaluated(step, score, lambda path, step=step: path.write_text(str(step)) and None))
    assert (tmp_path / "best.pt").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
