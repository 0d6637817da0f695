"""Networks of the user's own: `--network.cls my_package.nets:MyNet`.

    class MyNet(torch.nn.Module):
        def __init__(self, observation: ObservationSpec, num_actions: int, config: NetworkConfig):
            ...

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ...

with `rl.tasks.ObservationSpec` and `rl.option_groups.NetworkConfig`. `x` is float and scaled as for our networks:
pictures (batch, channels, H, W) from 0 to 1, where the channels are those of all frames of the stack; vectors
(batch, d). The outputs are action values (batch, num_actions), or with `--head` of a distribution (batch, num_actions,
*per_action). A class that has arguments of these names is given those of `observation`, `num_actions`, `config` and
`per_action` that it has; one that has none, the first three. Everything random in it comes from torch's global
generator, which is seeded before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluation.cli.errors import UserError
from evaluation.cli.user_code import accepts, call_with, load, users
from rl.networks import Network, QNetwork, VectorQNetwork
from rl.option_groups import NetworkConfig
from rl.tasks import ObservationSpec


class _Own(Network):
    """The user's module behind our scaling. All of it computes in mixed precision where there is such."""

    def forward(self, observation: Tensor) -> Tensor:
        output: Tensor = self.layers(self.scaled(observation))
        return output.float()


class OwnQNetwork(_Own, QNetwork):
    """Of pictures."""

    def __init__(self, observation: ObservationSpec, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.layers = nn.Sequential(module)
        self.register_buffer("offset", torch.zeros(*observation.frame))
        self.register_buffer("scale", torch.tensor(1 / 255))


class OwnVectorQNetwork(_Own, VectorQNetwork):
    """Of vectors."""

    def __init__(self, observation: ObservationSpec, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.layers = nn.Sequential(module)
        factor = (1 / torch.tensor(observation.scale, dtype=torch.float64)).repeat(observation.stack)
        center = torch.tensor(observation.center, dtype=torch.float64).repeat(observation.stack)
        self.register_buffer("factor", factor.float())
        self.register_buffer("offset", (-center * factor).float())


def own_network(
    observation: ObservationSpec, num_actions: int, config: NetworkConfig, per_action: tuple[int, ...] = ()
) -> Network:
    """The network that `config.cls` names.

    Raises:
        UserError: there is none, it cannot be made, or it makes no module.
    """
    assert config.cls is not None
    what, known = (
        f"--network.cls {config.cls}",
        {"observation": observation, "num_actions": num_actions, "config": config, "per_action": per_action},
    )
    kind = load(config.cls, "--network.cls")
    with users(f"{what}: making it"):
        named = any(accepts(kind, name) for name in known)
        module: Any = call_with(kind, **known) if named else kind(observation, num_actions, config)
    if not isinstance(module, nn.Module):
        raise UserError(f"{what}: it made a {type(module).__name__}, where a torch.nn.Module was expected")
    return (OwnVectorQNetwork if len(observation.shape) == 2 else OwnQNetwork)(observation, module)


@torch.no_grad()
def try_out(
    observation: ObservationSpec, num_actions: int, config: NetworkConfig, per_action: tuple[int, ...] = ()
) -> Network:
    """A network of the user's, once it is seen that it takes the observations and gives action values, or what a head
    asks for.

    Raises:
        UserError: it does not; says what it did.
    """
    what = f"--network.cls {config.cls}"
    with torch.random.fork_rng(devices=[]):
        network = own_network(observation, num_actions, config, per_action)
    batch = torch.zeros(2, *observation.shape, dtype=getattr(torch, observation.dtype))
    seen = tuple(network.scaled(batch).shape)
    with users(f"{what}: its forward of float32 {seen}"):
        output = network.eval()(batch)
    expected = (2, num_actions, *per_action)
    if not isinstance(output, Tensor) or output.shape != expected:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"{what}: of {seen} it made {found}, where {expected} was expected: values of each action")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{what}: it has no parameters to learn")
    return network
