"""FSDP2 (``torch.distributed.fsdp.fully_shard``): parameters, gradients and optimizer spread over the processes.

Checkpoints and models are those of one process, whole tensors under their own names, so that a run goes on with any
number of processes, sharded or not. Evaluations use a whole copy of the weights in each process.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from evaluation.runs.weight_average import decay_over
from supervised.distributed import Group

SMALLEST = 1 << 16  # parameters of a block that is gathered by itself; smaller ones are with what is around them
UNCUT = ("step", "noise_step", "stats", "layer", "shape")  # of an optimizer's state: not as large as the parameter


class Sharding:
    """A model whose parameters are spread over the processes from here on.

    Args:
        model: on its device, the same in all processes.
    """

    def __init__(self, model: nn.Module, device: torch.device, group: Group) -> None:
        self._model, self._main = model, group.main
        self._shell = _emptied(copy.deepcopy(model))
        mesh = init_device_mesh(device.type, (group.ranks,))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def synchronize(self, yes: bool) -> None:
        """Whether the next backward pass adds the gradients up over the processes."""
        self._model.set_requires_gradient_sync(yes)  # type: ignore[operator]

    def whole(self, state: Any) -> Any:
        """A state with whole tensors on the CPU in the main process, None in the others; all of them call it."""
        main = self._main

        def gathered(value: DTensor) -> Tensor | None:
            full = value.full_tensor()
            return full.cpu() if main else None

        found = tree_map_only(DTensor, gathered, state)
        return found if main else None

    def load_model(self, state: Mapping[str, Tensor]) -> None:
        """Take each process's part of whole weights."""
        own = self._model.state_dict()
        self._model.load_state_dict({name: _part(value, own.get(name)) for name, value in state.items()})

    def load_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Take each process's part of the state of one process's optimizer."""
        numbers = [number for saved in state["param_groups"] for number in saved["params"]]
        params = dict(zip(numbers, (p for group in optimizer.param_groups for p in group["params"]), strict=True))

        def parts(number: int, values: Mapping[str, Any]) -> dict[str, Any]:
            param = params[number]
            return {
                name: _part(value, param) if name not in UNCUT and _like(value, param) else value
                for name, value in values.items()
            }

        found = {number: parts(number, values) for number, values in state["state"].items()}
        optimizer.load_state_dict({**state, "state": found})

    @contextmanager
    def copied(self, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """A plain model, in evaluation mode, with these weights in whole; all processes enter it."""
        with torch.no_grad():
            full = tree_map_only(DTensor, lambda value: value.full_tensor(), dict(weights))
        self._shell.load_state_dict(full, assign=True)
        try:
            yield self._shell.eval()
        finally:
            _emptied(self._shell)


class ShardedAverage:
    """`evaluation.runs.weight_average.WeightAverage` of a sharded model: each process averages its own part."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay, self._updates = model, decay, 0
        with torch.no_grad():
            self._average = {param: param.detach().clone() for param in model.parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after an update."""
        keep = decay_over(self._decay, self._updates, 1)
        self._updates += 1
        pairs = [(_local(average), _local(param)) for param, average in self._average.items()]
        averages, params = map(list, zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, params, 1 - keep)

    def weights(self) -> dict[str, Tensor]:
        """A state dict of the model with the average in the place of the parameters."""
        own = self._model.state_dict(keep_vars=True)
        return {name: self._average.get(value, value).detach() for name, value in own.items()}  # type: ignore[call-overload]

    def state_dict(self) -> dict[str, Any]:
        """As `WeightAverage`'s."""
        return {"network": self.weights(), "updates": self._updates}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the whole tensors that `WeightAverage` has."""
        own = self._model.state_dict(keep_vars=True)
        for name, value in state["network"].items():
            if (average := self._average.get(own[name])) is not None:  # type: ignore[call-overload]
                average.copy_(_part(value, average))
        self._updates = state["updates"]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: what its lists and sequences hold, where that is large enough."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from _blocks(child)
        elif isinstance(module, nn.ModuleList | nn.Sequential):
            if sum(param.numel() for param in child.parameters()) >= SMALLEST:
                yield child
        else:
            yield from _blocks(child)


def _emptied(model: nn.Module) -> nn.Module:
    """The model, its parameters without memory."""
    for module in model.modules():
        for name, param in module._parameters.items():
            if param is not None:
                module._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)
    return model


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _like(value: Any, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def _part(value: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor that all processes have."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None)
