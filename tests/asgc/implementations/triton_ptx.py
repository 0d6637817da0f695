"""Compiles the Triton kernels for a GPU that need not be there, and prints their PTX as JSON by name.

Run as a process of its own, since Triton's interpreter, which other tests use, has to be chosen before the kernels are
made. Argument: the compute capability (80, 90).
"""

import json
import sys
from typing import Any

import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from asgc.implementations.cpu.layer_structs import RULE_CODES
from asgc.implementations.triton import fields, kernels, rows
from asgc.implementations.triton.device_table import TILE, WARPS
from asgc.implementations.triton.triton_step import CHUNK

POINTERS = {"coefficients": torch.float32, "partial": torch.float64, "group_options": torch.float64}
POINTERS |= {"keys": torch.int32, "unseen": torch.int32}  # all others are int64


class NoGPU:
    """What a launch asks the driver for until the kernel is compiled."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def ptx(kernel: Any, **constants: Any) -> str:
    """The way of a launch, which binds the arguments by name, up to the machine code."""
    pointers = [POINTERS.get(name, torch.int64) for name in kernel.arg_names if name not in constants]
    compiled = kernel.warmup(*pointers, grid=(1,), num_warps=WARPS, enable_fp_fusion=False, **constants)
    assert compiled.asm["cubin"]  # ptxas took it
    text: str = compiled.asm["ptx"]
    return text


def main_of(
    rule: str, form: int, types: tuple[Any, Any] = (tl.float32, tl.float32), noise: int = 1, dims: int = 0,
    flag: bool = False, momentum: bool = False, norm: bool = False, aligned: bool = True,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    return kernels.main, {
        "PARAM_DTYPE": types[0], "GRAD": types[1], "ALIGNED": aligned, "TILE": TILE, "RULE": RULE_CODES[rule],
        "FLAG": flag, "MOMENTUM": momentum, "NORM": norm, "KIND": form, "NOISE": noise, "DIMS": dims,
    }  # fmt: skip


def sums_of(rule: str, grad: Any, tile: int, **options: bool) -> tuple[Any, dict[str, Any]]:
    chosen = {"ALL": True, "ALIGNED": True, "FLAG": False, "LANGEVIN": False, **options}
    return kernels.sums, {"GRAD": grad, "TILE": tile, "RULE": RULE_CODES[rule], **chosen}


HALF, MIXED = (tl.float16, tl.float16), (tl.bfloat16, tl.float32)
BRAIN = (tl.bfloat16, tl.bfloat16)
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam value": main_of("adam", fields.POWER_4),
    "adam norm": main_of("adam", fields.NO_CLIP, norm=True),
    "amsgrad unaligned": main_of("adam", fields.POWER_1, HALF, dims=3, flag=True, aligned=False),
    "sgd": main_of("sgd", fields.POWER_2, MIXED),
    "nesterov": main_of("sgd", fields.NO_CLIP, BRAIN, noise=2, norm=True, flag=True, momentum=True),
    "rmsprop": main_of("rmsprop", fields.ANY_POWER, BRAIN, noise=2, flag=True, momentum=True),
    "adagrad": main_of("adagrad", fields.HARD, noise=0),
    "sums of new rows": sums_of("sgd", tl.float32, 128, ALL=False, ALIGNED=False),
    "sums of all rows": sums_of("adam", tl.bfloat16, TILE),
    "sums with denominators": sums_of("adam", tl.float32, TILE, LANGEVIN=True),
    "sums with centred denominators": sums_of("rmsprop", tl.float32, TILE, LANGEVIN=True, FLAG=True),
    "open_rows": (rows.open_rows, {"SUMS": False, "CHUNK": CHUNK}),
    "open_rows with sums": (rows.open_rows, {"SUMS": True, "CHUNK": CHUNK}),
    "close_rows": (rows.close_rows, {"CHUNK": CHUNK}),
}


if __name__ == "__main__":
    driver.set_active(NoGPU(int(sys.argv[1])))
    made = {name: ptx(kernel, **constants) for name, (kernel, constants) in VARIANTS.items()}
    print(json.dumps(made))
