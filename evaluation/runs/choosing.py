"""What a configuration leaves to the machine, and a resume keeps: the part that all trainers share."""

from __future__ import annotations

import copy
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from evaluation.cli.errors import UserError
from evaluation.runs.hardware import select_device
from evaluation.runs.run_folder import chosen, is_run, load_config

C = TypeVar("C", bound=Any)


@dataclass(frozen=True)
class TakenOver(Generic[C]):
    """A configuration with what an earlier session chose, and with its device.

    Attributes:
        config: a copy, to be filled further.
        device: where it will run.
        kept: the options that are as that session chose them.
        before: that session's configuration; {}: there was none.
        lines: for the user.
    """

    config: C
    device: torch.device
    kept: tuple[str, ...]
    before: dict[str, Any]
    lines: list[str]


def take_over(config: C, run: Path | None, names: Sequence[str]) -> TakenOver[C]:
    """Keep what was chosen at the start of a run that is resumed, however this machine would choose.

    Args:
        run: to be resumed; None: a new one.
        names: of the options that may leave it to the machine; one of them is `device`.

    Raises:
        UserError: the device is not here.
    """
    known, before = (chosen(run), load_config(run)) if run is not None and is_run(run) else ({}, {})
    given = {name: getattr(config, name) for name in names}
    kept = tuple(name for name in names if name in known and given[name] == before.get(name, given[name]))
    full, lines = copy.deepcopy(config), []
    for name in kept:
        setattr(full, name, known[name])
    try:
        device = select_device(full.device)
    except UserError as error:
        if "device" not in kept:
            raise
        here = "cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(
            f"{run} was trained on {full.device}, which is not here: resume it where it is, or with --device {here} "
            "(from then on not with the numbers of the uninterrupted run)"
        ) from error
    if (last := known.get("device", str(device))) != str(device):
        lines.append(f"device {last} -> {device}: from here on not with the numbers of the uninterrupted run")
    full.device = str(device)
    return TakenOver(full, device, kept, before, lines)


def free_folder(name: str) -> Path:
    """runs/DATE/NAME, with a number behind it where that is taken."""
    parent = Path("runs") / datetime.date.today().isoformat()
    candidates = (parent / (name if i == 1 else f"{name}-{i}") for i in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())
