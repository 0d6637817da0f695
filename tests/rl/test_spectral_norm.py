"""Spectral normalization against singular values and PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from rl.networks import Network, build_network
from rl.option_groups import NetworkConfig
from rl.spectral_norm import SpectralNorm, normalize_layers
from rl.tasks import ObservationSpec

SPEC = ObservationSpec((2, 20, 20), "uint8")


def network(**options: object) -> Network:
    torch.manual_seed(0)
    sizes = {"channels": [4, 8], "kernels": [4, 3], "strides": [2, 2], "hidden": 16}
    return build_network(SPEC, 3, NetworkConfig(**(sizes | options)))  # type: ignore[arg-type]


def frames(count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, *SPEC.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def largest_singular_value(weight: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().double().flatten(1))[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_largest_singular_value_becomes_one(precision: torch.dtype) -> None:
    """Also under autocast, and also of weights that move."""
    made = network(spectral_norm=[1, 2, 3, 4])
    chosen = [one for one in made.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    assert len(chosen) == 4
    with torch.no_grad():
        for layer in chosen:
            layer.parametrizations.weight.original.mul_(7).add_(0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        for _ in range(200):
            made(frames())
    for layer in chosen:
        assert layer.weight.dtype == torch.float32
        assert largest_singular_value(layer.weight) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 4, 3)], ids=["linear", "convolution"])
def test_it_is_pytorchs_own_in_float32(layer: nn.Module) -> None:
    """The same vectors and weights give the same outputs, gradients and next vectors."""
    torch.manual_seed(0)
    ours, theirs = layer, parametrizations.spectral_norm(copy.deepcopy(layer))
    normalize_layers([ours], [1])
    own, its = ours.parametrizations.weight[0], theirs.parametrizations.weight[0]
    own.left.copy_(its._u)
    own.right.copy_(its._v)
    x = torch.randn(6, 3, 5, 5) if isinstance(layer, nn.Conv2d) else torch.randn(6, 7)
    for _ in range(3):
        for one in (ours, theirs):
            one.zero_grad()
            one(x).square().sum().backward()
        torch.testing.assert_close(ours(x), theirs(x))
        a, b = ours.parametrizations.weight.original, theirs.parametrizations.weight.original
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(own.left, its._u)
        with torch.no_grad():
            for weight in (a, b):
                weight += 0.1 * torch.linspace(-1, 1, weight.numel()).view_as(weight)


@pytest.mark.parametrize(
    ("options", "chosen", "expected"),
    [
        ({}, [2], ["layers.5"]),
        ({}, [1, 4], ["layers.0", "layers.7"]),
        ({"dueling": True}, [2], ["layers.5.value.0", "layers.5.advantage.0"]),
        ({"kind": "impala"}, [4], ["layers.10.layers.1", "layers.10.layers.3"]),  # its last residual block but one
        ({"layer_norm": True}, [2], ["layers.7"]),
    ],
)
def test_layers_are_counted_from_the_end(options: dict[str, object], chosen: list[int], expected: list[str]) -> None:
    made = network(**options, spectral_norm=chosen)
    found = [name for name, module in made.named_modules() if parametrize.is_parametrized(module)]
    assert found == expected


def test_only_a_pass_that_learns_takes_a_step() -> None:
    made = network(spectral_norm=[2])
    (norm,) = [module for module in made.modules() if isinstance(module, SpectralNorm)]
    before = norm.left.clone()
    with torch.no_grad():
        made(frames())
    made.eval()
    made(frames())
    assert torch.equal(norm.left, before)
    made.train()
    made(frames())
    assert not torch.equal(norm.left, before)


def test_a_copied_state_computes_the_same() -> None:
    made, other = network(spectral_norm=[2, 3]), network(spectral_norm=[2, 3])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    made(frames())
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(made(frames()), other(frames()))
