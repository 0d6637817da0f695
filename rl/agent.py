"""A trained agent, loaded from its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from evaluation.runs.hardware import select_device, select_precision
from evaluation.runs.kept_models import find_model, read_model
from evaluation.runs.run_folder import CONFIG, chosen, load_config
from rl import tasks
from rl.algorithms.heads import make_head
from rl.config import TrainConfig
from rl.networks import Network, build_network

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
    run = Path(run)
    if "game" not in load_config(run):  # says what is wrong with the folder
        raise UserError(f"{run} is no run of asgc-rl: asgc-sup eval {run}")
    config = TrainConfig.of_run(run / CONFIG, NEEDED)
    where = select_device(device)
    found = find_model(run, best=best, step=step)
    model = read_model(found.path, where)
    num_actions = model["num_actions"]
    spec = tasks.find(config.game).observation(config.env)
    network = build_network(spec, num_actions, config.network, config.head.per_action)
    try:
        network.load_state_dict(model["network"])
    except RuntimeError as error:
        raise UserError(
            f"{found.path} is not of the network that this version makes of {run / CONFIG}: play it with the version "
            "that provenance.json names"
        ) from error
    before = chosen(run)
    if str(where) == before.get("device"):  # what it was trained with; another device chooses for itself
        config.precision = before.get("precision", config.precision)
    return Agent(network, config, num_actions, where, model=found.name, step=model.get("step", found.step))
