"""One step of ``ASGC(implementation="cpu")``: one call of the kernel for all layers of all groups."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .. import functional, statistics
from . import build
from .table import (
    GROUP_FIELDS,
    LayerStruct,
    as_laid_out,
    group_values,
    memory_order,
    same_order,
    state_keys,
)

if TYPE_CHECKING:
    from ..optimizer import ASGC

__all__ = ["step", "unsupported"]

State = dict[str, Any]
Group = dict[str, Any]
_PLAIN = (Tensor, torch.nn.Parameter)


def unsupported(opt: ASGC) -> str | None:
    """Why the kernel cannot serve this optimizer, or None. Compiles the kernel if that is the last question."""
    for group in opt.param_groups:
        if group["granularity"] != "layer":
            return f"granularity={group['granularity']!r} (only 'layer' is in the kernel)"
        if group["noise_at"] != "gradient" and group["noise_scale"] != 0:
            return "noise_at='update' (only 'gradient' is in the kernel)"
        for param in group["params"]:
            reason = _unsupported_parameter(param)
            if reason is not None:
                return reason
    return build.unavailable()


def _unsupported_parameter(param: Tensor) -> str | None:
    shape = tuple(param.shape)
    if type(param) not in _PLAIN:
        return f"a parameter is a {type(param).__name__}, not a plain tensor"
    if param.device.type != "cpu" or param.dtype != torch.float32 or param.layout != torch.strided:
        return f"a parameter of shape {shape} is not a dense float32 tensor on the CPU"
    order = memory_order(param)
    if order is None:
        return f"a parameter of shape {shape} has gaps or overlaps in memory (strides {param.stride()})"
    if order.size and param.numel() >= 1 << 32:
        return f"a parameter of shape {shape} has 2^32 elements or more in an order that is not row-major"
    return None


class _Table:
    """Pointers of all layers, refreshed where a tensor has moved (load_state_dict, ``param.data = ...``)."""

    def __init__(self, params: list[tuple[Tensor, int]]) -> None:
        self.params = params  # (parameter, index of its group)
        self.layers = (LayerStruct * len(params))()
        self.rows = list(self.layers)
        self.grads = (ctypes.c_void_p * len(params))()
        self.pointers: list[list[int] | None] = [None] * len(params)

    def fits(self, opt: ASGC) -> bool:
        i = 0
        for index, group in enumerate(opt.param_groups):
            for param in group["params"]:
                if i == len(self.params) or self.params[i][0] is not param or self.params[i][1] != index:
                    return False
                i += 1
        return i == len(self.params)

    def point(self, i: int, param: Tensor, rule: list[Tensor | None], state: State) -> None:
        """Write the row of layer i."""
        order = memory_order(param)
        if order is None or param.dtype != torch.float32:
            raise RuntimeError(f"a parameter of shape {tuple(param.shape)} is no longer a dense float32 tensor")
        row = self.rows[i]
        row.param, row.numel, row.group, row.number = param.data_ptr(), param.numel(), self.params[i][1], state["layer"]
        for slot in range(3):
            tensor = rule[slot] if slot < len(rule) else None
            row.state[slot] = None if tensor is None else tensor.data_ptr()
        row.stats, row.step = state["stats"].data_ptr(), state["step"].data_ptr()
        row.noise_step = state["noise_step"].data_ptr()
        row.dims = len(order.size)
        row.size[: row.dims] = order.size
        row.stride[: row.dims] = order.stride


_tables: WeakKeyDictionary[ASGC, _Table] = WeakKeyDictionary()


def _gradient(param: Tensor, keep: list[Tensor]) -> int:
    """Address of the gradient in the parameter's memory order; copies made on the way are kept alive in ``keep``."""
    grad = param.grad
    assert grad is not None
    if grad.shape != param.shape:
        raise RuntimeError(f"a gradient of shape {tuple(grad.shape)} for a parameter of shape {tuple(param.shape)}")
    if grad.dtype is not torch.float32 or not grad.is_cpu or grad.is_neg() or not same_order(param, grad):
        grad = as_laid_out(grad, param)
        keep.append(grad)
    return grad.data_ptr()


def _rule_tensors(param: Tensor, state: State, group: Group, row: LayerStruct) -> list[Tensor | None]:
    """The rule's tensors in the kernel's order, made or laid out anew where needed."""
    tensors: list[Tensor | None] = []
    for key in state_keys(group):
        tensor = None if key is None else state.get(key)
        if key is not None:
            if tensor is None and group["rule"] == "sgd":
                tensor = state[key] = torch.zeros_like(param, memory_format=torch.preserve_format)
                row.fresh = 1
            elif tensor is None:
                raise RuntimeError(f"the state of a parameter of shape {tuple(param.shape)} has no {key!r}")
            if tensor.dtype is not torch.float32 or not same_order(param, tensor):
                tensor = state[key] = as_laid_out(tensor, param)
        tensors.append(tensor)
    return tensors


def _check_state(param: Tensor, rule: list[Tensor | None], state: State) -> None:
    stats, count, time = state["stats"], state["step"], state["noise_step"]
    right = (
        all(tensor is None or (tensor.shape == param.shape and tensor.is_cpu) for tensor in rule)
        and stats.dtype is torch.float32
        and stats.numel() == len(statistics.STATISTICS)
        and stats.is_contiguous()
        and count.dtype is torch.float32
        and time.dtype is torch.int64
        and stats.is_cpu
        and count.is_cpu
        and time.is_cpu
    )
    if not right:
        raise RuntimeError(f"the optimizer state of a parameter of shape {tuple(param.shape)} does not fit it")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: ASGC) -> None:
    """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``.

    Raises:
        RuntimeError: a parameter, gradient or state tensor has changed its type or shape; nothing has been stepped.
    """
    kernel = build.library()
    table = _tables.get(opt)
    if table is None or not table.fits(opt):
        groups = enumerate(opt.param_groups)
        table = _tables[opt] = _Table([(param, index) for index, group in groups for param in group["params"]])
    options = [value for group in opt.param_groups for value in group_values(group)]
    keep: list[Tensor] = []
    changed: list[Tensor] = []
    for i, (param, index) in enumerate(table.params):
        if param.grad is None or param.numel() == 0:
            table.grads[i] = None
            if param.grad is not None:
                group = opt.param_groups[index]
                _step_empty(param, opt.layer_state(param, group), group)
            continue
        group, row = opt.param_groups[index], table.rows[i]
        row.fresh = 0
        state = opt.layer_state(param, group)
        rule = _rule_tensors(param, state, group, row)
        tensors = (param, state["stats"], state["step"], state["noise_step"], *rule)
        pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        pointers += [*param.shape, *param.stride()]
        if pointers != table.pointers[i]:
            _check_state(param, rule, state)
            table.point(i, param, rule, state)
            table.pointers[i] = pointers
        table.grads[i] = _gradient(param, keep)
        changed.append(param)
    kernel.asgc_step(
        table.layers,
        table.grads,
        len(table.params),
        (ctypes.c_double * (len(GROUP_FIELDS) * len(opt.param_groups)))(*options),
        torch.get_num_threads(),
    )
    if changed:
        torch.autograd.graph.increment_version(changed)  # autograd notices in-place changes of saved tensors


def _step_empty(param: Tensor, state: State, group: Group) -> None:
    """A parameter without elements has nothing to compute: the reference counts its step."""
    assert param.grad is not None
    _, new = functional.step(param, param.grad, state, group)
    state.update(new)
