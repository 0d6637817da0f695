"""The models in a run folder: the final one, that of the best evaluation, those kept on the way (`keep_models`), the
newest checkpoint's."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation.cli.errors import UserError, reason
from evaluation.runs.loop import BEST_MODEL
from evaluation.runs.run_folder import MODEL, is_finished, load_summary, newest_checkpoint

NEAREST = 10  # steps named where the one that was asked for is not there
KEEPS = "`train --keep-models N` keeps one every N steps"
MODELS = "models"  # in the run folder: those kept by `keep_models`


@dataclass(frozen=True)
class FoundModel:
    """Which of a run's models.

    Attributes:
        name: "final", "best", "checkpoint", "kept" or "average of N".
        paths: its file; of an average, those of its N models.
        step: of training; None: only the file knows it.
    """

    name: str
    paths: tuple[Path, ...]
    step: int | None = None

    @property
    def path(self) -> Path:
        """Its file; of an average, that of the last model."""
        return self.paths[-1]


def find_model(run: Path, *, best: bool = False, step: int | None = None, average: int | None = None) -> FoundModel:
    """The final model of a run, or the newest checkpoint's if the run is not finished.

    Args:
        best: the model of the run's best evaluation instead.
        step: the model that the run kept at this step instead, or its final one if that is its last step.
        average: the last so many that it kept instead.

    Raises:
        UserError: several of these, or the run has no such model; says which it has.
    """
    given = [("--best", best), ("--step", step is not None), ("--average", average is not None)]
    if len(asked := [name for name, is_given in given if is_given]) > 1:
        raise UserError(f"{asked[0]} and {asked[1]} name two models: leave out one of them")
    if best:
        return FoundModel("best", (run / BEST_MODEL,))
    if step is not None:
        return FoundModel("kept", (_kept_model(run, step),), step)
    if average is not None:
        kept = [model_path(run, one) for one in kept_steps(run)]
        if len(kept) < average:
            raise UserError(f"--average {average}: {run} has kept {len(kept)} models; {KEEPS}")
        return FoundModel(f"average of {average}", tuple(kept[-average:]))
    if is_finished(run):
        return FoundModel("final", (run / MODEL,), load_summary(run).get("steps"))
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no model yet: the run has not reached its first checkpoint")
    return FoundModel("checkpoint", (checkpoint.path / MODEL,), checkpoint.step)


def read_model(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a file of a model holds.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        model: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(model, dict):
            raise TypeError("no mapping")
    except FileNotFoundError as error:
        best = path.name == BEST_MODEL
        what = "no evaluation so far has kept its model" if best else "this run holds no such model"
        raise UserError(f"{path} is missing: {what}") from error
    except (KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged and cannot be loaded ({reason(error)})") from error
    return model


def model_path(run: Path, step: int) -> Path:
    """Where `keep_models` keeps the model of a step."""
    return run / MODELS / f"step-{step:09d}.pt"


def kept_steps(run: Path) -> list[int]:
    """The steps whose models the run has kept, in order."""
    return sorted(int(file.stem.removeprefix("step-")) for file in (run / MODELS).glob("step-*.pt"))


def _kept_model(run: Path, step: int) -> Path:
    steps = kept_steps(run)
    if step in steps:
        return model_path(run, step)
    if is_finished(run) and (last := load_summary(run).get("steps")) is not None:
        if step == last:
            return run / MODEL
        steps = sorted({*steps, last})
    if not steps:
        raise UserError(f"--step {step}: {run} has kept no models; {KEEPS}")
    near = sorted(sorted(steps, key=lambda other: abs(other - step))[:NEAREST])
    among = f"the {len(near)} nearest of {len(steps)} are" if len(steps) > len(near) else "there are"
    raise UserError(f"--step {step}: {run} has no model of that step; {among} {', '.join(map(str, near))}")
