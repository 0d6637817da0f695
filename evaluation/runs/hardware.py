"""Where a run computes: device, precision, threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from evaluation.cli.errors import UserError
from evaluation.cores import cpu_quota


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


def select_threads(given: int | None, most: int | None = None) -> int:
    """Threads for torch: those `given`, else as many as there are cores that nothing else keeps busy now, at least one.

    Two threads at a load of 15 were four times slower than one: each waits for the other, which waits for its turn.
    Never more than torch takes by itself (OMP_NUM_THREADS), than a container's quota allows, or than `most`.
    """
    if given is not None:
        return given
    free = (os.cpu_count() or 1) - _load()
    return max(1, min(round(free), torch.get_num_threads(), cpu_quota(), most or sys.maxsize))


def _load() -> float:
    """Processes that ran or waited for a core in the last minute, on average; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` threads for torch in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """In the block, if `wanted`, torch computes the same numbers in every run of the same program on the same machine
    (https://docs.pytorch.org/docs/stable/notes/randomness.html); what it cannot so compute is an error. If not, cuDNN
    takes the convolutions that it finds fastest by trying.

    cuBLAS reads its setting when a device is first used: the block comes before that.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    cudnn.benchmark = not wanted
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def keep_freed_memory() -> None:
    """Tell the C library to keep what this process frees for its next tensors, up to 1 GiB, instead of giving it back.

    A training step frees and allocates the same megabytes over and over. As glibc comes, each time the kernel takes the
    pages back, hands out new ones and zeroes them: 1,200 page faults and a tenth of an update of Nature's network.
    For as long as the process lives; not where the user has set glibc's own variables, nor under other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    tuned = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys()
    if mallopt is not None and not tuned and "malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, the largest that glibc takes: larger blocks are always mapped anew
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: free memory at the end of the heap beyond which it is given back
