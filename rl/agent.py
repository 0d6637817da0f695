"""A trained agent, loaded from its run folder."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.cli.errors import UserError, reason
from evaluation.runs.hardware import select_device, select_precision
from evaluation.runs.loop import BEST_MODEL
from evaluation.runs.run_folder import CONFIG, MODEL, chosen, is_finished, load_config, load_summary, newest_checkpoint
from rl import tasks
from rl.algorithms.heads import make_head
from rl.config import TrainConfig
from rl.networks import Network, build_network

NEAREST = 10  # steps named where the one that was asked for is not there
MODELS = "models"  # in the run folder: those kept by `keep_models`
NEEDED = ("game", "algorithm", "env", "network", "head")  # what playing depends on


class Agent:
    """A Q-network with the configuration it was trained under.

    Attributes:
        config: the run's TrainConfig.
        num_actions: number of actions A.
        model: which of the run's models it is: "final", "best", "checkpoint" or "kept".
        step: of training, in environment steps; None: not known (the best model of an earlier version's run).
    """

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        num_actions: int,
        device: torch.device,
        *,
        model: str = "final",
        step: int | None = None,
    ) -> None:
        self.model, self.step = model, step
        self.network = network.to(device).eval()
        self.head = make_head(config.head, config.loss, device)
        self.config = config
        self.num_actions = num_actions
        self.device = device
        self._precision = select_precision(config.precision, device)
        self._spec = tasks.find(config.game).observation(config.env)
        self._rng = np.random.default_rng(config.seed)

    @torch.inference_mode()
    def values(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Q-values (N, A) of stacked frames (N, stack, H, W), uint8, or of a control task's vectors (N, 1, d), float32.

        Raises:
            ValueError: observations of another shape or type than the agent was trained on.
        """
        expected, dtype = self._spec.shape, self._spec.dtype
        if getattr(observation, "dtype", None) != dtype or observation.shape[1:] != expected:
            found = f"{getattr(observation, 'dtype', type(observation).__name__)} {tuple(np.shape(observation))}"
            wanted = f"{np.dtype(dtype).name} (N, {', '.join(map(str, expected))})"
            raise ValueError(f"observations must be NumPy {wanted}, got {found}")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            output = self.network(torch.from_numpy(observation).to(self.device))
            values: NDArray[np.float32] = self.head.values(output).cpu().numpy()
        return values

    def act(
        self, observation: NDArray[Any], epsilon: float = 0.0, rng: np.random.Generator | None = None
    ) -> NDArray[np.int64]:
        """Actions (N,) for observations as in `values`, or one action () for one observation without the axis N.

        Args:
            epsilon: share of random actions; 0 is greedy.
            rng: generator for them; by default one seeded with the run's seed.
        """
        if observation.ndim == len(self._spec.shape):
            return self.act(observation[None], epsilon, rng)[0]
        rng = self._rng if rng is None else rng
        greedy = self.values(observation).argmax(axis=1)
        explore = rng.random(len(greedy)) < epsilon
        return np.where(explore, rng.integers(self.num_actions, size=len(greedy)), greedy)


def load_agent(run: str | Path, device: str = "auto", *, best: bool = False, step: int | None = None) -> Agent:
    """The agent of a run folder: its final model, or the newest checkpoint's if the run is not finished.

    Args:
        best: the model of the run's best evaluation instead.
        step: the model that the run kept at this step (`keep_models`) instead.

    Raises:
        UserError: not a run folder, nothing saved in it yet, no model of this step, no such device, or what another
            version trained and this one cannot play.
    """
    if best and step is not None:
        raise UserError("--best and --step name two models: leave out one of them")
    run = Path(run)
    load_config(run)  # says what is wrong with the folder
    config = TrainConfig.of_run(run / CONFIG, NEEDED)
    where = select_device(device)
    name, path = ("best" if best else "final"), run / (BEST_MODEL if best else MODEL)
    if step is not None:
        name, path = "kept", kept_model(run, step)
    elif not best and is_finished(run):
        step = load_summary(run).get("steps")
    elif not best:
        checkpoint = newest_checkpoint(run)
        if checkpoint is None:
            raise UserError(f"{run} holds no model yet: the run has not reached its first checkpoint")
        name, step = "checkpoint", checkpoint.step
        path = checkpoint.path / MODEL
    try:
        model = torch.load(path, map_location=where, weights_only=True)
    except FileNotFoundError as error:
        what = "no evaluation so far has kept its model" if best else "this run holds no model"
        raise UserError(f"{path} is missing: {what}") from error
    except (KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged and cannot be loaded ({reason(error)})") from error
    num_actions = model["num_actions"]
    spec = tasks.find(config.game).observation(config.env)
    network = build_network(spec, num_actions, config.network, config.head.per_action)
    try:
        network.load_state_dict(model["network"])
    except RuntimeError as error:
        raise UserError(
            f"{path} is not of the network that this version makes of {run / CONFIG}: play it with the version that "
            "provenance.json names"
        ) from error
    before = chosen(run)
    if str(where) == before.get("device"):  # what it was trained with; another device chooses for itself
        config.precision = before.get("precision", config.precision)
    return Agent(network, config, num_actions, where, model=name, step=model.get("step", step))


def model_path(run: Path, step: int) -> Path:
    """Where `keep_models` keeps the model of a step."""
    return run / MODELS / f"step-{step:09d}.pt"


def kept_model(run: Path, step: int) -> Path:
    """The model that a run kept at a step, or its final one if that is the run's last step.

    Raises:
        UserError: it has none; names those that there are.
    """
    path = model_path(run, step)
    if path.is_file():
        return path
    steps = sorted(int(file.stem.removeprefix("step-")) for file in (run / MODELS).glob("step-*.pt"))
    if is_finished(run) and (last := load_summary(run).get("steps")) is not None:
        if step == last:
            return run / MODEL
        steps = sorted({*steps, last})
    if not steps:
        raise UserError(
            f"--step {step}: {run} has kept no models; `asgc-rl train --keep-models N` keeps one every N steps"
        )
    near = sorted(sorted(steps, key=lambda other: abs(other - step))[:NEAREST])
    among = f"the {len(near)} nearest of {len(steps)} are" if len(steps) > len(near) else "there are"
    raise UserError(f"--step {step}: {run} has no model of that step; {among} {', '.join(map(str, near))}")
