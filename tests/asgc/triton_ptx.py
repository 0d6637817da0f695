"""Compiles the kernels of ``asgc.triton`` for a GPU that need not be there, and prints their PTX as JSON.

Run as a process of its own, since Triton's interpreter, which other tests use, has to be chosen before the kernels are
made. Argument: the compute capability (80, 90). Prints a list of [name, PTX].
"""

import itertools
import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from asgc.triton import fields, kernels, rows
from asgc.triton.launch import CHUNK
from asgc.triton.table import TILE, WARPS

POINTERS = {"coefficients": "*fp32", "partial": "*fp64", "options": "*fp64", "totals": "*fp64"}
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
    text: str = compiled.asm["ptx"]
    return text


def variants() -> list[tuple[str, Any, dict[str, Any]]]:
    made: list[tuple[str, Any, dict[str, Any]]] = []
    kinds = itertools.cycle(range(fields.NO_CLIP, fields.ANY_POWER + 1))
    types = itertools.cycle(((tl.float32, tl.float32), (tl.bfloat16, tl.bfloat16), (tl.float16, tl.float32)))
    flags = {0: (False, True), 1: (False, True), 2: (False, True), 3: (False,)}
    for rule, options in flags.items():
        for flag in options:
            for norm in (False, True):
                param, grad = next(types)
                constants = {
                    "PARAM_DTYPE": param, "GRAD": grad, "ALIGNED": not flag, "TILE": TILE, "RULE": rule, "FLAG": flag,
                    "MOMENTUM": flag and rule != 1, "NORM": norm, "KIND": fields.NO_CLIP if norm else next(kinds),
                    "NOISE": 2 if flag else 1, "DIMS": 3 if flag else 0,
                }  # fmt: skip
                made.append((f"main rule {rule}, flag {flag}, norm {norm}", kernels.main, constants))
    for norm in (False, True):
        constants = {"NORM": norm, "GRAD": tl.bfloat16 if norm else tl.float32, "ALIGNED": norm, "TILE": TILE}
        made.append((f"sums norm {norm}", kernels.sums, constants))
        made.append((f"open_rows sums {norm}", rows.open_rows, {"SUMS": norm, "CHUNK": CHUNK}))
    made.append(("close_rows", rows.close_rows, {"CHUNK": CHUNK}))
    return made


if __name__ == "__main__":
    print(json.dumps([(name, ptx(kernel, int(sys.argv[1]), **constants)) for name, kernel, constants in variants()]))
