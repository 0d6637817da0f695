"""Properties of the smooth clip phi_p(x; tau) = x (1 + |x/tau|^p)^(-1/p)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asgc import functional

INF = math.inf
values = st.floats(-1e30, 1e30, allow_nan=False)
thresholds = st.floats(0, 1e30) | st.sampled_from([0.0, INF])
exponents = st.floats(0.5, 64.0) | st.just(INF)


def phi(x: float, tau: float, p: float) -> float:
    return functional.clip(torch.tensor([x], dtype=torch.float64), tau, p).item()


@settings(deadline=None, max_examples=200)
@given(values, thresholds, exponents)
def test_bounded_odd_and_toward_zero(x: float, tau: float, p: float) -> None:
    y = phi(x, tau, p)
    assert abs(y) <= min(abs(x), tau) * (1 + 1e-15)
    assert phi(-x, tau, p) == -y
    assert y == 0 or math.copysign(1, y) == math.copysign(1, x)


@settings(deadline=None, max_examples=200)
@given(values, values, thresholds, exponents)
def test_monotone_in_x(x: float, other: float, tau: float, p: float) -> None:
    low, high = sorted((x, other))
    assert phi(low, tau, p) <= phi(high, tau, p) + 1e-14 * abs(phi(high, tau, p))


@settings(deadline=None, max_examples=200)
@given(values, st.floats(2.0**-100, 1e30), st.floats(0.5, 16.0))
def test_equals_the_plain_formula_where_that_does_not_overflow(x: float, tau: float, p: float) -> None:
    ratio = abs(x / tau)
    if ratio**p < 1e300 if ratio < 1e15 else False:
        assert phi(x, tau, p) == pytest.approx(x * (1 + ratio**p) ** (-1 / p), rel=1e-12, abs=1e-300)


@settings(deadline=None, max_examples=100)
@given(values, st.floats(0, 1e30))
def test_infinite_sharpness_is_the_hard_clip(x: float, tau: float) -> None:
    assert phi(x, tau, INF) == max(-tau, min(tau, x))
    assert functional.clip(torch.tensor(x, dtype=torch.float64), tau, torch.tensor(INF)).item() == phi(x, tau, INF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [1.0, 4.0, INF])
def test_limits(dtype: torch.dtype, p: float) -> None:
    x = torch.tensor([0.0, 1e30, -1e30, INF, -INF, 1e-30], dtype=dtype)
    assert functional.clip(x, 2.0, p)[:5].tolist() == pytest.approx([0, 2, -2, 2, -2])
    assert functional.clip(x, 0.0, p).tolist() == [0] * 6
    assert torch.equal(functional.clip(x, INF, p), x)
    assert functional.clip(torch.tensor(math.nan), 2.0, p).isnan()
    assert functional.clip(x, 2.0, p).dtype == dtype
    small = torch.tensor([1e-30], dtype=dtype)
    assert torch.equal(functional.clip(small, 1.0, p), small)


def test_one_sigma_keeps_its_size() -> None:
    assert phi(1.0, 3.0, 4.0) == pytest.approx(0.997, abs=5e-4)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0, 7.5])
def test_gradients_in_x_tau_and_sharpness(p: float) -> None:
    x = torch.tensor([-3.0, -1.1, -0.4, 0.3, 1.3, 40.0], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    sharpness = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functional.clip, (x, tau, sharpness))
    radius = torch.tensor([0.1, 1.1, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functional.shrinkage, (radius, tau, sharpness))


@settings(deadline=None, max_examples=25)
@given(st.floats(-10, 10), st.floats(0.01, 10), st.floats(1.0, 12.0))
def test_gradcheck_anywhere(x: float, tau: float, p: float) -> None:
    if p < 2 and abs(x) < 1e-3:
        return  # |x|^p has an unbounded second derivative at 0: finite differences are wrong there
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, tau, p)]
    assert torch.autograd.gradcheck(functional.clip, inputs)


@pytest.mark.parametrize("p", [1.5, 4.0, INF])
def test_gradients_stay_finite_at_the_limits(p: float) -> None:
    x = torch.tensor([0.0, 1e30, INF, 1.0], requires_grad=True)
    for tau in (0.0, 1.0, 1e30, INF):
        if tau == INF:
            x = x[:2].detach().requires_grad_()  # inf stays inf there
        t = torch.tensor(tau, requires_grad=True)
        s = torch.tensor(p, requires_grad=True)
        out = functional.clip(x, t, s)
        grads = torch.autograd.grad(torch.where(torch.isfinite(out), out, 0.0).sum(), (x, t, s))
        assert all(torch.isfinite(g).all() for g in grads), (tau, grads)
    (slope,) = torch.autograd.grad(functional.clip(x, 1.0, p)[0], x)  # phi'(0) = 1
    assert slope[0] == 1


def test_shrinkage_is_phi_over_r_with_its_limit_at_zero() -> None:
    r = torch.tensor([0.0, 0.5, 5.0, 1e30, INF], dtype=torch.float64)
    expected = [1.0, *(functional.clip(r[1:4], 2.0, 4.0) / r[1:4]).tolist(), 0.0]
    assert functional.shrinkage(r, 2.0, 4.0).tolist() == pytest.approx(expected)
    assert functional.shrinkage(r[:1], 0.0, 4.0).item() == 0
    assert functional.shrinkage(r, INF, 4.0)[:4].tolist() == [1, 1, 1, 1]
