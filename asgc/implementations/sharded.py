"""ASGC of sharded parameters: ``torch.distributed.tensor.DTensor``, as FSDP2 and tensor parallelism make them.

Statistics are those of the whole tensors, whatever the sharding, and every rank keeps all of them. A step reads each
rank's shards once for their sums (fp64), adds up the sums of all layers in **one collective a process group**, and does
the rest with the reference's own code (``functional.transform``, ``rules``) on the shards: noise by the index in the
whole tensor, then clip and rule, both element by element.

Supported: uneven and empty shards, ``Shard`` of any dimension, ``Replicate`` (replicas count once), meshes of several
dimensions (HSDP, FSDP on top of tensor parallelism), different meshes and plain tensors side by side, every option of
ASGC but ``adapt``. Refused by name: ``adapt``, ``Partial`` placements, and gradients placed differently from their
parameter.

- The collective is an all-gather whose results every rank adds up in the order of the ranks, so the replicas of HSDP
  agree to the bit whatever algorithm their groups use. A rank sends 48 bytes a layer (56 with noise
  after the rule) and receives that from every rank. With ``granularity="unit"`` and dimension 0 sharded it sends its
  own units only, and receives 48 bytes a unit in all.
- A tensor sharded along two mesh dimensions takes part in two collectives, one a dimension: the number does not grow
  with the number of layers. Every rank must have gradients of the same parameters, as FSDP needs it as well.
- ``nonfinite``: ranks decide by the same sums. "skip" and "raise" hold for all ranks that a process group connects,
  also where only one of them holds the parameter concerned.
- The figures ``clipped`` and ``attenuation`` of ``diagnostics()`` are only known after the clip. Instead of a second
  collective, and of one in ``diagnostics()`` (a logger on rank 0 alone would hang), their sums travel with those of the
  next step: of sharded layers they are one step old (0 and 1 after the first).
- Speed is that of the reference implementation on the shards: about 300 small tensor operations a layer.
- Checkpoints: ``get_optimizer_state_dict`` and ``set_optimizer_state_dict`` of ``torch.distributed.checkpoint`` (also
  flattened) save moments as DTensors and the rest once, and resume on any number of ranks. They know nothing of the
  statistics of ``wrap``: save the entry "asgc" of its ``state_dict()`` beside (small tensors, the same on all ranks).
  ``dcp.load`` refuses one of version 1 (``asgc.saved``), whose statistics are smaller: make one file of it by
  ``torch.distributed.checkpoint.format_utils.dcp_to_torch_save`` and give what that holds to
  ``set_optimizer_state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import functional, rules
from .. import gradient_statistics as statistics
from ..layers import layer_name
from ..placement import Piece, is_dtensor, local, piece_of
from .implementation import Stepped

__all__ = ["Earlier", "make_shards", "step", "transform_all", "unsupported"]

Group = dict[str, Any]
State = dict[str, Any]
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
_COUNTERS = ("layer", "step", "noise_step", "stats")


def unsupported(opt: Stepped) -> str | None:
    """Why this implementation cannot serve an optimizer, or None if it can."""
    for group in opt.param_groups:
        if group["adapt"] is not None:
            return f"adapt={group['adapt']!r} (not done for DTensors)"
    if any(is_dtensor(param) for group in opt.param_groups for param in group["params"]):
        return None
    return "no parameter is a DTensor"


class Axis(NamedTuple):
    """One mesh dimension along which a layer is cut."""

    group: Any  # its process group
    beside: bool  # the ranks hold different units: their sums are put side by side, not added up


class Shard(NamedTuple):
    """This rank's piece of one layer (parameter tensor)."""

    name: str
    param: Tensor
    grad: Tensor  # local
    state: State
    options: Mapping[str, Any]
    piece: Piece
    rows: slice | Tensor  # its units among all of the layer
    axes: tuple[Axis, ...]

    @property
    def units(self) -> int:
        """Units of the whole layer."""
        return int(self.state["stats"].shape[1])

    @property
    def size(self) -> int:
        """Elements a unit of the whole layer."""
        return max(1, self.param.numel() // max(1, self.units))


def make_shard(name: str, param: Any, state: State, options: Mapping[str, Any]) -> Shard:
    """Describe a parameter with a gradient.

    Raises:
        RuntimeError: gradient or state are not placed as the parameter is.
    """
    grad = param.grad
    axes: tuple[Axis, ...] = ()
    by_unit = options["granularity"] == "unit" and param.dim() >= 2
    if not is_dtensor(param):
        piece = piece_of(tuple(param.shape), (), (), ())
    else:
        mesh, placements = param.device_mesh, tuple(param.placements)
        if not is_dtensor(grad) or grad.device_mesh != mesh or tuple(grad.placements) != placements:
            found = tuple(grad.placements) if is_dtensor(grad) else "those of a plain tensor"
            raise RuntimeError(
                f"{name} has the placements {placements}, but its gradient {found}: redistribute the gradient before "
                "step(), p.grad = p.grad.redistribute(p.device_mesh, p.placements)"
            )
        piece = piece_of(tuple(param.shape), placements, tuple(mesh.shape), tuple(mesh.get_coordinate()))
        axes = _axes(mesh, placements, param.dim(), by_unit)
    grad = local(grad)
    for key, tensor in (("gradient", grad), *((k, v) for k, v in state.items() if k not in _COUNTERS)):
        if tuple(local(tensor).shape) != piece.local_shape:
            raise RuntimeError(
                f"{name}: the local part of its {key} has shape {tuple(local(tensor).shape)}, not {piece.local_shape}; "
                "load states by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
            )
    return Shard(name, param, grad, state, options, piece, piece.rows() if by_unit else slice(None), axes)


def make_shards(
    groups: list[Group],
    state_of: Callable[[Tensor, Group], State],
    options_of: Callable[[Group], Mapping[str, Any]],
) -> list[Shard]:
    """Describe all parameters that have a gradient; errors as ``make_shard``."""
    return [
        make_shard(layer_name(groups, gi, pi), param, state_of(param, group), options_of(group))
        for gi, group in enumerate(groups)
        for pi, param in enumerate(group["params"])
        if param.grad is not None
    ]


def _axes(mesh: Any, placements: tuple[Any, ...], dims: int, by_unit: bool) -> tuple[Axis, ...]:
    cut = [d for d, placement in enumerate(placements) if not placement.is_replicate() and mesh.size(d) > 1]
    by_row = [d for d in cut if placements[d].dim % dims == 0]
    # Units in the order of the ranks, all on one rank each.
    beside = by_unit and len(by_row) == 1 and not hasattr(placements[by_row[0]], "split_factor")
    return tuple(Axis(mesh.get_group(d), beside and d in by_row) for d in cut)


def _whole(layer: Shard, own: Tensor) -> Tensor:
    """Numbers of this rank's units, shape (k, units here), in the shape in which the ranks exchange them."""
    units = layer.units
    for axis in layer.axes:
        if axis.beside:
            chunk = -(-units // axis.group.size())
            return torch.nn.functional.pad(own, (0, chunk - own.shape[1]))
    if own.shape[1] == units:
        return own
    full = own.new_zeros(own.shape[0], units)
    full[:, layer.rows] = own
    return full


def combine(layers: Sequence[Shard], own: Sequence[Tensor], flags: Tensor) -> tuple[list[Tensor], Tensor]:
    """Add up numbers over the shards: one all-gather a process group, for all layers.

    Args:
        own: for each layer, numbers of this rank's units, fp64, shape (k, units here).
        flags: further numbers, summed over all groups one after another: they reach every rank that groups connect
            (each counted once or more).

    Returns:
        The sums of each layer, shape (k, units), and of the flags. The same on all ranks, to the bit.
    """
    parts = [_whole(layer, x) for layer, x in zip(layers, own, strict=True)]
    members: dict[tuple[str, torch.device], list[tuple[int, Axis]]] = {}
    for i, layer in enumerate(layers):
        for axis in layer.axes:
            members.setdefault((axis.group.group_name, parts[i].device), []).append((i, axis))
    # Small groups first: what they found reaches the ranks of the larger ones. Same order on all ranks.
    for (_, device), batch in sorted(members.items(), key=lambda item: item[1][0][1].group.size()):
        group = batch[0][1].group
        packed = torch.cat([*(parts[i].reshape(-1) for i, _ in batch), flags.to(device)])
        table = packed.new_empty(group.size() * packed.numel())
        _all_gather(table, packed, group=group)
        sizes = [*(parts[i].numel() for i, _ in batch), flags.numel()]
        *columns, flag_columns = torch.split(table.view(group.size(), -1), sizes, dim=1)
        for column, (i, axis) in zip(columns, batch, strict=True):
            ranks = column.reshape(group.size(), *parts[i].shape)
            if axis.beside:
                parts[i] = ranks.transpose(0, 1).flatten(1)[:, : layers[i].units]
            else:
                parts[i] = ranks.sum(0)
        flags = flag_columns.sum(0).to(flags.device)
    return parts, flags


class Measured(NamedTuple):
    """What one collective found out."""

    sums: list[statistics.Sums]
    figures: list[Tensor]  # of the step before, (3, units)
    denominators: list[Tensor | None]  # of the rule, for noise after it, (units,)
    refused: bool  # nonfinite="skip": this step must change nothing


def measure(layers: Sequence[Shard], earlier: Mapping[Tensor, tuple[Tensor, Tensor]]) -> Measured:
    """Sums of all layers, and of their ``figures`` of the step before.

    Raises:
        RuntimeError: a non-finite gradient in a group with nonfinite="raise", on every rank.
    """
    own = []
    for layer in layers:
        raw = statistics.raw_sums(layer.grad, layer.state["stats"][statistics.MEAN, layer.rows])
        _, figures = earlier.get(layer.param, (None, torch.zeros_like(raw)))
        own.append(torch.cat([raw, figures, *_squares(layer)]))
    policies = [layer.options["nonfinite"] for layer in layers]
    flags = torch.zeros(2, dtype=torch.float64, device=own[0].device)
    for which, policy in enumerate(("skip", "raise")):
        for x, found in zip(own, policies, strict=True):
            if found == policy:
                flags[which] += (~torch.isfinite(x[1])).any().to(flags.device)
    totals, flags = combine(layers, own, flags)
    sums = [statistics.averaged(total[:3], layer.size) for layer, total in zip(layers, totals, strict=True)]
    refused = False
    if any(policy != "contain" for policy in policies):
        skip, stop = (flags > 0).tolist()
        refused = bool(skip)
        if stop:
            raise RuntimeError(f"{_culprit(layers, sums)} has a non-finite gradient (nonfinite='raise')")
    denominators = [
        rules.denominator(total[6:] if len(total) > 6 else None, layer.size, layer.state, layer.options)
        for layer, total in zip(layers, totals, strict=True)
    ]
    return Measured(sums, [total[3:6] for total in totals], denominators, refused)


def _squares(layer: Shard) -> list[Tensor]:
    """This rank's part of what the noise after a rule is divided by; nothing where there is no such noise."""
    if layer.options["noise_at"] != "update" or layer.options["noise_scale"] == 0:
        return []
    own = {key: local(value) for key, value in layer.state.items()}
    units = layer.state["stats"][0, layer.rows].numel()
    found = rules.squares(own, layer.options, units)
    return [] if found is None else [found]


def _culprit(layers: Sequence[Shard], sums: Sequence[statistics.Sums]) -> str:
    for layer, found in zip(layers, sums, strict=True):
        if layer.options["nonfinite"] == "raise" and not bool(torch.isfinite(found.square).all()):
            return layer.name
    return "a parameter of another rank"


def count_refused(layers: Sequence[Shard], measured: Measured) -> None:
    """Count a skipped step in the statistics of the layers that made it so."""
    for layer, sums in zip(layers, measured.sums, strict=True):
        if layer.options["nonfinite"] != "contain":
            stats = layer.state["stats"]
            stats.copy_(statistics.count_nonfinite(stats, ~torch.isfinite(sums.square)))


def transform(layer: Shard, sums: statistics.Sums, denominator: Tensor | None = None) -> functional.Transformed:
    """``functional.transform`` of this rank's piece."""

    def eps(seed: int, t: int, number: int) -> Tensor:
        return layer.piece.noise(seed, t, number, layer.grad.device)

    whole = functional.Whole(sums, layer.rows, eps)
    t, number = int(layer.state["noise_step"]), layer.state["layer"]
    return functional.transform(layer.grad, layer.state["stats"], t, number, layer.options, whole, denominator)


def placed(value: Tensor, param: Any) -> Tensor:
    """This rank's part of a tensor that is placed like its parameter, as such a tensor."""
    if not is_dtensor(param):
        return value
    shape, stride = param.shape, param.stride()
    return DTensor.from_local(value, param.device_mesh, param.placements, run_check=False, shape=shape, stride=stride)


class Earlier(dict[Tensor, tuple[Tensor, Tensor]]):
    """By parameter: its statistics tensor (another one after loading a state), and the last step's local figures."""

    def of(self, layers: Sequence[Shard]) -> dict[Tensor, tuple[Tensor, Tensor]]:
        return {x.param: self[x.param] for x in layers if x.param in self and self[x.param][0] is x.state["stats"]}


def transform_all(layers: Sequence[Shard], earlier: Earlier) -> Iterator[tuple[Shard, functional.Transformed]] | None:
    """What ASGC does to all gradients before the base rule; layer by layer, so that one at a time takes memory.

    Returns:
        Pairs with complete statistics, or None if this step must change nothing (nonfinite="skip"; it is counted).

    Raises:
        RuntimeError: see ``measure``.
    """
    if not layers:
        return iter(())
    usable = earlier.of(layers)
    measured = measure(layers, usable)
    if measured.refused:
        count_refused(layers, measured)
        return None
    return _changes(layers, measured, usable, earlier)


def _changes(
    layers: Sequence[Shard], measured: Measured, usable: Container[Tensor], earlier: Earlier
) -> Iterator[tuple[Shard, functional.Transformed]]:
    found = zip(layers, measured.sums, measured.figures, measured.denominators, strict=True)
    for layer, sums, figures, denominator in found:
        new = transform(layer, sums, denominator)
        if not layer.axes:
            figures, known = new.figures, True
        else:
            known = layer.param in usable or layer.state["noise_step"] == 0
            earlier[layer.param] = (layer.state["stats"], new.figures)
        yield layer, new._replace(stats=statistics.complete(new.stats, figures, layer.size)) if known else new


_earlier: WeakKeyDictionary[Stepped, Earlier] = WeakKeyDictionary()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def step(opt: Stepped) -> None:
    """One step of every parameter that has a gradient, on all ranks at once. Called by ``ASGC.step``, ``no_grad``.

    Raises:
        RuntimeError: a gradient or a state is not placed like its parameter, or a non-finite gradient with
            nonfinite="raise". Nothing has changed then.
    """
    layers = make_shards(opt.param_groups, opt.layer_state, lambda group: group)
    changes = transform_all(layers, _earlier.setdefault(opt, Earlier()))
    if changes is None:
        return
    for layer, new in changes:
        _apply(layer, new)
    torch.autograd.graph.increment_version([layer.param for layer in layers])


def _apply(layer: Shard, new: functional.Transformed) -> None:
    """The base rule on this rank's piece, in place."""
    state, target = layer.state, local(layer.param)
    own = {key: local(value) for key, value in state.items()}
    full = target if target.dtype == torch.float64 else target.to(torch.float32)
    new_param, rule_state = rules.step(full, new.grad, own, layer.options, new.noise)
    target.copy_(new_param)
    for key, value in rule_state.items():
        if key in state:
            own[key].copy_(value)
        else:
            state[key] = placed(value, layer.param)
    state["stats"].copy_(new.stats)
    state["noise_step"] += 1
