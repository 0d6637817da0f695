"""Compiles the Triton kernels for a GPU that need not be there, and prints their PTX as JSON by name.

Run as a process of its own, since Triton's interpreter, which other tests use, has to be chosen before the kernels are
made. Argument: the compute capability (80, 90).
"""

import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from asgc.implementations.cpu.layer_structs import RULE_CODES
from asgc.implementations.triton import fields, kernels, rows
from asgc.implementations.triton.device_table import TILE, WARPS
from asgc.implementations.triton.triton_step import CHUNK

POINTERS = {"coefficients": "*fp32", "partial": "*fp64", "options": "*fp64"}
POINTERS |= {"keys": "*i32", "unseen": "*i32"}  # all others are int64


def ptx(kernel: Any, capability: int, **constants: Any) -> str:
    names = [name for name in kernel.arg_names if name not in constants]
    source = ASTSource(
        fn=kernel,
        signature={name: POINTERS.get(name, "*i64") for name in names} | dict.fromkeys(constants, "constexpr"),
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in names},
    )
    options = {"num_warps": WARPS, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
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
    made = {name: ptx(kernel, int(sys.argv[1]), **constants) for name, (kernel, constants) in VARIANTS.items()}
    print(json.dumps(made))
