"""The meaning of outputs against the papers' formulas, one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.algorithms.heads import Categorical, ExpectedValue, Quantiles, make_head
from rl.option_groups import HeadConfig

CPU = torch.device("cpu")


def projected(probabilities: list[float], reward: float, discount: float, v_min: float, v_max: float) -> list[float]:
    """Algorithm 1 of Bellemare et al. (2017), an atom at a time."""
    atoms = len(probabilities)
    distance = (v_max - v_min) / (atoms - 1)
    m = [0.0] * atoms
    for j in range(atoms):
        moved = min(max(reward + discount * (v_min + j * distance), v_min), v_max)
        b = (moved - v_min) / distance
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:  # the algorithm as printed would lose this atom's mass
            m[min(lower, atoms - 1)] += probabilities[j]
        else:
            m[lower] += probabilities[j] * (upper - b)
            m[min(upper, atoms - 1)] += probabilities[j] * (b - lower)
    return m


@settings(max_examples=60, deadline=None)
@given(
    atoms=st.integers(2, 12),
    rewards=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=4),
    discount=st.sampled_from([0.0, 0.5, 0.970299, 1.0]),
    seed=st.integers(0, 2**31 - 1),
    v_min=st.floats(-20, 5, width=32),
    size=st.floats(0.5, 30, width=32),
)
@example(atoms=5, rewards=[0.0, 2.0, -2.0], discount=1.0, seed=0, v_min=-4.0, size=8.0)  # from atom to atom
@example(atoms=5, rewards=[100.0, -100.0], discount=0.9, seed=0, v_min=-4.0, size=8.0)  # all of it clipped
@example(atoms=51, rewards=[0.3, 10.0, -10.0], discount=0.0, seed=0, v_min=-10.0, size=20.0)  # terminal
def test_c51_projects_as_in_the_paper_and_keeps_all_mass(
    atoms: int, rewards: list[float], discount: float, seed: int, v_min: float, size: float
) -> None:
    head = Categorical(v_min, v_min + size, atoms, CPU)
    generator = torch.Generator().manual_seed(seed)
    output = 3 * torch.randn(len(rewards), 3, atoms, generator=generator)
    action = torch.randint(0, 3, (len(rewards), 1), generator=generator)
    target = head.target(output, action, torch.tensor(rewards), torch.full((len(rewards),), discount))
    assert target.dtype == torch.float32
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(len(rewards)), rtol=0, atol=1e-5)
    for i, reward in enumerate(rewards):
        next_distribution = torch.softmax(output[i, action[i, 0]].double(), 0).tolist()
        expected = projected(next_distribution, reward, discount, v_min, v_min + size)
        assert target[i].tolist() == pytest.approx(expected, abs=2e-4)  # float32 near an atom
        if discount == 0:  # a point: its mean is the reward, clipped to the range
            mean = float(target[i].double() @ torch.linspace(v_min, v_min + size, atoms).double())
            assert mean == pytest.approx(min(max(reward, v_min), v_min + size), abs=1e-4)


def test_c51s_values_and_losses_are_those_of_its_distributions() -> None:
    head = Categorical(-1.0, 3.0, 5, CPU)
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(4, 3, 5, generator=generator, requires_grad=True)
    action = torch.tensor([2, 0, 1, 1])
    target = torch.softmax(torch.randn(4, 5, generator=generator), 1)
    target[0] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])  # 0 log 0 is 0
    values, (losses, q) = head.values(output), head.losses(output, action, target)
    assert values.shape == (4, 3)
    assert losses.shape == q.shape == (4,)
    for n in range(4):
        p = np.exp(output[n].detach().double().numpy())
        p /= p.sum(axis=1, keepdims=True)
        for a in range(3):
            assert values[n, a].item() == pytest.approx(sum(p[a, i] * (-1 + i) for i in range(5)), abs=1e-5)
        m, chosen = target[n].tolist(), p[action[n]]
        divergence = sum(m[i] * math.log(m[i] / chosen[i]) for i in range(5) if m[i] > 0)
        assert losses[n].item() == pytest.approx(divergence, abs=1e-5)
        assert q[n].item() == pytest.approx(values[n, action[n]].item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(losses.sum(), output)  # cross-entropy's: p - m, of the chosen action alone
    expected = torch.zeros_like(output)
    for n in range(4):
        expected[n, action[n]] = torch.softmax(output[n, action[n]].detach(), 0) - target[n]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_c51_has_nothing_to_learn_from_what_it_predicts() -> None:
    """The priority of a learned transition is 0, never below."""
    head = Categorical(-10.0, 10.0, 51, CPU)
    output = torch.randn(64, 2, 51, generator=torch.Generator().manual_seed(0))
    action = torch.zeros(64, 1, dtype=torch.int64)
    projected_on_itself = head.target(output, action, torch.zeros(64), torch.ones(64))
    for target in (projected_on_itself, output[:, 0].softmax(1)):
        losses, _ = head.losses(output, action[:, 0], target)
        assert (losses >= 0).all()
        assert losses.max().item() < 1e-4


def test_quantile_loss_is_equation_10_in_two_loops() -> None:
    count, batch = 5, 4
    head = Quantiles(count, CPU)
    generator = torch.Generator().manual_seed(0)
    output = 2 * torch.randn(batch, 3, count, generator=generator)
    next_output = 2 * torch.randn(batch, 3, count, generator=generator)
    action, best = torch.tensor([2, 0, 1, 1]), torch.tensor([[0], [2], [1], [0]])
    reward, discount = torch.tensor([1.0, -0.5, 0.0, 2.0]), torch.tensor([0.9, 0.0, 1.0, 0.5])
    target = head.target(next_output, best, reward, discount)
    losses, q = head.losses(output, action, target)
    small = large = 0
    for n in range(batch):
        expected = 0.0
        for i in range(count):
            theta, tau = output[n, action[n], i].item(), (2 * i + 1) / (2 * count)
            for j in range(count):
                u = reward[n].item() + discount[n].item() * next_output[n, best[n, 0], j].item() - theta
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                small, large = small + (abs(u) <= 1), large + (abs(u) > 1)
                expected += abs(tau - (1 if u < 0 else 0)) * huber / count
        assert losses[n].item() == pytest.approx(expected, rel=1e-5)
        assert q[n].item() == pytest.approx(np.mean(output[n, action[n]].numpy()), abs=1e-6)
    assert small > 0 < large  # both branches of the Huber loss
    torch.testing.assert_close(head.values(output), output.mean(2))


def test_quantiles_of_a_known_distribution_are_learned() -> None:
    """The loss is least at the quantiles' midpoints: of 0, 1, ..., 99 with four quantiles 12, 37, 62, 87 and a half."""
    head = Quantiles(4, CPU)
    returns = torch.arange(100.0).view(1, 100)
    output = torch.full((1, 1, 4), 50.0, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=1.0)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 1.0 if step < 150 else 0.05
        losses, _ = head.losses(output, torch.tensor([0]), returns)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert output[0, 0].tolist() == pytest.approx([12, 37, 62, 87], abs=1.0)


@pytest.mark.parametrize("name", ["expected", "c51", "qr"])
def test_outputs_are_not_rounded_under_autocast(name: str) -> None:
    """Whoever asks within it: C51's values would be off by 0.4 % otherwise."""
    config = HeadConfig(name=name, atoms=51, quantiles=7)  # type: ignore[arg-type]
    head = make_head(config, "huber", CPU)
    output = torch.randn(5, 3, *config.per_action, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[0], [1], [2], [0], [1]])
    reward, discount = torch.linspace(-1, 1, 5), torch.full((5,), 0.99)

    def everything() -> list[torch.Tensor]:
        target = head.target(output, action, reward, discount)
        return [head.values(output), target, *head.losses(output, action[:, 0], target)]

    exact = everything()
    with torch.autocast("cpu", torch.bfloat16):
        rough = everything()
    assert [one.dtype for one in rough] == [torch.float32] * 4
    assert all(map(torch.equal, exact, rough))


def test_a_single_quantile_under_a_small_error_is_half_the_squared_error() -> None:
    """tau is 1/2: DQN's Huber loss, halved."""
    output, target = torch.tensor([[[1.0]], [[-2.0]]]), torch.tensor([[1.4], [3.0]])
    losses, _ = Quantiles(1, CPU).losses(output, torch.tensor([0, 0]), target)
    expected, _ = ExpectedValue("huber").losses(output[:, :, 0], torch.tensor([0, 0]), target[:, 0])
    torch.testing.assert_close(losses, expected / 2)
