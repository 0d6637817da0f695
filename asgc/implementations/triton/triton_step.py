"""One step of ``ASGC(implementation="triton")``: what has changed goes to the device, then the launches."""

from __future__ import annotations

from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..implementation import Stepped
from . import fields
from .device_table import WARPS, option_values
from .launch_plan import Plan, make_plan, unsupported_parameter

__all__ = ["step", "unsupported"]

CAPTURES = 64  # steps that may be captured, in one CUDA graph or several, without a step outside between them
CHUNK = 512  # blocks whose sums are added at a time


def unsupported(opt: Stepped) -> str | None:
    """Why the kernels cannot serve this optimizer, or None. Imports triton if that is the last question."""
    device: torch.device | None = None
    for group in opt.param_groups:
        if group.get("adapt") is not None:
            return f"adapt={group['adapt']!r} (not done by triton)"
        for param in group["params"]:
            reason = unsupported_parameter(param, group)
            if reason is not None:
                return reason
            if device is not None and param.device != device:
                return f"parameters are on several devices ({device} and {param.device})"
            device = param.device
    try:
        from . import kernels
    except ImportError as error:
        return f"triton cannot be imported ({error}): pip install triton"
    interpreted = not kernels.COMPILED
    if device is None or (device.type == "cpu" and interpreted):
        return None
    if device.type == "cpu":
        return "the parameters are on the CPU (only Triton's interpreter works there, for tests: TRITON_INTERPRET=1)"
    if interpreted:
        return "TRITON_INTERPRET is set: the interpreter takes CPU tensors only"
    capability = torch.cuda.get_device_capability(device) if torch.version.hip is None else (9, 0)
    if capability < (7, 0):
        return f"the GPU has compute capability {'.'.join(map(str, capability))}, triton needs 7.0"
    return None


_plans: WeakKeyDictionary[Stepped, Plan] = WeakKeyDictionary()
_captured: WeakKeyDictionary[Stepped, list[Plan]] = WeakKeyDictionary()  # graphs go on reading their tables


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: Stepped) -> None:
    """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``.

    Raises:
        RuntimeError: a parameter, gradient or state tensor has changed its type or shape; or a CUDA graph is being
            captured without ``capturable=True``, or with tensors or options of which no step outside the capture has
            made the tables. Nothing has been stepped.
    """
    device = opt.param_groups[0]["params"][0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _step(opt, _capturing(device))


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _step(opt: Stepped, capturing: bool) -> None:
    capturable = all(group["capturable"] for group in opt.param_groups)
    if capturing and not capturable:
        raise RuntimeError("a CUDA graph is being captured: make ASGC with capturable=True")
    if not any(param.grad is not None for group in opt.param_groups for param in group["params"]):
        return
    keep: list[Tensor] = []  # copies of gradients
    fresh: list[Tensor] = []  # parameters whose momentum buffer was made for this step
    plan = _plans.get(opt)
    try:
        found = None if plan is None else plan.gradients(opt, keep)
        if found is None and capturing:
            raise RuntimeError(
                "capturable=True: run a step with these parameters, options and state outside the capture first, "
                "it makes the tables that a CUDA graph needs"
            )
        if plan is None or found is None:
            plan = make_plan(opt, plan, fresh)
            found = plan.gradients(opt, keep)
            assert found is not None
        if capturing and not plan.spare:
            raise RuntimeError(f"{CAPTURES} captured steps in a row: run a step outside a CUDA graph first")
    except RuntimeError:
        for param in fresh:
            del opt.state[param]["momentum_buffer"]
        raise
    _plans[opt] = plan
    addresses, stepped = found
    _send(opt, plan, addresses, fresh, capturing)
    if capturable and not capturing and len(plan.spare) < CAPTURES and plan.changing.is_cuda:
        shape = (CAPTURES - len(plan.spare), plan.changing.numel())
        plan.spare += torch.empty(shape, dtype=torch.int64, device="cpu", pin_memory=True).unbind()
    if capturing and not plan.captured:
        plan.captured = True
        _captured.setdefault(opt, []).append(plan)
    if not capturing:
        _look_for_new_rows(plan)
    _launch(plan)
    if not capturing:
        _ask_for_new_rows(plan)
    for layer in plan.table.layers:
        if layer.units == 0 and addresses[plan.place[layer.position]]:  # no row that would count its steps
            for counter in layer.tensors[-2:]:
                assert counter is not None
                counter += 1
    torch.autograd.graph.increment_version(stepped)  # autograd notices in-place changes of saved tensors


def _send(opt: Stepped, plan: Plan, addresses: list[int], fresh: list[Tensor], capturing: bool) -> None:
    """Bring ``plan.changing`` up to date, if it is not, without waiting.

    A captured copy is part of every replay: it has pinned memory of its own, and later steps cannot know what the
    tables hold. Pinned memory that is let go here is not used again before its copy is done (torch's allocator).
    """
    new = set(map(id, fresh))
    words = addresses + [int(id(layer.tensors[0]) in new) for layer in plan.table.layers]
    words += [0] * (2 * plan.padded - len(words))
    values: list[float] = []
    on_device: list[tuple[int, str, Tensor]] = []
    for index, group in enumerate(opt.param_groups):
        numbers, tensors = option_values(group)
        values += numbers
        on_device += [(index, name, tensor) for name, tensor in tensors]
    if capturing or plan.captured or plan.uploaded != (words, values):
        if capturing:
            staging = plan.spare.pop()
            plan.staged.append(staging)
        else:
            pinned = plan.changing.is_cuda
            staging = torch.empty(plan.changing.shape, dtype=torch.int64, device="cpu", pin_memory=pinned)
        staging[: len(words)] = torch.tensor(words, dtype=torch.int64, device="cpu")
        staging[len(words) :] = torch.tensor(values, dtype=torch.float64, device="cpu").view(torch.int64)
        plan.changing.copy_(staging, non_blocking=True)
        plan.uploaded = (words, values)
    for index, name, tensor in on_device:
        plan.options[index, fields.OPTIONS.index(name)].copy_(tensor.detach().reshape(()), non_blocking=True)


def _ask_for_new_rows(plan: Plan) -> None:
    """After a step in value mode: has a row no statistics yet? Unless the answer is no, the next step makes sums."""
    if not plan.may_be_new or plan.event is not None or not len(plan.table.unseen):
        return
    answer = plan.table.unseen.amax()
    if not answer.is_cuda:
        plan.may_be_new = bool(answer)
        return
    plan.flag = torch.empty((), dtype=torch.int32, device="cpu", pin_memory=True)
    plan.flag.copy_(answer, non_blocking=True)
    plan.event = torch.cuda.Event()
    plan.event.record()


def _look_for_new_rows(plan: Plan) -> None:
    """Take the answer if it has arrived. (Kernels find such rows themselves; this only saves a launch.)"""
    if plan.event is not None and plan.flag is not None and plan.event.query():
        plan.may_be_new = bool(plan.flag)
        plan.event = None


def _launch(plan: Plan) -> None:
    from . import kernels, rows  # imports triton

    table = plan.table
    common = {"num_warps": WARPS, "enable_fp_fusion": False}  # the reference rounds every product
    first = plan.may_be_new or any(launch.bucket.needs_sums for launch in table.launches)
    if first:
        for launch in table.launches:
            key = launch.bucket
            if key.needs_sums or plan.may_be_new:
                kernels.sums[(len(launch.blocks),)](
                    launch.blocks, table.records, table.rows, plan.grads, launch.partial,
                    ALL=key.needs_sums, GRAD=kernels.dtype_of(key.grad), ALIGNED=key.aligned, TILE=key.tile,
                    RULE=key.rule, FLAG=key.flag, LANGEVIN=key.noise == fields.NOISE_AT["update"], **common,
                )  # fmt: skip
    n_rows = (len(table.rows),)
    rows.open_rows[n_rows](
        table.records, table.rows, plan.grads, plan.fresh, plan.options, table.partial, table.coefficients,
        table.keys, SUMS=first, CHUNK=CHUNK, **common,
    )  # fmt: skip
    for launch in table.launches:
        key = launch.bucket
        kernels.main[(len(launch.blocks),)](
            launch.blocks, table.records, plan.grads, table.coefficients, table.keys, launch.partial,
            PARAM_DTYPE=kernels.dtype_of(key.param), GRAD=kernels.dtype_of(key.grad), ALIGNED=key.aligned,
            TILE=key.tile, RULE=key.rule, FLAG=key.flag, MOMENTUM=key.momentum, NORM=key.norm, KIND=key.clip,
            NOISE=key.noise, DIMS=key.dims, **common,
        )  # fmt: skip
    rows.close_rows[n_rows](
        table.records, table.rows, plan.grads, plan.options, table.partial, table.coefficients, table.unseen,
        CHUNK=CHUNK, **common,
    )  # fmt: skip
