"""Which tensors of an optimizer take part in a step, and whether the tables on the device still fit them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import functional
from ... import gradient_statistics as statistics
from ..cpu.layer_structs import as_laid_out, same_order, units_adjacent, unsupported_order
from ..implementation import Stepped
from . import fields
from .device_table import Bucket, Layer, Table, bucket, kind, rule_keys

__all__ = ["DTYPES", "Plan", "make_plan", "unsupported_parameter"]

State = dict[str, Any]
Group = dict[str, Any]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COUNTERS = ("stats", "step", "noise_step")


def unsupported_parameter(param: Tensor, group: Group) -> str | None:
    shape = tuple(param.shape)
    if type(param) not in (Tensor, torch.nn.Parameter):
        return f"a parameter is a {type(param).__name__}, not a plain tensor"
    if param.device.type not in ("cuda", "cpu"):
        return f"a parameter of shape {shape} is on {param.device}, not on a GPU"
    if param.dtype not in DTYPES or param.layout != torch.strided:
        return f"a parameter of shape {shape} is not a dense float32, bfloat16 or float16 tensor"
    reason = unsupported_order(param)
    if reason is None and not units_adjacent(param, functional.units(param, group["granularity"])):
        return f"granularity='unit' needs dimension 0 outermost in memory, a parameter has strides {param.stride()}"
    return reason


def _gradient_dtype(grad: Tensor) -> torch.dtype:
    return grad.dtype if grad.dtype in DTYPES else torch.float32


def _names(group: Group) -> list[str]:
    """State tensors in use: the rule's, then the counters."""
    return [*(key for key in rule_keys(group) if key is not None), *COUNTERS]


class Plan:
    """The tables of one optimizer, and what they were made from.

    ``seen`` has identities and addresses of a layer's parameter and state, ``held`` the tensors, so that an identity
    is not given to another one. While they are the same, a step costs the host a microsecond a layer and no upload.
    """

    def __init__(self, opt: Stepped, layers: list[Layer], device: torch.device) -> None:
        self.kinds = [(kind(group), group["granularity"]) for group in opt.param_groups]
        self.table = Table(layers, device)
        self.place = {layer.position: i for i, layer in enumerate(self.table.layers)}
        self.seen: dict[int, list[int]] = {}
        self.held = {layer.position: [t for t in layer.tensors if t is not None] for layer in layers}
        for index, tensors in self.held.items():
            self.seen[index] = [*map(id, tensors), *map(Tensor.data_ptr, tensors)]
        self.padded = len(layers) + len(layers) % 2  # so that every part of `changing` is aligned alike
        # Addresses of the gradients (0: none), layers whose momentum buffer is new, options.
        size = 2 * self.padded + len(opt.param_groups) * len(fields.OPTIONS)
        self.changing = torch.zeros(size, dtype=torch.int64, device=device)
        self.grads, self.fresh = self.changing[: self.padded], self.changing[self.padded : 2 * self.padded]
        self.options = self.changing[2 * self.padded :].view(torch.float64).view(-1, len(fields.OPTIONS))
        self.uploaded: tuple[list[int], list[float]] | None = None
        self.captured = False
        self.staged: list[Tensor] = []  # pinned memory that captured copies read at every replay
        self.spare: list[Tensor] = []
        self.may_be_new = True  # a row may have no statistics yet; False once the device has said otherwise
        self.flag: Tensor | None = None  # its answer, in pinned memory, complete after the event
        self.event: torch.cuda.Event | None = None

    def gradients(self, opt: Stepped, keep: list[Tensor]) -> tuple[list[int], list[Tensor]] | None:
        """Addresses of the gradients by layer of the table, and the parameters that have one.

        None: something else has changed, and the plan does not fit any more. Copies are kept alive in ``keep``.
        """
        if len(self.kinds) != len(opt.param_groups):
            return None
        addresses = [0] * self.padded
        stepped: list[Tensor] = []
        states = opt.state
        index = -1
        for (made_for, granularity), group in zip(self.kinds, opt.param_groups, strict=True):
            if kind(group) != made_for or group["granularity"] != granularity:
                return None
            names = _names(group)
            for param in group["params"]:
                index += 1
                grad = param.grad
                if grad is None:
                    continue
                place = self.place.get(index)
                if place is None:
                    return None
                state = states[param]
                layer = self.table.layers[place]
                tensors = _in_order(param, state, names)
                if tensors is None or [*map(id, tensors), *map(Tensor.data_ptr, tensors)] != self.seen[index]:
                    return None
                address = _address(param, grad, layer.bucket, keep)
                if address is None:
                    return None
                # An empty tensor has no address, but has a gradient.
                addresses[place] = address or self.records_address
                stepped.append(param)
        return addresses, stepped

    @property
    def records_address(self) -> int:
        return self.table.records.data_ptr()


def _in_order(param: Tensor, state: State, names: list[str]) -> list[Tensor] | None:
    """Parameter, rule state and counters; None if one is missing."""
    try:
        return [param, *[state[name] for name in names]]
    except KeyError:
        return None


def _address(param: Tensor, grad: Tensor, made_for: Bucket, keep: list[Tensor]) -> int | None:
    """Address of a gradient in the parameter's memory order; None where the bucket is made for another kind."""
    if grad.shape != param.shape:
        raise RuntimeError(f"a gradient of shape {tuple(grad.shape)} for a parameter of shape {tuple(param.shape)}")
    dtype = _gradient_dtype(grad)
    if dtype is not made_for.grad:
        return None
    if grad.dtype is not dtype or grad.device != param.device or grad.is_neg() or not same_order(param, grad):
        grad = as_laid_out(grad, param, dtype)
        keep.append(grad)
    address = grad.data_ptr()
    return None if made_for.aligned and address % 16 else address


def _complete(opt: Stepped, param: Tensor, group: Group, fresh: list[Tensor]) -> State:
    """The state of a layer, made as far as it is missing, on the parameter's device and in its memory order.

    Raises:
        RuntimeError: a state tensor is missing, or of another shape.
    """
    state = opt.layer_state(param, group)
    shape = tuple(param.shape)
    for key in rule_keys(group):
        if key is None:
            continue
        if key not in state and (group["rule"] == "sgd" or isinstance(group.get("momentum"), Tensor)):
            state[key] = torch.zeros_like(param, dtype=torch.float32, memory_format=torch.preserve_format)
            fresh.append(param)
        elif key not in state:
            raise RuntimeError(f"the state of a parameter of shape {shape} has no {key!r}")
        tensor = state[key]
        if tensor.shape != param.shape:
            raise RuntimeError(f"the state {key!r} of a parameter of shape {shape} does not fit it")
        if tensor.dtype is not torch.float32 or tensor.device != param.device or not same_order(param, tensor):
            state[key] = as_laid_out(tensor, param, torch.float32)
    expected = (len(statistics.STATISTICS), functional.units(param, group["granularity"]))
    if tuple(state["stats"].shape) != expected:
        raise RuntimeError(f"the statistics of a parameter of shape {shape} do not fit it")
    for name, dtype in zip(COUNTERS, (torch.float32, torch.float32, torch.int64), strict=True):
        state[name] = state[name].to(param.device, dtype, non_blocking=True).contiguous()
    return state


def _layer(opt: Stepped, index: int, param: Tensor, place: tuple[int, Group], before: Bucket | None) -> Layer:
    group_index, group = place
    state = opt.state[param]
    keys = rule_keys(group)
    rule: list[Tensor | None] = [state[key] if key is not None else None for key in keys]
    tensors = (param, *rule, *[None] * (3 - len(rule)), *(state[name] for name in COUNTERS))
    dtype = before.grad if before is not None else param.dtype
    addresses = [t.data_ptr() for t in (param, *rule) if t is not None]
    grad = param.grad
    if grad is not None:
        dtype = _gradient_dtype(grad)
        if grad.dtype is dtype and same_order(param, grad):
            addresses.append(grad.data_ptr())
    units = functional.units(param, group["granularity"])
    return Layer(index, group_index, state["layer"], units, tensors, bucket(param, dtype, group, units, addresses))


def make_plan(opt: Stepped, old: Plan | None, fresh: list[Tensor]) -> Plan:
    """A plan for all layers that have a gradient now or had one before."""
    layers: list[Layer] = []
    index = -1
    device = opt.param_groups[0]["params"][0].device
    for group_index, group in enumerate(opt.param_groups):
        for param in group["params"]:
            index += 1
            if param.grad is not None and param.grad.shape != param.shape:
                raise RuntimeError(
                    f"a gradient of shape {tuple(param.grad.shape)} for a parameter of shape {tuple(param.shape)}"
                )
            if param.grad is None and _in_order(param, opt.state[param], _names(group)) is None:
                continue
            reason = unsupported_parameter(param, group)
            if reason is not None:
                raise RuntimeError(f"the triton implementation cannot go on: {reason}")
            _complete(opt, param, group, fresh)
            before = None
            if old is not None and index in old.place and old.held[index][0] is param:
                before = old.table.layers[old.place[index]].bucket
            layers.append(_layer(opt, index, param, (group_index, group), before))
    return Plan(opt, layers, device)
