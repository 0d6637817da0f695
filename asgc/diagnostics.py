"""What ``diagnostics()`` reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import gradient_statistics as statistics
from .adapt import in_use_over_given
from .ceiling import LEFT
from .layers import layer_name

__all__ = ["describe"]

Group = dict[str, Any]


_GIVEN = ("noise_scale", "noise_decay", "clip_factor", "clip_sharpness")


def describe(
    groups: list[Group], options_of: Callable[[Group], Mapping[str, Any]], states: Mapping[Tensor, dict[str, Any]]
) -> list[dict[str, Any]]:
    """One dict a layer that has statistics; see ``ASGC.diagnostics``."""
    layers: list[dict[str, Any]] = []
    values: list[Tensor] = []
    for gi, group in enumerate(groups):
        options = options_of(group)
        for pi, param in enumerate(group["params"]):
            state = states.get(param, {})
            if "stats" not in state:
                continue
            stats = state["stats"].to(torch.float64)
            rows = statistics.averages(stats)
            rows[statistics.NONFINITE] = stats[statistics.NONFINITE].sum()
            std = (stats[statistics.VAR].sqrt().sum() / max(1, stats.shape[1])).view(1)
            steps = state["noise_step"].to(stats.device, torch.float64).view(1)
            adapted = torch.stack(in_use_over_given(state["adapted"])) if "adapted" in state else rows.new_ones(2)
            left = state.get(LEFT, rows.new_ones(())).to(rows).view(1)
            values.append(torch.cat([rows, std, steps, adapted, left]))
            given = {name: options[name] for name in _GIVEN}
            name = layer_name(groups, gi, pi)
            layers.append({"name": name, "layer": state["layer"], "units": stats.shape[1], **given})
    # One copy to the host a device, not one a layer.
    columns: dict[int, list[float]] = {}
    for device in {value.device for value in values}:
        indices = [i for i, value in enumerate(values) if value.device == device]
        for i, column in zip(indices, torch.stack([values[i] for i in indices]).tolist(), strict=True):
            columns[i] = column
    return [_entry(layer, columns[i]) for i, layer in enumerate(layers)]


def _entry(layer: dict[str, Any], column: list[float]) -> dict[str, Any]:
    std, steps, factor, sharpness, left = column[len(statistics.STATISTICS) :]
    # Of the last step, t = steps - 1.
    c_t = float(layer["noise_scale"]) * max(1.0, steps) ** (-float(layer["noise_decay"]) / 2)
    return {
        "name": layer["name"],
        "layer": layer["layer"],
        "units": layer["units"],
        "mean": column[statistics.MEAN],
        "std": std,
        "threshold": column[statistics.THRESHOLD],
        "clipped": column[statistics.CLIPPED],
        "attenuation": column[statistics.ATTENUATION],
        "noise_scale": c_t,
        "noise_std": column[statistics.NOISE],
        "clip_factor": float(layer["clip_factor"]) * factor,
        "clip_sharpness": float(layer["clip_sharpness"]) * sharpness,
        "step_left": left,
        "nonfinite": round(column[statistics.NONFINITE]),
    }
