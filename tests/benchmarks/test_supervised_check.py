"""The check of a device rehearses on a CPU, and says what is wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from benchmarks import supervised_check
from benchmarks.checks import Setting
from supervised.learner import Learner

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_rehearses_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert supervised_check.main(["--device", "cpu"]) == 0
    count = len(supervised_check.checks())
    rows = {row.split("  ")[0]: row for row in capsys.readouterr().out.splitlines()[-count:]}
    assert len(rows) == count
    left_out = [f"no waiting in updates, {task}" for task in ("imagenet", "wmt14")]
    left_out += [f"speed of {name}, compile" for name in ("ResNet-50", "Transformer base")]
    assert [name for name, row in rows.items() if " pass " not in row] == left_out
    assert "TFLOP/s" in rows["speed of Transformer base"]
    assert "waiting for data" in rows["speed of ResNet-50"]


def test_updates_that_are_not_the_cpus_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = Learner.update, 0

    def off(self: Learner, batches: object, items: int) -> object:
        nonlocal calls
        calls += 1
        return real(self, batches, items if calls <= supervised_check.UPDATES else 1.1 * items)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "update", off)
    only = [check for check in supervised_check.checks() if check[0].endswith("CPU's, small-cnn")]
    monkeypatch.setattr(supervised_check, "checks", lambda: only)
    assert supervised_check.main(["--device", "cpu"]) == 1
    assert "weights are apart by 0.1" in capsys.readouterr().out


def test_operations_are_those_of_the_layers() -> None:
    """Of ResNet-18 on 32 x 32 pixels: by hand from its layers, twice for each multiplication, three passes, the first
    layer without a gradient of the images."""
    setting = Setting(torch.device("cpu"), True, float("inf"))
    with supervised_check.session(setting, "imagenet") as one:
        counted = supervised_check._operations_of_an_item(one, 1)
    first = 64 * 3 * 49 * 16 * 16
    sides, widths = (8, 4, 2, 1), (64, 128, 256, 512)
    rest = 4 * 64 * 64 * 9 * 8**2 + 512 * 1000
    for side, width, narrow in zip(sides[1:], widths[1:], widths, strict=False):
        rest += (width * narrow * 9 + 3 * width * width * 9 + width * narrow) * side**2
    assert counted == 2 * (2 * first + 3 * rest)
