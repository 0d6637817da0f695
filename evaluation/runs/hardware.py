"""Where a run computes: device, precision, threads."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from evaluation.cli.errors import UserError


def select_device(name: str) -> torch.device:
    """The device for "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N"; UserError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA GPU is available to PyTorch here; use --device cpu or --device auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def select_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32" for "auto": bfloat16 where the hardware multiplies it, otherwise float32."""
    if name != "auto":
        return name
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are the hardware's; elsewhere they are emulated, and slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_multiplies_bf16()


def select_channels_last(given: bool | None, device: torch.device, precision: str) -> bool:
    """The convolutions' memory format: channels_last where it is faster, unless it is `given`."""
    return device.type == "cuda" or precision == "fp32" if given is None else given


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bfloat16 products (AVX-512 BF16, AMX, Arm BF16); without them bf16 is slower than fp32."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return False
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """`count` threads for torch in the block (None: as many as it has).

    On a machine with other jobs a second thread that waits for its turn makes a small update ten times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
