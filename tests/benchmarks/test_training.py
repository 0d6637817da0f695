"""The throughput bench: turns, medians, ratios, and that what it times really trains."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_cli, contestants, recording_cost, workers
from benchmarks import training as bench
from benchmarks.contestants import Setting
from benchmarks.workers import Turn
from evaluation.cli.errors import UserError


class Fake:
    """Takes `seconds` a step in its rounds, the burn-in first."""

    def __init__(self, name: str, seconds: list[float], log: list[str]) -> None:
        self.name, self.seconds, self.log = name, [1.0, *seconds], log

    def advance(self, steps: int) -> Turn:
        self.log.append(self.name)
        used = steps * self.seconds.pop(0)
        return Turn(steps, used, 1.5 * used)

    def peak(self) -> dict[str, int]:
        return {"memory": 2_000_000}

    def score(self, episodes: int) -> list[float] | None:
        return None

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def test_rounds_are_taken_in_turns_after_a_burn_in() -> None:
    log: list[str] = []
    a, b = Fake("a", [0.01, 0.02], log), Fake("b", [0.04, 0.1], log)
    turns = bench.measure([a, b], steps=100, rounds=2)
    assert log == ["a", "b", "a", "b", "a", "b"]
    assert [[turn.steps / turn.seconds for turn in row] for row in turns] == [
        pytest.approx([100, 50]),
        pytest.approx([25, 10]),
    ]


def rows(*rates: list[float]) -> list[list[Turn]]:
    return [[Turn(100, 100 / rate, 150 / rate) for rate in row] for row in rates]


def test_ratio_is_the_median_of_the_rounds_ratios_and_comes_last() -> None:
    names = ["ours fp32", "ours bf16", "peer"]
    turns, peaks = rows([100, 100, 300], [200, 100, 900], [50, 100, 100]), [{"memory": 3_000_000_000, "GPU": 5}] * 3
    text = bench.report(names, turns, peaks, peers=1).splitlines()
    assert text[0].startswith("ours fp32     100.0 env steps/s  (min 100.0, max 300.0)   1.5 cores  3.0 GB memory, 5 ")
    assert text[-2:] == ["fp32 against fp32: 2.00x", "ratio: 4.00x"]
    assert "ratio" not in bench.report(names[:2], turns[:2], peaks[:2], peers=0)


def test_several_peers_have_a_ratio_each_the_first_one_last() -> None:
    names = ["ours fp32", "ours bf16", "one, adam, fp32", "other, adam, fp32"]
    text = bench.report(names, rows([100], [200], [50], [20]), [{"memory": 1}] * 4, peers=2).splitlines()
    assert text[-4:] == [
        "other: fp32 against fp32: 5.00x",
        "other: ratio: 10.00x",
        "fp32 against fp32: 2.00x",
        "ratio: 4.00x",
    ]


def test_all_train_for_the_same_time_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    fast, slow = Fake("fast", [0.01] * 99, log), Fake("slow", [0.5] * 99, log)
    fast.seconds[0], slow.seconds[0] = 0.01, 0.5  # no burn-in here
    done = bench.train_for([fast, slow], 120.0)
    for steps, seconds in done:
        assert 120 <= seconds < 135
        assert steps == pytest.approx(seconds / (0.01 if steps > 1_000 else 0.5))
    assert log[:4] == ["fast", "slow", "fast", "slow"]
    text = bench.learned(["fast", "slow"], done, [[1.0, 3.0], None], "Pong", "quick").splitlines()
    assert text[1].startswith("fast      2.0 (deviation 1.4)  12,")
    assert "not evaluated" in text[2]


def setting(**options: object) -> Setting:
    return Setting(game="Pong", device="cpu", threads=1, **options)  # type: ignore[arg-type]


def test_what_is_timed_trains_at_natures_replay_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "BURN_IN", 80)
    monkeypatch.setattr(contestants, "REPLAY", 1_000)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = contestants.Ours(setting(), "asgc", "fp32")
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


def test_with_overlap_only_this_toolkits_environments_step_while_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def started(config: contestants.TrainConfig) -> None:
        seen.append((config.backend, config.overlap))
        raise UserError("enough")

    monkeypatch.setattr(contestants, "started", started)
    for backend in ("native", "sb3"):
        for overlap in (False, True):
            with pytest.raises(UserError, match="enough"):
                contestants.Ours(setting(overlap=overlap), "adam", "fp32", backend)
    assert seen == [("native", False), ("native", True), ("sb3", False), ("sb3", False)]
    assert "learns while they step" in bench.describe(setting(overlap=True), 1, 100)


def test_stable_baselines3_learns_on_its_own_wrappers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("ale_py")
    monkeypatch.setattr(contestants, "BURN_IN", 80)
    monkeypatch.setattr(contestants, "REPLAY", 400)
    peer = contestants.make("sb3", setting())
    assert isinstance(peer, contestants.StableBaselines3)
    try:
        before = [p.clone() for p in peer._model.q_net.parameters()]
        assert peer.advance(80) == 80
        assert peer._model._n_updates == (80 - 40) // 4
        assert not torch.equal(before[0], next(peer._model.q_net.parameters()))
        assert peer.policy()(np.zeros((3, 4, 84, 84), np.uint8), 0.0, np.random.default_rng(0)).shape == (3,)
    finally:
        peer.close()


def test_what_is_scored_learns_with_the_presets_own_settings() -> None:
    config, preset = setting(preset="quick", learns=True).config(), contestants.TrainConfig.preset("quick")
    for name in ("replay_size", "learning_starts", "exploration", "n_step", "env", "network"):
        assert getattr(config, name) == getattr(preset, name), name
    assert not config.double


def test_unknown_peers_and_presets_are_named() -> None:
    for arguments, said in (
        (["--against", "rllib"], "rllib"),
        (["--against", "sb3,rllib"], "rllib"),
        (["--against", "cleanrl"], "cleanrl=PATH"),
        (["--preset", "rainbows"], "rainbows"),
    ):
        with pytest.raises(UserError, match=said):
            bench_cli.main([*arguments, "--device", "cpu"])


def test_who_cannot_take_part_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log: list[str] = []

    def process(name: str, chosen: Setting, who: str, *how: str) -> Fake:
        if who == "tianshou":
            raise UserError("tianshou is not installed: pip install 'asgc[tianshou]'")
        return Fake(name, [0.01 if who == "ours" else 0.02], log)

    monkeypatch.setattr(bench, "Process", process)
    small = ["--device", "cpu", "--precision", "fp32", "--rounds", "1"]
    assert bench_cli.main(["--against", "tianshou,sb3", *small]) == 0
    out, err = capsys.readouterr()
    assert err == "tianshou is left out: tianshou is not installed: pip install 'asgc[tianshou]'\n"
    assert out.splitlines()[-1] == "ratio: 2.00x"
    assert log[-2:] == ["stable-baselines3, adam, fp32 closed", "asgc-rl, asgc, fp32 closed"]
    with pytest.raises(UserError, match="none of those"):
        bench_cli.main(["--against", "tianshou", *small])
    assert log[-1] == "asgc-rl, asgc, fp32 closed"


SCRIPT = """
import itertools, sys, time
assert "--learning-starts" in sys.argv
for step in itertools.count():
    if step % 50 == 0:
        print(f"global_step={step}, episodic_return=1")
    if step and step % 100 == 0:
        print("SPS:", step)
    time.sleep(0.0001)
"""


def test_a_script_of_cleanrls_runs_in_its_turns_only(tmp_path: Path) -> None:
    (tmp_path / "dqn_atari.py").write_text(SCRIPT)
    script = workers.Script(str(tmp_path / "dqn_atari.py"), setting())
    try:
        turn = script.advance(250)
        assert turn.steps == 300
        assert turn.seconds >= 0.03
        stat = Path(f"/proc/{script._process.pid}/stat")
        state = ""
        for _ in range(100):
            if (state := stat.read_text().rpartition(")")[2].split()[0]) == "T":
                break
            time.sleep(0.01)
        assert state == "T"  # stopped
        assert script.peak()["memory"] > 1_000_000
        assert script.score(30) is None
    finally:
        script.close()


def test_a_clones_own_environment_runs_its_script(tmp_path: Path) -> None:
    """With the packages of the clone beside it."""
    for folder in ("cleanrl", "cleanrl_utils", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "cleanrl_utils" / "buffers.py").touch()
    asked = "import os, sys, cleanrl_utils.buffers\nassert os.environ['OWN'] == '1' and '--env-id' in sys.argv\n"
    (tmp_path / "cleanrl" / "dqn_atari.py").write_text(asked + SCRIPT)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nOWN=1 exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    script = workers.Script(str(tmp_path / "cleanrl" / "dqn_atari.py"), setting())
    try:
        assert script.advance(100).steps == 100
    finally:
        script.close()


def test_a_script_that_fails_is_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        workers.Script(str(tmp_path / "dqn_atari.py"), setting())
    (tmp_path / "dqn_atari.py").write_text("raise AttributeError('no FrameStack')")
    with pytest.raises(UserError, match="cleanrl has ended by itself: AttributeError: no FrameStack"):
        workers.Script(str(tmp_path / "dqn_atari.py"), setting())


@pytest.mark.slow
def test_two_real_contestants_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    small = ["--device", "cpu", "--precision", "fp32", "--steps", "100", "--rounds", "1", "--preset", "quick"]
    assert bench_cli.main(["--against", "sb3-envpool", *small]) == 0
    out = capsys.readouterr().out
    assert "cores" in out
    assert out.splitlines()[-1].startswith("ratio: ")


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
