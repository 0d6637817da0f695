"""A small real problem, optimizers for it, and what a test of training needs."""

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asgc import ASGC, wrap

# Names for `build`: ASGC by its implementation, and the transform in front of torch's own Adam.
OPTIMIZERS = ("reference", "foreach", "cpu", "wrap")


def build(name: str, params: Any, lr: float | Tensor = 2.0**-6, **options: Any) -> Any:
    if name == "wrap":
        return wrap(torch.optim.Adam(params, lr=lr, foreach=False), **options)
    return ASGC(params, lr, implementation=name, **options)


def model(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16, bias=bias), nn.Tanh(), nn.Linear(16, 1, bias=bias))


def batch(seed: int = 0, size: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return x, torch.tanh(x[:, :2].sum(1, keepdim=True)) + 0.5 * x[:, 2:3]


def loss_of(net: nn.Module, seed: int = 0) -> Tensor:
    x, y = batch(seed)
    return nn.functional.mse_loss(net(x), y)


def train(net: nn.Module, opt: Optimizer, steps: int, start: int = 0, create_graph: bool = False) -> list[float]:
    losses = []
    for t in range(start, start + steps):
        opt.zero_grad()
        loss = loss_of(net, t)
        loss.backward(create_graph=create_graph)
        opt.step()
        losses.append(loss.item())
    return losses


def assert_falls(losses: list[float], factor: float = 0.5) -> None:
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < factor * first, (first, last)


def bits(tree: Any) -> list[Tensor]:
    """Copies of all tensors and numbers in a state, in order."""
    if isinstance(tree, Tensor):
        return [tree.detach().clone()]
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree, key=str) for leaf in bits(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in bits(item)]
    return [torch.tensor(float(tree), dtype=torch.float64)] if isinstance(tree, int | float) else []


def assert_same_bits(a: Any, b: Any) -> None:
    left, right = bits(a), bits(b)
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x.nan_to_num(), y.nan_to_num())


def assert_resumes(make: Callable[[Any], Optimizer], net: nn.Module, **training: Any) -> None:
    """From a file, and to the last bit: 4 steps, save, 4 more steps; load into new objects, the same 4 steps."""
    opt = make(net.parameters())
    train(net, opt, 4, **training)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "random": torch.get_rng_state()}, file)
    other_net = copy.deepcopy(net)
    train(net, opt, 4, start=4, **training)
    file.seek(0)
    saved = torch.load(file)
    for param in other_net.parameters():
        nn.init.zeros_(param)
        param.grad = None
    other_net.load_state_dict(saved["net"])
    other = make(other_net.parameters())
    other.load_state_dict(saved["opt"])
    torch.set_rng_state(saved["random"])  # for optimizers with noise of their own
    train(other_net, other, 4, start=4, **training)
    assert_same_bits(other_net.state_dict(), net.state_dict())
    assert_same_bits(other.state_dict(), opt.state_dict())
