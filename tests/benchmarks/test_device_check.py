"""The check of a device rehearses on a CPU, and says what is wrong."""

from __future__ import annotations

import pytest
import torch

from benchmarks import device_check
from rl.replay.device_ring import DeviceReplay


def test_it_rehearses_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert device_check.main(["--device", "cpu"]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line for line in lines[-len(device_check.checks()) :]}
    assert len(rows) == len(device_check.checks())
    left_out = [f"no waiting between logs, {algorithm}" for algorithm in ("dqn", "pqn")]
    assert [name for name, row in rows.items() if " pass " not in row] == left_out
    assert any(line.startswith("profile of this session") for line in lines)


def test_what_is_wrong_is_told_and_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = DeviceReplay.gather
    monkeypatch.setattr(DeviceReplay, "gather", lambda self, rows: real(self, (rows + 16) % 900))
    only = [check for check in device_check.checks() if "the host's" in check[0]]

    def slow(setting: device_check.Setting) -> str:
        raise device_check.Slow("9 environment steps/s")

    monkeypatch.setattr(device_check, "checks", lambda: [*only, ("speed", slow)])
    assert device_check.main(["--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["FAIL", "pass", "SLOW"]
    monkeypatch.setattr(device_check, "checks", lambda: [("speed", slow)])
    assert device_check.main(["--device", "cpu"]) == 3
    assert device_check.main(["--device", "cpu", "--seconds", "-1"]) == 0
    assert "no time was left" in capsys.readouterr().out
