"""What a preset says, in words, for the terminal and for the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asgc.meta import Preset


def option_names(*presets: Preset) -> list[str]:
    """The learned options of any of them, each once, in their order."""
    return list(dict.fromkeys(name for one in presets for own in one.values.values() for name in own))


def fixed(preset: Preset) -> str:
    """The options that were fixed while it was learned: "mode norm, eps 0"."""
    return ", ".join(f"{name} {value}" for name, value in preset.options.items())


def shown(preset: Preset, kind: str, name: str) -> str:
    """An option of a kind of layer; at the start and the end of a training, where these differ."""
    value = preset.values.get(kind, {}).get(name, math.nan)
    late = preset.late.get(kind, {}).get(name, value)
    if math.isnan(value):
        return ""
    return f"{value:.4g}" if late == value else f"{value:.4g} to {late:.4g}"
