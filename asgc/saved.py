"""What a saved state must be before any of it is loaded: of a version that is known, of this rule, of these shapes.

``ASGC.state_dict()`` keeps the version in every parameter group, as ``asgc_version``: torch's own loading, and
torch.distributed.checkpoint, drop what stands beside ``state`` and ``param_groups``. Each parameter's entry has its
``shape`` too, which is taken out again when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import functional, rules
from . import gradient_statistics as statistics
from .adapt import ADAPTED, DERIVATIVES
from .layers import layer_name
from .options import ASGC_DEFAULTS, resolve, rule_defaults

__all__ = ["COUNTERS", "VERSION", "check_layer", "check_version", "checked", "counted", "with_shapes"]

Group = dict[str, Any]
VERSION = 2  # of the saved state's layout; 1, also where there is none: statistics without their last two rows
COUNTERS = {"step": torch.float32, "noise_step": torch.int64}


def with_shapes(state: Mapping[Any, Any], params: Iterable[Tensor]) -> dict[Any, Any]:
    """A copy of a saved ``state`` (by index) in which every entry has its parameter's shape: a tensor, since
    torch.distributed.checkpoint flattens tensors and numbers only."""
    shapes = {
        index: torch.tensor(tuple(param.shape), dtype=torch.int64, device="cpu") for index, param in enumerate(params)
    }
    return {
        index: {**own, "shape": shapes[index]} if index in shapes and isinstance(own, dict) else own
        for index, own in state.items()
    }


def counted(state: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """A copy of a layer's saved state whose numbers are kept as they have to be, whatever they were saved as: a number
    (as torch.optim once had its step), a tensor of another type or of one dimension.

    Raises:
        ValueError: one of them is no whole number.
    """
    new = dict(state)
    for name in ("layer", *COUNTERS):
        value = new.get(name)
        if value is None or (isinstance(value, Tensor) and value.numel() != 1):
            continue  # left to the checks of what must be there, and of shapes
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name!r} in {owner} is {value!r}, not a number") from error
        if number < 0 or not number.is_integer():
            raise ValueError(f"{name!r} in {owner} is {number}, not a whole number from 0 on")
        if name == "layer":
            new[name] = int(number)
        elif not isinstance(value, Tensor) or value.dtype is not COUNTERS[name] or value.dim():
            device = value.device if isinstance(value, Tensor) else "cpu"
            new[name] = torch.tensor(int(value), dtype=COUNTERS[name], device=device)
    for name, dtype in (("stats", torch.float32), ("adapted", torch.float64)):
        if isinstance(new.get(name), Tensor):
            new[name] = new[name].to(dtype)
    return new


def check_version(version: Any) -> None:
    """ValueError for a state that a later version of asgc has saved."""
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"this state_dict has version {version!r}, but this asgc reads versions up to {VERSION}: "
            "it was saved by a later asgc, which is needed to load it"
        )


def checked(groups: list[Group], loaded: Mapping[str, Any]) -> dict[str, Any]:
    """What ``torch.optim.Optimizer.load_state_dict`` may load: ``loaded``, complete and without the shapes.

    Another number of groups or of parameters in one is left to torch, which refuses it before it changes anything.

    Args:
        groups: the optimizer's parameter groups.
        loaded: what is to be loaded; it is not changed.

    Raises:
        ValueError: not a state of ASGC, of a later version, of another rule or of other parameters.
    """
    saved_groups = loaded.get("param_groups") or [{}]
    for saved in saved_groups:
        check_version(saved.get("asgc_version", 1))
        if not {"rule", "clip_factor"} & saved.keys() or not {"params"} <= saved.keys() or "state" not in loaded:
            raise ValueError("this is not a state_dict of ASGC: its groups have no rule, clip_factor or parameters")
    complete: list[Group] = []
    state = {
        index: _with_all_rows(counted(own, f"the saved state of parameter {index}")) if isinstance(own, dict) else own
        for index, own in loaded["state"].items()
    }
    for gi, saved in enumerate(saved_groups):
        group = groups[gi] if gi < len(groups) else saved
        complete.append(_checked_group(gi, group, saved))
        for pi, (param, index) in enumerate(zip(group["params"], saved["params"], strict=False)):
            if isinstance(param, Tensor) and index in state:
                _check_state(layer_name(groups, gi, pi), param, state[index], complete[gi])
    state = {
        index: {name: value for name, value in own.items() if name != "shape"} if isinstance(own, dict) else own
        for index, own in state.items()
    }
    return {**loaded, "state": state, "param_groups": complete}


def _with_all_rows(state: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(state.get("stats"), Tensor):
        return state
    return {**state, "stats": statistics.with_all_rows(state["stats"])}


def _checked_group(index: int, group: Group, saved: Group) -> Group:
    """The saved group with the options that its asgc did not have yet, at their present values."""
    rule = saved.get("rule", group["rule"])
    if rule != group["rule"]:
        raise ValueError(f"group {index} of this state_dict is of rule {rule!r}, the optimizer's of {group['rule']!r}")
    names = {"lr", *ASGC_DEFAULTS, *rule_defaults(rule)}
    missing = {name: group[name] for name in names if name not in saved}
    full = {**missing, **saved, "asgc_version": VERSION}
    try:
        resolve({name: full[name] for name in names})
    except (TypeError, ValueError) as error:
        raise ValueError(f"group {index} of this state_dict: {error}") from error
    return full


def _check_state(name: str, param: Tensor, state: Any, group: Group) -> None:
    if not isinstance(state, dict) or not isinstance(state.get("layer"), int):
        raise ValueError(f"the saved state of {name} has no layer number: this is not a state_dict of ASGC")
    check_layer(name, param, state, functional.units(param, group["granularity"]))
    if "stats" not in state:  # not stepped yet
        return
    fresh = rules.init(torch.empty(param.shape, dtype=param.dtype, device="meta"), group)
    for key in ("step", "noise_step", *fresh):
        if not isinstance(state.get(key), Tensor):
            raise ValueError(f"the saved state of {name} has no {key!r}, which rule {group['rule']!r} needs")
    tensors = {key: param.shape for key in (*fresh, "momentum_buffer", *DERIVATIVES) if key in state}
    numbers = {"adapted": (len(ADAPTED),)} if "adapted" in state else {}
    for key, shape in {**tensors, **numbers, "step": (), "noise_step": ()}.items():
        if tuple(state[key].shape) != tuple(shape):
            _other_parameters(f"the saved {key} of {name}", tuple(state[key].shape), tuple(shape))


def check_layer(name: str, param: Tensor, state: Mapping[str, Any], units: int) -> None:
    """ValueError unless the saved entry of a layer has this parameter's shape and ``units`` columns of statistics."""
    saved = state.get("shape")
    shape = tuple(param.shape if saved is None else saved.tolist())
    if shape != tuple(param.shape):
        _other_parameters(f"the saved state of {name}", shape, tuple(param.shape))
    stats = state.get("stats")
    expected = (len(statistics.STATISTICS), units)
    if stats is not None and tuple(stats.shape) != expected:
        _other_parameters(f"the saved statistics of {name}", tuple(stats.shape), expected)


def _other_parameters(what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    raise ValueError(f"{what}: shape {found}, not {expected}; this is the state of other parameters")
