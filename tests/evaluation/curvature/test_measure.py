"""Looks at a loss: what is reported, what is written, and that nothing else changes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from asgc import ASGC, optimizers
from evaluation.curvature import measure
from evaluation.curvature.hessian import Problem
from evaluation.curvature.measure import Curvature, by_filter, denominators_of, read, slice_along
from evaluation.curvature.options import CurvatureConfig


def quadratic(diagonal: list[float]) -> tuple[nn.Module, Problem]:
    """Half the sum of d_i w_i^2, at w = 1: its Hessian is the diagonal."""
    network = nn.Module()
    network.w = nn.Parameter(torch.ones(len(diagonal)))
    d = torch.tensor(diagonal)
    return network, Problem(network, lambda rows: (d * network.w.square()).sum() / 2 * len(rows), 4, 4)


def test_a_quadratic_is_seen_as_it_is(tmp_path: Path) -> None:
    network, problem = quadratic([1.0, 2.0, 5.0, 0.5])
    opt = torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.9, 0.5), eps=1e-3)
    opt.state[network.w].update(
        step=torch.tensor(1.0), exp_avg=torch.zeros(4), exp_avg_sq=torch.tensor([2.0, 8.0, 0.5, 0.5])
    )
    weights, rng = network.w.detach().clone(), torch.random.get_rng_state()
    values = Curvature(CurvatureConfig(every=1), tmp_path, seed=3).look(1200, problem, opt)
    assert values["loss"] == pytest.approx(4.25)
    assert values["hessian_max"] == pytest.approx(5.0, rel=1e-4)
    assert values["hessian_min"] == pytest.approx(0.5, rel=1e-3)
    g = torch.tensor([1.0, 2.0, 5.0, 0.5])
    assert values["gradient_curvature"] == pytest.approx(float((g**3).sum() / (g**2).sum()), rel=1e-5)
    denominators = torch.tensor([4.0, 16.0, 1.0, 1.0]).sqrt() + 1e-3  # the bias of 1 - 0.5 corrected
    assert values["preconditioned_max"] == pytest.approx(float((g / denominators).max()), rel=1e-4)
    assert torch.equal(network.w, weights)
    assert network.w.grad is None
    assert torch.equal(rng, torch.random.get_rng_state())
    (written,) = read(tmp_path)
    assert written["step"] == 1200
    middle = written["slices"]["random"][len(measure.PLACES) // 2]
    assert middle == pytest.approx(4.25)
    again = Curvature(CurvatureConfig(every=1), tmp_path, seed=3).look(1200, problem, opt)
    assert again == values


def test_slices_go_as_far_as_the_weights_are_long() -> None:
    _, problem = quadratic([2.0, 2.0])
    (direction,) = by_filter(problem, [torch.tensor([30.0, 40.0])])
    assert direction.norm() == pytest.approx(math.sqrt(2))
    values = slice_along(problem, [direction])
    far = torch.ones(2) + measure.PLACES[-1] * direction
    assert values[-1] == pytest.approx(float((2 * far.square()).sum() / 2))
    assert min(values) < values[len(measure.PLACES) // 2] < values[-1]


def test_filters_are_scaled_one_by_one_and_no_direction_stays_none() -> None:
    network = nn.Linear(2, 2, bias=True)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        network.bias.copy_(torch.tensor([0.0, 2.0]))
    problem = Problem(network, lambda rows: network.weight.sum(), 1, 1)
    weight, bias = by_filter(problem, [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 0.0])])
    assert weight.tolist() == [[5.0, 0.0], [0.0, 0.0]]
    assert bias.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("name", optimizers.names())
def test_denominators_are_those_that_a_step_divides_by(name: str) -> None:
    """By what a step does, after some at other scales; or there are none."""
    network, problem = quadratic([1.0, 3.0, 0.2, 7.0])
    options = {"betas": (0.0, 0.9)} if "betas" in optimizers.options(name) and "soap" not in name else {}
    if name in ("asgc", "asgc-clip", "asgc-noise", "adagc"):
        options = {"rule": "rmsprop", "centered": True, "alpha": 0.9}
    options |= {"weight_decay": 0.0} if "weight_decay" in optimizers.options(name) else {}
    opt = optimizers.build(name, network.parameters(), lr=0.1, **options)
    for t in range(30):
        network.w.grad = torch.randn(4, generator=torch.Generator().manual_seed(t)) * (10 if t < 5 else 1)
        before, grad = network.w.detach().clone(), network.w.grad.clone()
        seen = next((one.seen.clone() for one in opt.preview()), grad) if hasattr(opt, "preview") else grad
        opt.step()
    denominators = denominators_of(opt, problem)
    known = {"asgc", "asgc-clip", "asgc-noise", "adagc", *_OF_TORCH, *(f"{rule}+clip" for rule in _OF_TORCH)}
    if name in known - {"sgd", "sgd+clip", "radam", "radam+clip"}:
        assert denominators is not None
        torch.testing.assert_close(before - network.w.detach(), 0.1 * seen / denominators[0], rtol=1e-3, atol=1e-6)
    elif denominators is not None:  # a kin of Adam with moments of its own
        assert optimizers.info(name).rule in (None, "adam", "adamw", "rmsprop", "adagrad")


_OF_TORCH = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "radam")


def test_denominators_with_an_eps_in_deviations() -> None:
    for name, options in (("adam", {"betas": (0.0, 0.999)}), ("rmsprop", {}), ("adagrad", {})):
        network, problem = quadratic([1.0, 3.0])
        opt = ASGC(
            network.parameters(), 0.1, rule=name, clip_factor=math.inf, noise_scale=0.0, eps_scale=0.5, **options
        )
        grad = torch.tensor([1.0, 3.0])
        network.w.grad = grad.clone()
        before = network.w.detach().clone()
        opt.step()
        denominators = denominators_of(opt, problem)
        assert denominators is not None
        torch.testing.assert_close(before - network.w.detach(), 0.1 * grad / denominators[0], rtol=1e-4, atol=0)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    assert denominators_of(sgd, problem) is None


def test_a_loss_that_is_not_finite_is_not_looked_at(tmp_path: Path) -> None:
    network, problem = quadratic([1.0, 2.0])
    with torch.no_grad():
        network.w.fill_(math.inf)
    opt = torch.optim.SGD(network.parameters(), lr=0.1)
    assert Curvature(CurvatureConfig(every=1), tmp_path, 0).look(1, problem, opt) == {}
    assert read(tmp_path) == []


def test_what_cannot_be_looked_at_is_said_and_training_goes_on(tmp_path: Path) -> None:
    network, problem = quadratic([1.0, 2.0])

    def fails(rows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 105 GiB")

    said: list[str] = []
    looks = Curvature(CurvatureConfig(every=1), tmp_path, 0, said.append)
    assert looks.look(7, replace(problem, loss=fails), torch.optim.SGD(network.parameters(), lr=0.1)) == {}
    assert said == [
        "curvature at step 7: not looked at (CUDA out of memory. Tried to allocate 105 GiB); see --curvature.samples"
    ]


def test_it_can_be_left_between_products(tmp_path: Path) -> None:
    network, problem = quadratic([1.0, 2.0, 3.0, 4.0])
    seen: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    looks = Curvature(CurvatureConfig(every=1, vectors=4), tmp_path, 0, tell=tell)
    with pytest.raises(KeyboardInterrupt):
        looks.look(7, problem, torch.optim.SGD(network.parameters(), lr=0.1))
    assert seen == [(0, 11), (1, 11), (2, 11), (3, 11)]


def test_a_parameter_of_no_elements() -> None:
    network, problem = quadratic([1.0])
    network.empty = nn.Parameter(torch.zeros(0, 3))
    directions = by_filter(problem, [torch.ones(1), torch.zeros(0, 3)])
    assert [tuple(one.shape) for one in directions] == [(1,), (0, 3)]


def test_when_it_looks(tmp_path: Path) -> None:
    looks = Curvature(CurvatureConfig(every=3), tmp_path, 0)
    assert [k for k in range(8) if looks.due(k, final=k == 7)] == [0, 3, 6, 7]
    assert not any(Curvature(CurvatureConfig(), tmp_path, 0).due(k, final=True) for k in range(3))
