"""Device, precision and threads of a run."""

import contextlib
from pathlib import Path

import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs.hardware import cpu_multiplies_bf16, select_device, select_precision, torch_threads


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="--device cuda"):
        select_device("cuda")
    assert select_device("auto").type == "cpu"


def test_auto_precision_follows_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512_bf16 sse\n")
    assert cpu_multiplies_bf16(cpuinfo)
    cpuinfo.write_text("flags : fpu avx2 sse\n")
    assert not cpu_multiplies_bf16(cpuinfo)
    cpu = torch.device("cpu")
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("evaluation.runs.hardware.cpu_multiplies_bf16", lambda has=has: has)
        assert select_precision("auto", cpu) == expected
    assert select_precision("fp32", cpu) == "fp32"


def test_threads_are_lent_for_a_block() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(ValueError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before
    with torch_threads(None):
        assert torch.get_num_threads() == before
