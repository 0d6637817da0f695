"""What steps of every kind leave behind, for a process in which torch's default device or type is another one.

``python -m tests.asgc.default_types`` prints a digest for each kind of optimizer under each default. It imports torch
and triton once, and forks a process for each default, in which asgc is imported after the default is set.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

DEFAULTS: dict[str, tuple[str | None, torch.dtype]] = {
    "plain": (None, torch.float32),
    "meta": ("meta", torch.float32),
    "float64": (None, torch.float64),
    "cuda and bfloat16": ("cuda", torch.bfloat16),  # without a GPU a call that names no device fails
}
STEPS = 4
SHAPES = ((3, 4), (5,), ())
OPTIONS: dict[str, dict[str, Any]] = {
    "norm": {"noise_decay": 0.3},
    "value": {"mode": "value", "clip_factor": 0.5, "amsgrad": True},
    "sgd": {"rule": "sgd", "momentum": 0.9, "clip_sharpness": 3.0, "nonfinite": "skip"},
    "rmsprop, after the rule": {"rule": "rmsprop", "centered": True, "noise_at": "update"},
    "adagrad, threshold": {"rule": "adagrad", "threshold": 0.1, "nonfinite": "raise"},
    "units": {"granularity": "unit", "rule": "adamw"},
    "adapt": {"adapt": "hypergradient", "adapt_every": 1},
    "adapt, value": {"adapt": "hypergradient", "adapt_every": 1, "mode": "value", "rule": "sgd"},
}


WRAPPED: dict[str, dict[str, Any]] = {"norm": {}, "value": {"mode": "value"}, "units": {"granularity": "unit"}}
DTYPES = {"reference": (torch.float32, torch.bfloat16, torch.float64), "wrap": (torch.float32, torch.bfloat16)}
SHARDED = ("norm", "units", "rmsprop, after the rule")


def made(optimizer: str, implementation: str, params: list[Tensor]) -> Any:
    from asgc import ASGC, optimizers, wrap

    if implementation == "registry":
        return optimizers.build(optimizer, params, 0.1)
    if implementation == "wrap":
        return wrap(torch.optim.SGD(params, lr=0.1), **WRAPPED[optimizer])
    return ASGC(params, 0.1, implementation=implementation, **OPTIONS[optimizer])


def kinds() -> Iterator[tuple[str, str]]:
    """(optimizer, implementation) of everything that asgc can make."""
    from asgc import optimizers

    for name in OPTIONS:
        yield name, "reference"
        yield name, "cpu"
        if "adapt" not in name and name != "units":
            yield name, "foreach"
    if not torch.cuda.is_available():  # else its interpreter is off
        yield "units", "triton"  # with layers that have one unit, too
    yield from ((name, "wrap") for name in WRAPPED)
    yield from ((name, "sharded") for name in SHARDED)
    # torch's own RMSprop and RAdam make their counters on the default device.
    yield from (
        (name, "registry")
        for name in optimizers.names()
        if not name.removeprefix("asgc+").startswith(("rmsprop", "radam"))
    )


def tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for key in tree:
            yield from tensors(tree[key])
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)
    elif isinstance(tree, int | float):
        yield torch.tensor(tree, dtype=torch.float64, device="cpu")


def run(optimizer: str, implementation: str, dtype: torch.dtype, mesh: DeviceMesh) -> str:
    """Steps with a preview before each, a state that is saved and loaded, figures: a digest of all that they hold."""
    import asgc.preview
    from asgc.placement import local

    generator = torch.Generator("cpu").manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(dtype)
        return DTensor.from_local(x, mesh, [Replicate()], run_check=False) if implementation == "sharded" else x

    params = [draw(shape) for shape in SHAPES]
    opt = made(optimizer, implementation, params)
    found: list[Any] = []
    for t in range(STEPS):
        for p in params:
            p.grad = draw(tuple(p.shape)) * 10 ** (t % 2)
        if t == 2:
            saved = copy.deepcopy(opt.state_dict())
            opt = made(optimizer, implementation, params)
            opt.load_state_dict(saved)
        found += [list(layer) for layer in asgc.preview.preview(opt)]
        opt.step()
        if t == 1 and hasattr(opt, "shift"):
            opt.shift()
    found += [params, opt.state_dict(), opt.diagnostics() if hasattr(opt, "diagnostics") else []]
    digest = hashlib.sha256()
    for x in tensors(found):
        digest.update(
            repr((x.dtype, tuple(x.shape), str(x.device), local(x).double().nan_to_num(7.0).tolist())).encode()
        )
    return digest.hexdigest()


def everything(default: str) -> Iterator[str]:
    """In a process of its own: set the default, import asgc, run all."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = DeviceMesh("cpu", [0])
    device, dtype = DEFAULTS[default]
    torch.set_default_dtype(dtype)
    if device is not None:
        torch.set_default_device(device)
    if not torch.cuda.is_available():
        import tests.asgc.implementations.interpreter  # noqa: F401

    for optimizer, implementation in kinds():
        for dtype in DTYPES.get(implementation, (torch.float32,)):
            try:
                result = run(optimizer, implementation, dtype, mesh)
            except Exception as error:
                result = repr(error).replace("\n", " ")
            yield f"{default}\t{optimizer} ({implementation}, {dtype})\t{result}"


def main() -> None:
    for default in DEFAULTS:
        child = os.fork()
        if not child:
            try:
                for line in everything(default):
                    print(line, flush=True)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            print(default, "the process", "died", sep="\t", flush=True)


if __name__ == "__main__":
    import triton.runtime.interpreter  # noqa: F401 slow to import; asgc comes after the fork

    main()
