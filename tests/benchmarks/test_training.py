"""The throughput bench: turns, medians, ratios, and that what it times really trains."""

from pathlib import Path

import pytest
import torch

from benchmarks import bench_cli, recording_cost
from benchmarks import training as bench
from evaluation.cli.errors import UserError


class Fake:
    """Takes `seconds` a step on a clock of the test's own."""

    def __init__(self, name: str, seconds: list[float], log: list[str], clock: list[float]) -> None:
        self.name, self.seconds, self.log, self.clock = name, seconds, log, clock
        self.rounds = -1  # the burn-in comes first

    def advance(self, steps: int) -> int:
        self.log.append(self.name)
        if self.rounds >= 0:
            self.clock[0] += steps * self.seconds[self.rounds]
        self.rounds += 1
        return steps

    def close(self) -> None: ...


def test_rounds_are_taken_in_turns_after_a_burn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    a, b = Fake("a", [0.01, 0.02], log, clock), Fake("b", [0.04, 0.1], log, clock)
    rates = bench.measure([a, b], steps=100, rounds=2)
    assert log == ["a", "b", "a", "b", "a", "b"]
    assert rates[0] == pytest.approx([100, 50])
    assert rates[1] == pytest.approx([25, 10])


def test_ratio_is_the_median_of_the_rounds_ratios_and_comes_last() -> None:
    names = ["ours fp32", "ours bf16", "peer"]
    text = bench.report(names, [[100, 100, 300], [200, 100, 900], [50, 100, 100]], against=True).splitlines()
    assert text[0].startswith("ours fp32     100.0 env steps/s")
    assert text[-2:] == ["fp32 against fp32: 2.00x", "ratio: 4.00x"]
    assert "ratio" not in bench.report(names[:2], [[1.0], [2.0]], against=False)


def test_what_is_timed_trains_at_natures_replay_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BURN_IN", 80)
    monkeypatch.setattr(bench, "REPLAY", 1_000)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = bench.Ours("Pong", "asgc", "fp32", torch.device("cpu"), tmp_path / "run")
    try:
        weights = [p.clone() for p in ours._trainer.algorithm.learner.network.parameters()]
        assert ours.advance(80) == 80
        assert ours.config.batch_size == 32
        assert ours._trainer.segment.observation.shape[1:] == (4, 84, 84)
        assert ours._trainer.algorithm.updates == (80 - 40) // 4
        assert not torch.equal(weights[0], next(ours._trainer.algorithm.learner.network.parameters()))
    finally:
        ours.close()
        torch.set_num_threads(before)


def test_unknown_peer_is_named() -> None:
    with pytest.raises(UserError, match="rllib"):
        bench_cli.main(["--against", "rllib"])


def test_overhead_of_recording_counts_one_regular_record_and_all_offsets_an_interval() -> None:
    assert recording_cost.overhead(plain=0.01, regular=0.05, shift=0.02, interval=100, offsets=5) == pytest.approx(0.15)


def test_recording_is_measured_in_turns_on_trainings_that_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns: list[tuple[str, int, int]] = []
    real = recording_cost.Learning.seconds_per_update

    def seen(self: recording_cost.Learning, updates: int) -> float:
        seconds = real(self, updates)
        recorder = self._trainer.recording._recorder
        events = {row["event"] for row in recorder._rows} if recorder else set()
        done = self._trainer.algorithm.updates
        recorded = len({row["update"] for row in recorder._rows} & set(range(done - updates, done))) if recorder else 0
        turns.append(("+".join(sorted(events)), recorded, updates))
        return seconds

    monkeypatch.setattr(recording_cost.Learning, "seconds_per_update", seen)
    monkeypatch.setattr(recording_cost, "UPDATES", {"control": 8})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert bench_cli.main(["--gradients", "--rounds", "2", "--device", "cpu"]) == 0
    torch.set_num_threads(before)
    # The second training makes every update a regular record, the third one around its target update.
    assert turns == [("", 0, 8), ("interval", 8, 8), ("interval+shift", 8, 8)] * 2
    line = capsys.readouterr().out
    assert line.startswith("control  CartPole, asgc: update ")
    assert "every 1009 updates, 8 offsets: " in line
