"""One step of ``ASGC(implementation="cpu")``: one call of the kernel for all layers of all groups."""

from __future__ import annotations

import ctypes
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ... import functional
from ... import gradient_statistics as statistics
from ...layers import head_places
from ...nonfinite import STREAK
from ..implementation import Stepped
from . import adaptation, build, ceilings
from .layer_structs import (
    LayerStruct,
    as_laid_out,
    group_values,
    memory_order,
    same_order,
    state_keys,
    units_adjacent,
    unsupported_order,
)

__all__ = ["step", "unsupported"]

State = dict[str, Any]
Group = dict[str, Any]
_PLAIN = (Tensor, torch.nn.Parameter)
_COUNTERS = ("stats", "step", "noise_step")


def unsupported(opt: Stepped) -> str | None:
    """Why the kernel cannot serve this optimizer, or None. Compiles the kernel if that is the last question."""
    for group in opt.param_groups:
        reason = adaptation.unsupported(group) or ceilings.unsupported(group)
        if reason is not None:
            return reason
        for param in group["params"]:
            reason = _unsupported_parameter(param, functional.units(param, group["granularity"]))
            if reason is not None:
                return reason
    return build.unavailable()


def _unsupported_parameter(param: Tensor, units: int) -> str | None:
    shape = tuple(param.shape)
    if type(param) not in _PLAIN:
        return f"a parameter is a {type(param).__name__}, not a plain tensor"
    if param.device.type != "cpu" or param.dtype != torch.float32 or param.layout != torch.strided:
        return f"a parameter of shape {shape} is not a dense float32 tensor on the CPU"
    reason = unsupported_order(param)
    if reason is None and not units_adjacent(param, units):
        return (
            f"granularity='unit' and a parameter of shape {shape} whose units (indices of dimension 0) are interleaved "
            f"in memory (strides {param.stride()}): param.contiguous() has them one after the other"
        )
    return reason


class _Table:
    """Pointers of all layers, refreshed where a tensor has moved (load_state_dict, ``param.data = ...``).

    ``seen`` holds identities and addresses of a layer's tensors at the last step, ``held`` the tensors themselves, so
    that an identity is not given to another one. Everything that depends on them only is checked when they change:
    what is left to do at every step is a microsecond a layer.
    """

    def __init__(self, opt: Stepped) -> None:
        self.params = _members(opt)
        count = len(self.params)
        self.layers = (LayerStruct * count)()
        self.rows = list(self.layers)
        self.grads = (ctypes.c_void_p * count)()
        self.seen: list[list[int]] = [[] for _ in range(count)]
        self.held: list[list[Tensor]] = [[] for _ in range(count)]
        self.sizes = [-1] * count  # elements; -1: not in row-major order, or empty
        self.fresh: list[int] = []  # layers whose momentum buffer was made for this step
        self.adapting = _adapting(opt)  # then every layer has options of its own
        self.adapts = (adaptation.AdaptStruct * count)()
        self.ceilings = (ceilings.CeilingRow * count)()
        self.head = head_places([param for param, _ in self.params])

    def fits(self, opt: Stepped) -> bool:
        found = _members(opt)
        return (
            self.adapting == _adapting(opt)
            and len(found) == len(self.params)
            and all(p is known and index == at for (p, index), (known, at) in zip(found, self.params, strict=True))
        )

    def point(self, i: int, tensors: list[Tensor], names: list[str], slots: list[int], state: State) -> None:
        """Check the tensors of layer i (parameter, then state by name) and write its row."""
        param, stats, step_count, time = tensors[: 1 + len(_COUNTERS)]
        order = memory_order(param)
        if order is None or _unsupported_parameter(param, 1) is not None:
            raise RuntimeError(
                f"a parameter of shape {tuple(param.shape)} is no longer a dense float32 tensor on the CPU"
            )
        for k, name in enumerate(names[len(_COUNTERS) :], start=1 + len(_COUNTERS)):
            tensor = tensors[k]
            if tensor.shape != param.shape or not tensor.is_cpu:
                raise RuntimeError(f"the state {name!r} of a parameter of shape {tuple(param.shape)} does not fit it")
            if tensor.dtype is not torch.float32 or not same_order(param, tensor):
                tensors[k] = state[name] = as_laid_out(tensor, param)
        rows = stats.shape[-1] if stats.dim() else 0
        if not (
            stats.dtype is step_count.dtype is torch.float32
            and time.dtype is torch.int64
            and stats.shape == (len(statistics.STATISTICS), rows)
            and rows in (1, functional.units(param, "unit"))
            and stats.is_contiguous()
            and stats.is_cpu
            and step_count.is_cpu
            and time.is_cpu
        ):
            raise RuntimeError(f"the statistics of a parameter of shape {tuple(param.shape)} do not fit it")
        reason = _unsupported_parameter(param, rows)
        if reason is not None:
            raise RuntimeError(f"cannot go on with {reason}")
        row = self.rows[i]
        addresses = [tensor.data_ptr() for tensor in tensors]
        row.param, row.stats, row.step, row.noise_step, *rule = addresses
        row.group = i if self.adapting else self.params[i][1]
        row.numel, row.rows, row.number = param.numel(), rows, state["layer"]
        row.state[:] = [None, None, None]
        for slot, address in zip(slots, rule, strict=True):
            row.state[slot] = address
        row.dims = len(order.size)
        row.size[: row.dims] = order.size
        row.stride[: row.dims] = order.stride
        self.sizes[i] = -1 if row.dims or row.numel == 0 else row.numel
        self.held[i] = tensors
        self.seen[i] = [*map(id, tensors), *addresses]

    def bounded(self, opt: Stepped) -> list[tuple[int, State, Group]]:
        """Layers with a gradient whose steps have a ceiling, and their rows filled in. RuntimeError: see ``step``."""
        found: list[tuple[int, State, Group]] = []
        for i, (param, index) in enumerate(self.params):
            group = opt.param_groups[index]
            self.rows[i].ceiling = None
            if group["ceiling"] is None or param.grad is None or (i in self.head and group["exclude_head"]):
                continue
            if self.rows[i].rows > 1:
                raise RuntimeError(f"cannot go on with {ceilings.unsupported(group)}")
            state = opt.state[param]
            ceilings.fill(self.ceilings[i], param, state, group)
            self.rows[i].ceiling = ctypes.addressof(self.ceilings[i])
            found.append((i, state, group))
        return found


_tables: WeakKeyDictionary[Stepped, _Table] = WeakKeyDictionary()


def _members(opt: Stepped) -> list[tuple[Tensor, int]]:
    """All parameters, with the number of their group."""
    return [(param, index) for index, group in enumerate(opt.param_groups) for param in group["params"]]


def _adapting(opt: Stepped) -> bool:
    return any(group["adapt"] is not None for group in opt.param_groups)


def _gradient(param: Tensor, row: LayerStruct, keep: list[Tensor]) -> int:
    """Address of any gradient in the parameter's memory order; copies made on the way are kept alive in ``keep``."""
    grad = param.grad
    assert grad is not None
    if grad.shape != param.shape:
        raise RuntimeError(f"a gradient of shape {tuple(grad.shape)} for a parameter of shape {tuple(param.shape)}")
    if grad.dtype is not torch.float32 or not grad.is_cpu or grad.is_neg() or not same_order(param, grad):
        grad = as_laid_out(grad, param)
        keep.append(grad)
    return grad.data_ptr() or int(row.step)  # an empty tensor has no address, but has a gradient


def _complete(opt: Stepped, table: _Table, i: int, names: list[str]) -> State:
    """The state of layer i, made as far as it is missing."""
    param, index = table.params[i]
    group = opt.param_groups[index]
    state = opt.layer_state(param, group)
    for name in names:
        if name not in state and group["rule"] == "sgd":
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
            table.rows[i].fresh = 1
            table.fresh.append(i)
        elif name not in state:
            raise RuntimeError(f"the state of a parameter of shape {tuple(param.shape)} has no {name!r}")
    return state


def _collect(opt: Stepped, table: _Table, keep: list[Tensor]) -> list[Tensor]:
    """Bring the table up to date; returns the parameters with a gradient.

    Raises:
        RuntimeError: see ``step``.
    """
    keys = [[(slot, key) for slot, key in enumerate(state_keys(group)) if key] for group in opt.param_groups]
    names = [[*_COUNTERS, *(key for _, key in pairs)] for pairs in keys]
    states, grads, sizes, float32 = opt.state, table.grads, table.sizes, torch.float32
    stepped: list[Tensor] = []
    for i, (param, index) in enumerate(table.params):
        grad = param.grad
        if grad is None:
            grads[i] = None
            continue
        state = states[param]
        try:
            tensors = [param, *[state[name] for name in names[index]]]
        except KeyError:
            state = _complete(opt, table, i, names[index])
            tensors = [param, *[state[name] for name in names[index]]]
        if [*map(id, tensors), *map(Tensor.data_ptr, tensors)] != table.seen[i]:
            table.point(i, tensors, names[index], [slot for slot, _ in keys[index]], state)
        if (
            grad.numel() == sizes[i]
            and grad.dtype is float32
            and grad.is_contiguous()
            and grad.is_cpu
            and not grad.is_neg()
        ):
            grads[i] = grad.data_ptr()
        else:
            grads[i] = _gradient(param, table.rows[i], keep)
        stepped.append(param)
    return stepped


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: Stepped) -> bool:
    """One step of every parameter that has a gradient. Called by ``ASGC.step`` under ``no_grad``.

    Returns:
        Whether a gradient has been non-finite for long enough to say so.

    Raises:
        RuntimeError: a parameter, gradient or state tensor has changed its type or shape; nothing has been stepped.
    """
    kernel = build.load_kernel()
    table = _tables.get(opt)
    if table is None or not table.fits(opt):
        table = _tables[opt] = _Table(opt)
    by_group = [group_values(group) for group in opt.param_groups]
    rows = [by_group[index] for _, index in table.params] if table.adapting else by_group
    options = [value for row in rows for value in row]
    keep: list[Tensor] = []
    streak = 0
    try:
        stepped = _collect(opt, table, keep)
        if stepped:
            values = (ctypes.c_double * len(options))(*options)
            count, threads = len(table.params), torch.get_num_threads()
            if table.adapting:
                for (param, index), row in zip(table.params, table.adapts, strict=True):
                    group = opt.param_groups[index]
                    adapts = group["adapt"] is not None and param.grad is not None
                    adaptation.fill(row, param, opt.layer_state(param, group) if adapts else None, group)
                kernel.asgc_adapt(table.layers, table.grads, count, values, table.adapts, threads)
            bounded = table.bounded(opt)
            streak = kernel.asgc_step(table.layers, table.grads, count, values, threads)
            for i, state, group in bounded:
                ceilings.keep(table.ceilings[i], state, group)
            torch.autograd.graph.increment_version(stepped)  # autograd notices in-place changes of saved tensors
    except RuntimeError:
        for i in table.fresh:
            del opt.state[table.params[i][0]]["momentum_buffer"]
        raise
    finally:
        for i in table.fresh:
            table.rows[i].fresh = 0
        table.fresh.clear()
    return streak >= STREAK
