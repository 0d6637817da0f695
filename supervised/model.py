"""Models in files, and a trained one loaded from its run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluation.cli.errors import UserError
from evaluation.runs.hardware import select_device, select_precision
from evaluation.runs.kept_models import find_model, read_model
from evaluation.runs.run_folder import CONFIG, chosen, load_config
from supervised import backends, tasks
from supervised.config import TrainConfig
from supervised.text.transformer import Transformer

NEEDED = ("task", "data", "model", "evaluation")  # what using a model depends on


def save(path: Path, weights: Mapping[str, Any], facts: dict[str, Any], step: int) -> None:
    """Write a model: its weights as a state dict, what else it needs to be used, the update after which it was so."""
    torch.save({"model": weights, "facts": facts, "step": step}, path)


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    found = read_model(path)
    if not {"model", "facts", "step"} <= found.keys():
        raise UserError(f"{path} is damaged and cannot be loaded (it holds no model of asgc-sup)")
    return found


@dataclass(frozen=True)
class Loaded:
    """What a run folder holds of a model.

    Attributes:
        config: the run's, with the precision that it was trained in where the device is the same.
        weights: state dict of the model, on the CPU.
        facts: what the task needs to make the model and use it.
        name: which of the run's models it is: "final", "best", "checkpoint", "kept" or "average of N".
        path: of the file.
        step: updates that it has learned from.
        device: to be used.
    """

    config: TrainConfig
    weights: dict[str, Any]
    facts: dict[str, Any]
    name: str
    path: Path
    step: int
    device: torch.device


def load(
    run: str | Path, device: str = "auto", *, best: bool = False, step: int | None = None, average: int | None = None
) -> Loaded:
    """The model of a run folder: its final one, or the newest checkpoint's if the run is not finished.

    Args:
        best: the model of the run's best evaluation instead.
        step: the model that the run kept at this update (`keep_models`) instead.
        average: the mean of the weights of the last so many that it kept.

    Raises:
        UserError: not a run folder, nothing saved in it yet, no model of this step, no such device.
    """
    run = Path(run)
    if "game" in load_config(run):  # says what is wrong with the folder
        raise UserError(f"{run} is a run of asgc-rl: asgc-rl eval {run}")
    config = TrainConfig.of_run(run / CONFIG, NEEDED)
    where = select_device(device)
    which = find_model(run, best=best, step=step, average=average)
    found = read(which.path)
    if len(which.paths) > 1:
        found["model"] = averaged([read(path)["model"] for path in which.paths])
    before = chosen(run)
    if str(where) == before.get("device"):  # what it was trained with; another device chooses for itself
        config.precision = before.get("precision", config.precision)
    config.precision = select_precision(config.precision, where)  # type: ignore[assignment]
    return Loaded(config, found["model"], found["facts"], which.name, which.path, found["step"], where)


def averaged(weights: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of state dicts of one model, summed in double precision; what is no floating-point number is the last
    one's."""
    last, mean = weights[-1], {}
    for name, value in last.items():
        if value.is_floating_point():
            mean[name] = (sum(one[name].double() for one in weights) / len(weights)).to(value.dtype)
        else:
            mean[name] = value
    return mean


def check_facts(loaded: Loaded, facts: Mapping[str, Any]) -> None:
    """Refuse data that is not of the kind that a model was trained on.

    Raises:
        UserError: other classes, another vocabulary.
    """
    for name, value in facts.items():
        if name in loaded.facts and loaded.facts[name] != value:
            raise UserError(
                f"{loaded.path} was trained on data with other {name} than {loaded.config.data.name} has now: give it "
                "the data that it was trained on"
            )


def build(loaded: Loaded) -> nn.Module:
    """The model with its weights, in evaluation mode on the device.

    Raises:
        UserError: they are of another one, or of a backend whose library is not installed.
    """
    backend = loaded.config.backend
    with torch.random.fork_rng(devices=[]):
        model = tasks.find(loaded.config.task).build(loaded.config, loaded.facts)
        if backend != backends.NATIVE:
            assert isinstance(model, Transformer)  # the configuration's check says so
            model = backends.model_like(backend, model)
    try:
        model.load_state_dict(loaded.weights)
    except RuntimeError as error:
        raise UserError(
            f"{loaded.path} is not of the model that this version makes of the run's configuration: use the version "
            "that its provenance.json names"
        ) from error
    return model.to(loaded.device).eval()
