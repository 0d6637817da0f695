"""Peers that scale whole gradients, and ADOPT: each against its formula written down once more in NumPy."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asgc import optimizers
from asgc.clips import Clipped
from asgc.scaling import DivGrad, GradientStabilizer, ObGD
from asgc.singular import first_vector, iterate
from tests.asgc.test_peers import Arrays, follow, gradients, parameters


def test_gradient_stabilizer_gives_each_tensor_a_running_norm() -> None:
    m, v = [0.0] * 6, [0.0] * 6

    def formula(step: int, __: Arrays, grads: Arrays) -> Arrays:
        result = []
        for i, g in enumerate(grads):
            norm = math.sqrt(float((g**2).sum()))
            m[i], v[i] = 0.6 * m[i] + 0.4 * norm, 0.8 * v[i] + 0.2 * norm**2
            mean, square = m[i] / (1 - 0.6 ** (step + 1)), v[i] / (1 - 0.8 ** (step + 1))
            result.append(g / norm * mean / (math.sqrt(square) + 1e-8))
        return result

    follow(GradientStabilizer(norm_decay=0.6, square_decay=0.8), formula)


def test_a_spike_does_not_pass_gradient_stabilizer_nor_does_the_scale() -> None:
    param = torch.zeros(4)
    opt = Clipped(torch.optim.SGD([param], lr=1.0), GradientStabilizer())
    sizes = []
    for factor in (1.0, 1.0, 1e6, 1.0, 0.0):
        before = param.clone()
        param.grad = torch.ones(4) * factor
        opt.step()
        sizes.append(float((param - before).norm()))
    assert max(sizes) < 1.01
    assert sizes[-1] == 0  # nothing to scale


def test_divgrad_divides_by_the_product_of_the_hidden_layers_singular_values() -> None:
    vectors: dict[int, Any] = {}

    def formula(_: int, weights: Arrays, grads: Arrays) -> Arrays:
        product = 1.0
        for i, w in enumerate(weights):
            if w.ndim < 2 or i >= 4:  # biases; the head
                continue
            matrix = w.reshape(len(w), -1)
            for _ in range(1 if i in vectors else 10):
                start = vectors[i] if i in vectors else first[i]
                vectors[i] = matrix.T @ (matrix @ start)
                vectors[i] = vectors[i] / np.linalg.norm(vectors[i])
            product *= float(np.linalg.norm(matrix @ vectors[i]))
        return [g / product for g in grads]

    from asgc.noise import noise_like

    first = {
        i: noise_like(torch.empty(p[0].numel()), 0, 0, i).double().numpy()
        for i, p in enumerate(parameters()[:3])
        if p.dim() >= 2
    }
    follow(DivGrad(), formula)


def test_divgrad_leaves_out_layers_that_are_zero() -> None:
    params = [torch.zeros(3, 3), torch.full((3, 3), 2.0), torch.ones(2, 3)]
    opt = Clipped(torch.optim.SGD(params, lr=0.0), DivGrad())
    for param in params:
        param.grad = torch.ones_like(param)
    opt.step()
    torch.testing.assert_close(params[2].grad, torch.full((2, 3), 1 / 6.0))  # the second layer's singular value


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 1000))
def test_the_power_method_finds_the_largest_singular_value(rows: int, columns: int, seed: int) -> None:
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    vector = first_vector(weights, 0)
    for _ in range(300):
        value, vector = iterate(weights, vector)
    assert float(value) == pytest.approx(float(torch.linalg.matrix_norm(weights, 2)), rel=0.02)


def test_obgd_bounds_the_reach_of_all_gradients_together() -> None:
    def formula(_: int, __: Arrays, grads: Arrays) -> Arrays:
        total = sum(float(np.abs(g).sum()) for g in grads)
        return [g / max(1.0, 3.0 * 0.003 * total) for g in grads]

    follow(ObGD(kappa=3.0), formula)


@given(
    inputs=st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    target=st.floats(-1e6, 1e6),
    kappa=st.floats(1, 5),
    lr=st.floats(1e-3, 1e3),
)
def test_obgd_changes_a_linear_model_by_no_more_than_its_bound(
    inputs: list[float], target: float, kappa: float, lr: float
) -> None:
    x = torch.tensor(inputs, dtype=torch.float64)
    w = torch.zeros_like(x, requires_grad=True)
    opt = optimizers.build("obgd", [w], lr=lr, rule="sgd", kappa=kappa)
    (0.5 * (w @ x - target) ** 2).backward()  # type: ignore[no-untyped-call]
    opt.step()
    assert abs(float(w.detach() @ x)) <= 1 / kappa * (1 + 1e-9)


def test_obgd_takes_the_learning_rate_of_each_group() -> None:
    params = [torch.zeros(2), torch.zeros(2)]
    groups = [{"params": [params[0]], "lr": 1.0}, {"params": [params[1]], "lr": 0.0}]
    opt = optimizers.build("obgd", groups, lr=0.5, rule="sgd", kappa=2.0)
    for param in params:
        param.grad = torch.ones(2)
    opt.step()
    torch.testing.assert_close(params[0], torch.full((2,), -0.25))  # 1 / (2 * 1 * 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.8, 0.95), "eps": 0.5, "maximize": True},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    ids=str,
)
def test_adopt_is_its_formula(options: dict[str, Any]) -> None:
    params = [p.double() for p in parameters()]
    opt = optimizers.build("adopt", params, lr=0.01, **options)
    o = {**optimizers.defaults("adopt"), **options}
    assert o["betas"] == options.get("betas", (0.9, 0.9999))
    weights = [p.numpy().copy() for p in params]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    clipped = 0
    for step in range(15):
        for i, (param, grad) in enumerate(zip(params, gradients(step), strict=True)):
            param.grad = grad.double()
            g = param.grad.numpy() * (-1 if o["maximize"] else 1)
            if not o["decoupled_weight_decay"]:
                g = g + o["weight_decay"] * weights[i]
            if step == 0:
                v[i] = g * g
                continue
            if o["decoupled_weight_decay"]:
                weights[i] = weights[i] * (1 - 0.01 * o["weight_decay"])
            scaled = g / np.maximum(np.sqrt(v[i]), o["eps"])
            clipped += int((np.abs(scaled) > step**0.25).sum())
            m[i] = o["betas"][0] * m[i] + (1 - o["betas"][0]) * np.clip(scaled, -(step**0.25), step**0.25)
            weights[i] = weights[i] - 0.01 * m[i]
            v[i] = o["betas"][1] * v[i] + (1 - o["betas"][1]) * g * g
        opt.step()
        for param, weight in zip(params, weights, strict=True):
            np.testing.assert_allclose(param.numpy(), weight, rtol=1e-9, atol=1e-12)
    assert clipped > 20


def test_adopt_goes_on_from_a_saved_state_and_evaluates_a_closure() -> None:
    params = parameters()
    opt = optimizers.build("adopt+clip", params, lr=0.01, max_norm=1.0)
    twin_params, twin = params, opt
    for step in range(8):
        if step == 4:
            twin_params = [p.clone() for p in params]
            twin = optimizers.build("adopt+clip", twin_params, lr=0.01, max_norm=1.0)
            twin.load_state_dict(copy.deepcopy(opt.state_dict()))
        for these, one in [(params, opt), (twin_params, twin)][: 1 if twin is opt else 2]:
            for param, grad in zip(these, gradients(step), strict=True):
                param.grad = grad.clone()
            assert one.step(lambda: 3.0) == 3.0
    assert all(torch.equal(a, b) for a, b in zip(params, twin_params, strict=True))
