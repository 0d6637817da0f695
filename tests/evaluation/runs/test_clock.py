"""The run's clock."""

from __future__ import annotations

import pytest

from evaluation.runs import clock
from evaluation.runs.clock import Clock


def test_evaluations_count_apart_and_the_time_between_sessions_not_at_all(monkeypatch):
    now = 100.0
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now)
    first = Clock()
    now = 110.0
    with first.evaluation():
        now = 113.0
    assert (first.wall_s, first.evaluation_s, first.training_s) == (13.0, 3.0, 10.0)
    saved = first.state_dict()
    now = 5000.0
    second = Clock()
    now = 6000.0
    second.load_state_dict(saved)
    now = 6002.0

    def interrupted() -> None:
        nonlocal now
        with second.evaluation():
            now = 6003.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (second.wall_s, second.evaluation_s, second.training_s) == (16.0, 4.0, 12.0)
