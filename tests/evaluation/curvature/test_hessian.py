"""The Hessian against the matrix itself, its spectrum against all eigenvalues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evaluation.curvature.hessian import Hessian, Problem, Scaled, Spectrum, flat, is_symmetric, spectrum

SAMPLES = 30


def problem(items: int = SAMPLES) -> tuple[Problem, Tensor, Tensor]:
    """A small network in fp64 and its squared error."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(SAMPLES, n, generator=generator, dtype=torch.float64) for n in (3, 2))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return Problem(network, lambda rows: (network(x[rows]) - y[rows]).square().sum(), SAMPLES, items), x, y


def whole(one: Problem, x: Tensor, y: Tensor) -> Tensor:
    """The matrix by torch."""
    shapes = [parameter.shape for parameter in one.parameters]

    def loss(vector: Tensor) -> Tensor:
        a, b, c, d = (
            part.view(shape)
            for part, shape in zip(vector.split([shape.numel() for shape in shapes]), shapes, strict=True)
        )
        return ((torch.tanh(x @ a.T + b) @ c.T + d - y).square().sum()) / one.items

    found: Tensor = torch.autograd.functional.hessian(loss, flat(one.parameters).detach())
    return found


@pytest.mark.parametrize("at_once", [512, 7, [20, 10]])
def test_products_are_those_of_the_matrix(at_once: int | list[int]) -> None:
    """Also where the samples need several passes, of unequal size; the mean is over items, not samples."""
    one, x, y = problem(items=90)
    one = replace(one, at_once=at_once)
    matrix, operator = whole(one, x, y), Hessian(one)
    for seed in range(3):
        vector = torch.randn(len(matrix), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(operator @ vector, matrix @ vector)


def test_the_outermost_ritz_values_are_the_extreme_eigenvalues() -> None:
    one, x, y = problem()
    exact = torch.linalg.eigvalsh(whole(one, x, y))
    found = spectrum(Hessian(one), 20, seed=3)
    assert max(found.values) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert min(found.values) == pytest.approx(float(exact[0]), rel=1e-3)
    assert sum(found.weights) == pytest.approx(1.0)
    # The density's mean is the trace over the size, up to what a random vector differs.
    means = []
    for seed in range(200):
        one_of = spectrum(Hessian(one), 8, seed)
        means.append(sum(w * v for w, v in zip(one_of.weights, one_of.values, strict=True)))
    assert sum(means) / len(means) == pytest.approx(float(exact.mean()), rel=0.1)


def test_it_draws_nothing_from_the_global_generator() -> None:
    one, _, _ = problem()
    before = torch.random.get_rng_state()
    assert spectrum(Hessian(one), 5, seed=3) == spectrum(Hessian(one), 5, seed=3)
    assert spectrum(Hessian(one), 5, seed=3) != spectrum(Hessian(one), 5, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_diagonal_on_both_sides() -> None:
    one, x, y = problem()
    diagonal = torch.linspace(0.5, 2, len(whole(one, x, y)), dtype=torch.float64)
    matrix = diagonal[:, None] * whole(one, x, y) * diagonal
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    assert max(spectrum(Scaled(Hessian(one), diagonal), 20, seed=0).values) == pytest.approx(exact, rel=1e-6)


def test_a_loss_that_has_overflowed_has_no_spectrum() -> None:
    one, _, _ = problem()
    with torch.no_grad():
        one.parameters[0].fill_(float("nan"))
    assert spectrum(Hessian(one), 5, seed=0).values == []


def test_parameters_that_the_loss_does_not_know() -> None:
    network = nn.Linear(2, 1, bias=False)
    network.unused = nn.Parameter(torch.ones(3))
    one = Problem(network, lambda rows: network.weight.square().sum() * len(rows), 4, 4)
    assert (Hessian(one) @ torch.ones(5)).tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]


def test_a_space_that_is_exhausted_early() -> None:
    """Of zeros, and of few different eigenvalues: their weights are their shares of the start."""
    network = nn.Linear(2, 1, bias=False)
    one = Problem(network, lambda rows: 0 * network.weight.square().sum(), 4, 4)
    assert spectrum(Hessian(one), 2, seed=0) == Spectrum([0.0], [1.0])
    two = nn.Linear(40, 1, bias=False)
    d = torch.tensor([1.0] * 30 + [5.0] * 10)
    found = spectrum(Hessian(Problem(two, lambda rows: (d * two.weight.square()).sum() / 2, 1, 1)), 30, seed=0)
    assert found.values == pytest.approx([1.0, 5.0], rel=1e-5)
    start = torch.randn(40, generator=torch.Generator().manual_seed(0)).square()
    assert found.weights == pytest.approx(
        [float(start[:30].sum() / start.sum()), float(start[30:].sum() / start.sum())], rel=1e-4
    )


def test_a_loss_that_is_differentiable_once_is_refused() -> None:
    """Its second derivatives would count as 0."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(2 * x)
            return x.square()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (by_x,) = ctx.saved_tensors
            return gradient * by_x

    network = nn.Linear(2, 1, bias=False)
    one = Problem(network, lambda rows: Square.apply(network.weight).sum(), 4, 4)
    with pytest.raises(RuntimeError, match="differentiable only once"):
        Hessian(one)
    # In the middle of a network the gradient still depends on what comes behind: it is the symmetry that is lost.
    torch.manual_seed(0)
    first, last, x = nn.Linear(3, 4), nn.Linear(4, 2), torch.randn(8, 3)
    whole = nn.Sequential(first, last)
    middle = Problem(whole, lambda rows: last(Square.apply(first(x[rows]))).square().sum(), 8, 8)
    assert not is_symmetric(Hessian(middle), seed=0)
    right = Problem(whole, lambda rows: last(first(x[rows]).square()).square().sum(), 8, 8)
    assert is_symmetric(Hessian(right), seed=0)


def test_attention_is_differentiated_twice() -> None:
    """Whose fused kernels are not."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True).double()
    x = torch.randn(6, 5, 8, dtype=torch.float64)
    one = Problem(layer, lambda rows: layer(x[rows]).square().sum(), 6, 6)
    vector = torch.randn(Hessian(one).shape[0], dtype=torch.float64)

    def gradient(parameters: Iterable[Tensor]) -> Tensor:
        named = dict(zip((name for name, _ in layer.named_parameters()), parameters, strict=True))
        out = torch.func.functional_call(layer, named, (x,))
        return flat(torch.autograd.grad(out.square().sum() / 6, list(named.values())))

    step, sizes = 1e-5, [parameter.numel() for parameter in one.parameters]
    parts = [part.view_as(p) for part, p in zip(vector.split(sizes), one.parameters, strict=True)]
    ends = [
        gradient([(p.detach() + sign * step * v).requires_grad_() for p, v in zip(one.parameters, parts, strict=True)])
        for sign in (1, -1)
    ]
    torch.testing.assert_close(Hessian(one) @ vector, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)
