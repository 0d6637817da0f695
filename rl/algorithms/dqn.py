"""The DQN learner: acting, the temporal-difference update, the target network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.runs import seeding
from rl.config import TrainConfig
from rl.networks import QNetwork, build_network
from rl.replay.ring import Batch
from rl.tasks import ObservationSpec

Part = tuple[Tensor, ...]  # the samples of one update: the arguments of `DQN._eager_td_loss`

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}


def select_device(name: str) -> torch.device:
    """The device for "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N"; UserError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA GPU is available to PyTorch here; use --device cpu or --device auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def select_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "fp32" for "auto": bfloat16 where the hardware multiplies it, otherwise float32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if cpu_multiplies_bf16() else "fp32"


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bfloat16 products (AVX-512 BF16, AMX, Arm BF16); without them bf16 is slower than fp32."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return False
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


class DQN:
    """DQN (Mnih et al., 2015) with optional Double DQN (van Hasselt et al., 2016) and n-step targets.

    An update minimizes the loss between Q(s, a) and

        y = R_n + discount * Q_target(s', a*),   a* = argmax Q(s', .) (double) or argmax Q_target(s', .)

    where the replay gives the n-step reward sum R_n and discount = gamma^m, or 0 after a terminal step.

    Attributes:
        around_step: called with the samples of each update once its gradients are there; the optimizer steps in the
            context that it returns.
    """

    around_step: Callable[[Part], contextlib.AbstractContextManager[None]]

    def __init__(
        self, config: TrainConfig, num_actions: int, observation: ObservationSpec, device: torch.device
    ) -> None:
        self.device = device
        self.num_actions = num_actions
        self.double = config.double
        self.precision = select_precision(config.precision, device)
        self._loss = LOSSES[config.loss]
        channels_last = config.channels_last
        if channels_last is None:
            channels_last = device.type == "cuda" or self.precision == "fp32"
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = build_network(observation, num_actions, config.network)
        self.network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self.target_network = build_network(observation, num_actions, config.network)
        self.target_network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self.target_network.requires_grad_(False)
        if self.precision == "bf16":
            # Autocast would round the same weights in every update; done here, it is done once a synchronization.
            for module in self.target_network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        self.sync_target()
        name, lr, options = config.optimizer.name, config.optimizer.lr, config.optimizer.options()
        try:
            if "seed" in optimizers.options(name, options.get("rule", "adam")):
                options.setdefault("seed", seeding.derive(config.seed, "optimizer"))  # noise of its own in every run
            self.optimizer = optimizers.build(name, self.network.parameters(), lr=lr, **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"--optimizer {name}: {error}") from error
        self._td_loss = torch.compile(self._eager_td_loss) if config.compile else self._eager_td_loss
        self.around_step = lambda part: contextlib.nullcontext()

    def autocast(self) -> torch.autocast:
        """Mixed precision for a forward pass: bfloat16 matrix products, float32 parameters and values."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @torch.inference_mode()
    def values(self, observation: Tensor) -> Tensor:
        """Q-values (N, A), float32, of observations (N, stack, ...)."""
        with self.autocast():
            values: Tensor = self.network(observation.to(self.device))
        return values

    def act(
        self, observation: NDArray[Any], epsilon: float, rng: np.random.Generator, values: Tensor | None = None
    ) -> NDArray[np.int64]:
        """Epsilon-greedy actions (N,) for observations (N, stack, ...); `values`: theirs, where they are known."""
        n = len(observation)
        explore = rng.random(n) < epsilon
        actions = rng.integers(self.num_actions, size=n)
        if not explore.all():
            values = self.values(torch.from_numpy(observation)) if values is None else values
            actions = np.where(explore, actions, values.argmax(dim=1).cpu().numpy())
        return actions

    def updates(self, batch: Batch, count: int) -> Iterator[dict[str, Tensor]]:
        """One gradient step on each of `count` equal parts of a batch.

        The target network does not change between them, so it values the next observations of all parts at once: the
        same numbers for less time than part by part.

        Yields:
            After each step, the mean loss and the mean Q(s, a) of its part as tensors (no synchronization).
        """
        observation, action, reward, next_observation, discount = (
            tensor.to(self.device, non_blocking=True)
            for tensor in (batch.observation, batch.action, batch.reward, batch.next_observation, batch.discount)
        )
        with torch.no_grad(), self.autocast():
            next_values = self.target_network(next_observation)
        for part in zip(
            *(tensor.chunk(count) for tensor in (observation, action, reward, next_observation, next_values, discount)),
            strict=True,
        ):
            self.optimizer.zero_grad(set_to_none=True)
            loss, q = self._td_loss(*part)
            loss.backward()  # type: ignore[no-untyped-call]
            with self.around_step(part):
                self.optimizer.step()
            yield {"loss": loss.detach(), "q": q.detach()}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a batch; see `updates`."""
        return next(self.updates(batch, 1))

    def gradients(self, part: Part, size: int) -> list[Tensor]:
        """Gradients of the loss over the first `size` samples of an update, a tensor a parameter; `.grad` stays."""
        loss, _ = self._eager_td_loss(*(tensor[:size] for tensor in part))
        return list(torch.autograd.grad(loss, list(self.network.parameters())))

    def _eager_td_loss(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        next_observation: Tensor,
        next_values: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with self.autocast():
            with torch.no_grad():
                if self.double:
                    best = self.network(next_observation).argmax(dim=1, keepdim=True)
                    next_value = next_values.gather(1, best).squeeze(1)
                else:
                    next_value = next_values.amax(dim=1)
                target = reward + discount * next_value
            q = self.network(observation).gather(1, action.unsqueeze(1)).squeeze(1)
        return self._loss(q, target), q.mean()

    def sync_target(self) -> None:
        """Copy the online network into the target network and tell the optimizer that its loss has changed."""
        self.target_network.load_state_dict(self.network.state_dict())
        shift = getattr(getattr(self, "optimizer", None), "shift", None)
        if shift is not None:
            shift()

    def standardize(self, frames: Tensor) -> None:
        """Fix the input scaling of both networks from single frames (n, height, width); see QNetwork.standardize."""
        for network in (self.network, self.target_network):
            assert isinstance(network, QNetwork)  # the configuration's check says so
            network.standardize(frames.to(self.device))

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning goes on from: both networks and the optimizer."""
        return {
            "network": self.network.state_dict(),
            "target_network": self.target_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.target_network.load_state_dict(state["target_network"])
        self.optimizer.load_state_dict(state["optimizer"])
