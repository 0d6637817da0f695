"""Models in files, and a trained one loaded from its run folder."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluation.cli.errors import UserError, reason
from evaluation.runs.hardware import select_device, select_precision
from evaluation.runs.loop import BEST_MODEL
from evaluation.runs.run_folder import CONFIG, MODEL, chosen, is_finished, load_config, newest_checkpoint
from supervised.config import TrainConfig

MODELS = "models"  # in the run folder: those kept by `keep_models`
NEEDED = ("task", "data", "model", "evaluation")  # what using a model depends on


def model_path(run: Path, step: int) -> Path:
    """Where `keep_models` keeps the model of a step."""
    return run / MODELS / f"step-{step:09d}.pt"


def save(path: Path, model: nn.Module, facts: dict[str, Any], step: int) -> None:
    """Write a model: its weights, what else it needs to be used, the update after which it was so."""
    torch.save({"model": model.state_dict(), "facts": facts, "step": step}, path)


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found["model"], found["facts"], found["step"]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: this run holds no such model") from error
    except (KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged and cannot be loaded ({reason(error)})") from error
    return found


@dataclass(frozen=True)
class Loaded:
    """What a run folder holds of a model.

    Attributes:
        config: the run's, with the precision that it was trained in where the device is the same.
        weights: state dict of the model, on the CPU.
        facts: what the task needs to make the model and use it.
        path: of the file.
        step: updates that it has learned from.
        device: to be used.
    """

    config: TrainConfig
    weights: dict[str, Any]
    facts: dict[str, Any]
    path: Path
    step: int
    device: torch.device


def load(run: str | Path, device: str = "auto", *, best: bool = False, step: int | None = None) -> Loaded:
    """The model of a run folder: its final one, or the newest checkpoint's if the run is not finished.

    Args:
        best: the model of the run's best evaluation instead.
        step: the model that the run kept at this update (`keep_models`) instead.

    Raises:
        UserError: not a run folder, nothing saved in it yet, no model of this step, no such device.
    """
    if best and step is not None:
        raise UserError("--best and --step name two models: leave out one of them")
    run = Path(run)
    load_config(run)  # says what is wrong with the folder
    config = TrainConfig.of_run(run / CONFIG, NEEDED)
    where = select_device(device)
    path = run / (BEST_MODEL if best else MODEL)
    if step is not None:
        path = model_path(run, step)
        if not path.is_file():
            kept = sorted(int(file.stem.removeprefix("step-")) for file in (run / MODELS).glob("step-*.pt"))
            there = f"there are {', '.join(map(str, kept))}" if kept else "`--keep-models N` keeps one every N updates"
            raise UserError(f"--step {step}: {run} has no model of that step; {there}")
    elif not best and not is_finished(run):
        checkpoint = newest_checkpoint(run)
        if checkpoint is None:
            raise UserError(f"{run} holds no model yet: the run has not reached its first checkpoint")
        path = checkpoint.path / MODEL
    found = read(path)
    before = chosen(run)
    if str(where) == before.get("device"):  # what it was trained with; another device chooses for itself
        config.precision = before.get("precision", config.precision)
    config.precision = select_precision(config.precision, where)  # type: ignore[assignment]
    return Loaded(config, found["model"], found["facts"], path, found["step"], where)


def fill(model: nn.Module, loaded: Loaded) -> nn.Module:
    """A model that was made as the run's, with its weights, in evaluation mode on the device.

    Raises:
        UserError: it is another one.
    """
    try:
        model.load_state_dict(loaded.weights)
    except RuntimeError as error:
        raise UserError(
            f"{loaded.path} is not of the model that this version makes of the run's configuration: use the version "
            "that its provenance.json names"
        ) from error
    return model.to(loaded.device).eval()
