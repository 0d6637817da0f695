"""What the kernels read: tables of layers, rows, blocks and options, made on the host and kept on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cpu.layer_structs import RULE_CODES, group_values, memory_order, state_keys
from . import fields

__all__ = ["Bucket", "Layer", "Table", "bucket", "kind", "option_values", "rule_keys", "upload"]

Group = dict[str, Any]

TILE = 1024  # elements that a program holds in registers at a time
WARPS = 4
MAX_TILES = 8  # of one block
TILES_FROM = 1 << 22  # elements for each further tile of a block: small models need many blocks, large ones few


class Bucket(NamedTuple):
    """Layers served by one launch: what the main kernel is compiled for."""

    param: torch.dtype
    grad: torch.dtype
    aligned: bool  # all addresses are multiples of 16 bytes
    tile: int
    rule: int
    flag: bool  # nesterov, amsgrad or centered
    momentum: bool
    norm: bool
    clip: int
    noise: int
    dims: int  # dimensions of a memory order that is not row-major; 0 where it does not matter

    @property
    def needs_sums(self) -> bool:
        """Of all rows, before the main pass."""
        return self.norm or self.noise != 0


class Layer(NamedTuple):
    """One parameter tensor. ``tensors``: parameter, rule state by slot (None: unused), stats, step, time."""

    position: int  # among all parameters of the optimizer
    group: int
    number: int
    units: int
    tensors: tuple[Tensor | None, ...]
    bucket: Bucket


def kind(group: Group) -> tuple[int, bool, bool, bool, int, int]:
    """The part of a bucket that the options decide: rule, flag, momentum, norm, clip, noise.

    Nothing here asks what a tensor holds, which would wait for the device: a tensor takes the general form.
    """
    rule = group["rule"]
    flag = group.get("nesterov", False) or group.get("amsgrad", False) or group.get("centered", False)
    norm = group["mode"] == "norm"
    limit = group["clip_factor"] if group["threshold"] is None else group["threshold"]
    sharpness, scale = group["clip_sharpness"], group["noise_scale"]
    clip = fields.ANY_POWER if isinstance(sharpness, Tensor) else fields.SHARPNESS.get(sharpness, fields.ANY_POWER)
    if norm or (not isinstance(limit, Tensor) and math.isinf(limit)):
        clip = fields.NO_CLIP
    noise = fields.NOISE_AT[group["noise_at"]] if isinstance(scale, Tensor) or scale != 0 else 0
    return RULE_CODES[rule], bool(flag), _nonzero(group.get("momentum", 0)), norm, clip, noise


def _nonzero(value: Any) -> bool:
    return isinstance(value, Tensor) or value != 0


def rule_keys(group: Group) -> tuple[str | None, ...]:
    """Names of the rule's tensors, None where the options need none; a momentum that is a tensor counts as in use."""
    return state_keys({**group, "momentum": float(_nonzero(group.get("momentum", 0)))})


def bucket(param: Tensor, grad: torch.dtype, group: Group, units: int, addresses: Iterable[int]) -> Bucket:
    """The bucket of a layer, whose tensors begin at these addresses."""
    size = param.numel() // max(1, units)
    tile = TILE
    if units > 1:  # rows may be short; a power of two, as Triton wants it
        tile = max(min(128, TILE), min(TILE, 1 << max(0, size - 1).bit_length()))
    aligned = all(address % 16 == 0 for address in addresses) and (units == 1 or size % 8 == 0)
    options = kind(group)
    order = memory_order(param)
    assert order is not None
    dims = len(order.size) if options[-1] else 0
    return Bucket(param.dtype, grad, aligned, tile, *options, dims)


def option_values(group: Group) -> tuple[list[float], list[tuple[str, Tensor]]]:
    """A group's options in the order of ``fields.OPTIONS``, and those that are on a device, to be copied there."""
    named = list(zip(fields.OPTIONS, group_values(group, fields.OPTIONS), strict=True))
    on_device = [(name, value) for name, value in named if isinstance(value, Tensor) and value.device.type != "cpu"]
    elsewhere = {name for name, _ in on_device}
    return [0.0 if name in elsewhere else float(value) for name, value in named], on_device


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def _words(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def _range(stop: int) -> Tensor:
    return torch.arange(stop, dtype=torch.int64, device="cpu")


def _blocks(layer: int, row: int, units: int, size: int, length: int) -> tuple[Tensor, list[int]]:
    """Blocks of at most ``length`` elements of the rows of one layer, and how many each row has.

    No block crosses a multiple of 2^32, so that all its indices have one high word.
    """
    word = 1 << 32
    if units > 1 and units * size <= word:
        each = -(-size // length)
        unit = _range(units).repeat_interleave(each)
        first = _range(each).mul_(length).repeat(units)
        count = (size - first).clamp(max=length)
        table = torch.stack((torch.full_like(unit, layer), row + unit, unit * size + first, count), 1)
        return table, [each] * units
    records: list[Tensor] = []
    numbers: list[int] = []
    for unit_index in range(units):
        begin, end = unit_index * size, (unit_index + 1) * size
        cuts = {*range(begin, end, length), *range(-(-begin // word) * word, end, word)}
        starts = _words(sorted(cuts))
        count = torch.diff(starts, append=_words([end])) if cuts else starts
        where = _words([layer, row + unit_index]).expand(len(cuts), 2)
        records.append(torch.cat((where, torch.stack((starts, count), 1)), 1))
        numbers.append(len(cuts))
    empty = torch.empty(0, fields.BLOCK_FIELDS, dtype=torch.int64, device="cpu")
    return torch.cat((empty, *records)), numbers


class Launch(NamedTuple):
    """One bucket: its blocks and the place of their sums."""

    bucket: Bucket
    blocks: Tensor
    partial: Tensor


class Table:
    """The static tables of some layers, in the order of their buckets, and the scratch space of a step."""

    def __init__(self, layers: Sequence[Layer], device: torch.device) -> None:
        layers = sorted(layers, key=lambda layer: [str(part) for part in layer.bucket])
        self.layers = list(layers)
        self.device = device
        total = sum(_param(layer).numel() for layer in layers)
        tiles = 1 << (max(1, min(MAX_TILES, total // TILES_FROM)).bit_length() - 1)
        records = torch.zeros(len(layers), fields.LAYER_FIELDS, dtype=torch.int64, device="cpu")
        rows: list[Tensor] = []
        blocks: list[Tensor] = []
        spans: list[tuple[Bucket, int, int]] = []
        n_rows = n_blocks = 0
        for i, layer in enumerate(layers):
            records[i] = _words(_record(layer))
            param, units = _param(layer), layer.units
            size = param.numel() // max(1, units)
            made, numbers = _blocks(i, n_rows, units, size, layer.bucket.tile * tiles)
            last = _words(numbers).cumsum(0) + n_blocks
            first = last - _words(numbers)
            unit = _range(units)
            rows.append(torch.stack((torch.full_like(unit, i), unit, torch.full_like(unit, size), first, last), 1))
            blocks.append(made)
            if not spans or spans[-1][0] != layer.bucket:
                spans.append((layer.bucket, n_blocks, n_blocks))
            spans[-1] = (layer.bucket, spans[-1][1], n_blocks + len(made))
            n_rows, n_blocks = n_rows + units, n_blocks + len(made)
        self.records = upload(records, device)
        self.rows = upload(torch.cat(rows), device)
        all_blocks = upload(torch.cat(blocks), device)
        partial = torch.empty(n_blocks, fields.SUM_FIELDS, dtype=torch.float64, device=device)
        self.partial = partial
        self.launches = [Launch(key, all_blocks[a:b], partial[a:b]) for key, a, b in spans if b > a]
        self.coefficients = torch.empty(n_rows, len(fields.COEFFICIENTS), dtype=torch.float32, device=device)
        self.keys = torch.empty(n_rows, dtype=torch.int32, device=device)
        self.unseen = torch.ones(n_rows, dtype=torch.int32, device=device)


def _param(layer: Layer) -> Tensor:
    param = layer.tensors[0]
    assert param is not None
    return param


def _record(layer: Layer) -> list[int]:
    order = memory_order(_param(layer))
    assert order is not None
    unused = fields.MAX_DIMS - len(order.size)
    return [
        *(0 if tensor is None else tensor.data_ptr() for tensor in layer.tensors),
        layer.number,
        layer.group,
        layer.units,
        *(*order.size, *[1] * unused),
        *(*order.stride, *[0] * unused),
    ]
