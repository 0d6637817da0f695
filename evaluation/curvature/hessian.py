"""The Hessian of a training loss: extreme eigenvalues and spectral density by Lanczos' method.

Written out here, as curvlinops cannot be required: it brings a torchvision, which must match the torch that it was
built for. (Its products make each forward pass anew, under vmap and forward-mode derivatives: 41 ms against 6 here in a
small MLP on 512 samples, 351 against 286 in a small CNN.)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

AT_ONCE = 512  # samples of a pass, where nobody says otherwise


@dataclass(frozen=True)
class Problem:
    """A loss on fixed samples as a function of a network's parameters.

    Attributes:
        network: whose parameters that have gradients it is a function of; in the mode that it is to be looked at in.
        loss: sum of the losses of the samples with these numbers, (n,) int64, differentiable twice; each the same at
            every call. It runs `network`, whose parameters may have been replaced for the call.
        samples: how many there are.
        items: what the loss is the mean over (samples, target tokens).
        at_once: samples of each pass, or of all of them one by one. If one pass takes all, its graph is kept from
            product to product.
    """

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    samples: int
    items: int
    at_once: int | list[int] = AT_ONCE

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def chunks(self) -> Iterator[Tensor]:
        """The numbers of all samples, a pass's at a time."""
        device = self.parameters[0].device
        yield from torch.arange(self.samples, device=device).split(self.at_once)

    @torch.no_grad()
    def value(self) -> float:
        """The mean loss."""
        return float(sum(self.loss(rows).double() for rows in self.chunks())) / self.items

    def gradient(self) -> list[Tensor]:
        """Of the mean loss, by parameter."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for rows in self.chunks():
            grads = torch.autograd.grad(self.loss(rows) / self.items, self.parameters, materialize_grads=True)
            total = [a + b for a, b in zip(total, grads, strict=True)]
        return total


@dataclass(frozen=True)
class Spectrum:
    """Ritz values of the Lanczos iterations and their weights, which sum to 1: the spectral density as a sum of
    deltas (Papyan 2020, JMLR 21, section 3; Ghorbani et al. 2019, arXiv 1901.10159)."""

    values: list[float]
    weights: list[float]


class Operator(Protocol):
    """A symmetric matrix that vectors (n,) of all parameters are multiplied by."""

    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype

    def __matmul__(self, vector: Tensor) -> Tensor: ...


class Hessian:
    """That of a problem's mean loss, at the parameters that it was made with.

    Args:
        tell: called before each product.

    Raises:
        RuntimeError: the loss has no second derivative.
    """

    def __init__(self, problem: Problem, tell: Callable[[], None] = lambda: None) -> None:
        self._problem, self._parameters, self._tell = problem, problem.parameters, tell
        size = sum(parameter.numel() for parameter in self._parameters)
        self.shape = (size, size)
        self.device, self.dtype = self._parameters[0].device, self._parameters[0].dtype
        self._kept = [self._gradient(rows) for rows in problem.chunks()] if len([*problem.chunks()]) == 1 else None

    def __matmul__(self, vector: Tensor) -> Tensor:
        along = [
            part.view_as(parameter)
            for part, parameter in zip(
                vector.split([one.numel() for one in self._parameters]), self._parameters, strict=True
            )
        ]
        self._tell()
        total = torch.zeros_like(vector)
        for gradient in self._kept or map(self._gradient, self._problem.chunks()):
            found = torch.autograd.grad(
                gradient, self._parameters, along, retain_graph=self._kept is not None, materialize_grads=True
            )
            total += flat(found)
        return total

    def _gradient(self, rows: Tensor) -> list[Tensor]:
        with math_attention():
            loss = self._problem.loss(rows) / self._problem.items
            found = torch.autograd.grad(loss, self._parameters, create_graph=True, materialize_grads=True)
        for one in found:
            if not one.requires_grad and bool(one.any()):  # it would count as constant, silently
                raise RuntimeError("the loss is differentiable only once")
        return [one if one.requires_grad else one + 0 * loss for one in found]  # a loss that does not know a parameter


class Scaled:
    """S operator S with a diagonal S, (n,)."""

    def __init__(self, operator: Operator, diagonal: Tensor) -> None:
        self._operator, self._diagonal = operator, diagonal
        self.shape, self.device, self.dtype = operator.shape, operator.device, operator.dtype

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self._diagonal * (self._operator @ (self._diagonal * vector))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """By parameter -> (n,)."""
    return torch.cat([one.flatten() for one in tensors])


def is_symmetric(operator: Operator, seed: int, tolerance: float = 1e-3) -> bool:
    """Whether u' H v = v' H u for two random vectors, which no matrix of wrong second derivatives is likely to keep: of
    a function that is differentiable once, say, somewhere in the middle of a network."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(operator.shape[0], generator=generator).to(operator.device, operator.dtype) for _ in range(2))
    along, across = operator @ v, operator @ u
    one, other = float(u.double() @ along.double()), float(v.double() @ across.double())
    size = float(along.double().norm() * u.double().norm() + across.double().norm() * v.double().norm())
    return not abs(one - other) > tolerance * size / operator.shape[0] ** 0.5


def spectrum(operator: Operator, vectors: int, seed: int) -> Spectrum:
    """Ritz values of one Lanczos iteration of `vectors` steps from a random start, fewer where its space is exhausted
    (Papyan 2020, algorithm 2); none where it met a number that is not finite. The outermost of them converge to the
    extreme eigenvalues first."""
    size = operator.shape[0]
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(operator.device, operator.dtype)
    v, before, beta = v / v.norm(), torch.zeros_like(v), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    for _ in range(min(vectors, size)):
        w = operator @ v - beta * before
        alphas.append(float(w.double() @ v.double()))
        w = w - alphas[-1] * v
        beta = float(w.double().norm())
        if not math.isfinite(alphas[-1] + beta):
            return Spectrum([], [])
        if beta <= 1e-6 * max(map(abs, [*alphas, *betas])):
            break
        betas.append(beta)
        before, v = v, w / beta
    off = torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(alphas, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, basis = torch.linalg.eigh(matrix)
    return Spectrum(values.tolist(), basis[0].square().tolist())


@contextlib.contextmanager
def math_attention() -> Iterator[None]:
    """Attention by products of matrices: the fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
