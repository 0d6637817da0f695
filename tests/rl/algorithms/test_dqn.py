"""The temporal-difference update against hand-made targets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rl.algorithms.dqn import QLearner
from rl.config import OptimizerConfig, TrainConfig
from rl.option_groups import NetworkConfig
from rl.replay.ring import Batch
from rl.tasks import ObservationSpec

ACTIONS = 4


def make(**options: object) -> QLearner:
    torch.manual_seed(0)
    config = TrainConfig(
        network=NetworkConfig(channels=[4], kernels=[4], strides=[4], hidden=16),
        **({"optimizer": OptimizerConfig(name="sgd", lr=0.1), "precision": "fp32"} | options),  # type: ignore[arg-type]
    )
    learner = QLearner(config, ACTIONS, ObservationSpec((2, 16, 16), np.uint8), torch.device("cpu"))
    for parameter in learner.target_network.parameters():  # a target that differs from the online network
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return learner


def batch(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, n, 2, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(
        observation=frames[0],
        action=torch.arange(n) % ACTIONS,
        reward=torch.linspace(-3, 3, n),
        next_observation=frames[1],
        discount=torch.tensor([0.9, 0.0, 0.5, 0.97, 0.0, 0.99])[:n],
    )


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_loss_is_the_papers_formula(double: bool, loss: str) -> None:
    learner, data = make(double=double, loss=loss), batch()
    with torch.no_grad():
        online, target = learner.network(data.next_observation), learner.target_network(data.next_observation)
        q = learner.network(data.observation)
    assert not torch.equal(online.argmax(1), target.argmax(1)), "the test needs networks that disagree"
    errors = []
    for i in range(len(data.action)):
        best = int(online[i].argmax()) if double else int(target[i].argmax())
        y = data.reward[i] + data.discount[i] * target[i, best]
        delta = abs(float(q[i, data.action[i]] - y))
        errors.append(delta**2 if loss == "mse" else (0.5 * delta**2 if delta < 1 else delta - 0.5))
    assert max(errors) > 1 > min(errors)  # both branches of the Huber loss
    assert next(learner.updates(data, 1))["loss"].item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_importance_weights_and_errors(loss: str) -> None:
    """The loss is mean(w loss) and leads the gradient; what is told of each sample is |TD error|."""
    learner, data, w = make(loss=loss), batch(), torch.tensor([1.0, 0.5, 0.25, 0.0, 1.0, 0.125])
    with torch.no_grad():
        best = learner.network(data.next_observation).argmax(1, keepdim=True)
        y = data.reward + data.discount * learner.target_network(data.next_observation).gather(1, best)[:, 0]
    q = learner.network(data.observation).gather(1, data.action[:, None])[:, 0]
    delta = (q - y).abs()
    each = delta**2 if loss == "mse" else torch.where(delta < 1, 0.5 * delta**2, delta - 0.5)
    expected = (w * each).mean()
    gradients = torch.autograd.grad(expected, list(learner.network.parameters()))
    before, told = [p.detach().clone() for p in learner.network.parameters()], []
    values = next(learner.updates(data, 1, w, lambda number, errors: told.append((number, errors))))
    assert values["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    for old, new, gradient in zip(before, learner.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.1 * gradient)
    ((number, errors),) = told
    assert number == 0
    torch.testing.assert_close(errors, delta.detach(), rtol=1e-4, atol=1e-5)


def test_a_terminal_step_does_not_bootstrap() -> None:
    learner, data = make(), batch()
    data = Batch(data.observation, data.action, data.reward, data.next_observation, torch.zeros_like(data.discount))
    q = learner.network(data.observation).gather(1, data.action[:, None])[:, 0]
    expected = F.smooth_l1_loss(q, data.reward)
    assert next(learner.updates(data, 1))["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_update_follows_the_gradient_of_q_alone() -> None:
    """No gradient flows through the target, and the target network does not move."""
    learner, data = make(loss="mse", double=True), batch()
    target_before = {k: v.clone() for k, v in learner.target_network.state_dict().items()}
    before = [p.detach().clone() for p in learner.network.parameters()]
    with torch.no_grad():
        best = learner.network(data.next_observation).argmax(1, keepdim=True)
        y = data.reward + data.discount * learner.target_network(data.next_observation).gather(1, best)[:, 0]
    q = learner.network(data.observation).gather(1, data.action[:, None])[:, 0]
    gradients = torch.autograd.grad(F.mse_loss(q, y), list(learner.network.parameters()))
    next(learner.updates(data, 1))
    for old, new, gradient in zip(before, learner.network.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.1 * gradient)
    for name, value in learner.target_network.state_dict().items():
        assert torch.equal(value, target_before[name])


def test_sync_target_copies_and_tells_the_optimizer() -> None:
    learner = make(optimizer=OptimizerConfig(name="asgc", lr=1e-3, on_shift="reset"))
    next(learner.updates(batch(), 1))
    learner.sync_target()
    for online, target in zip(learner.network.parameters(), learner.target_network.parameters(), strict=True):
        assert torch.equal(online, target)
        assert not target.requires_grad
    parameter = next(learner.network.parameters())
    assert learner.optimizer.state[parameter]["step"].item() == 0


def test_acting_is_greedy_up_to_epsilon() -> None:
    learner = make()
    observation = np.random.default_rng(0).integers(0, 256, (2000, 2, 16, 16), dtype=np.uint8)
    greedy = learner.network(torch.from_numpy(observation)).argmax(1).numpy()
    rng = np.random.default_rng(3)
    assert (learner.act(observation, 0.0, rng) == greedy).all()
    random = learner.act(observation, 1.0, rng)
    assert np.bincount(random, minlength=ACTIONS) == pytest.approx(500, abs=100)
    agreement = (learner.act(observation, 0.4, rng) == greedy).mean()
    assert agreement == pytest.approx(0.6 + 0.4 / ACTIONS, abs=0.05)


def test_state_dict_goes_on_bit_for_bit() -> None:
    config = OptimizerConfig(name="asgc", lr=1e-3)
    learner, data = make(optimizer=config), batch()
    for _ in range(3):
        next(learner.updates(data, 1))
    torch.manual_seed(9)
    copy = make(optimizer=config)
    copy.load_state_dict(learner.state_dict())
    for _ in range(3):
        assert torch.equal(next(learner.updates(data, 1))["loss"], next(copy.updates(data, 1))["loss"])
    for a, b in zip(learner.network.parameters(), copy.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("double", [False, True])
def test_parts_of_a_batch_are_updates_one_after_the_other(double: bool) -> None:
    together, apart, data = make(double=double), make(double=double), batch()
    apart.load_state_dict(together.state_dict())
    losses = [values["loss"].item() for values in together.updates(data, 3)]
    fields = ("observation", "action", "reward", "next_observation", "discount")
    for i, loss in enumerate(losses):
        part = Batch(**{name: getattr(data, name)[2 * i : 2 * i + 2] for name in fields})
        assert next(apart.updates(part, 1))["loss"].item() == pytest.approx(loss, rel=1e-5)
    for a, b in zip(together.network.parameters(), apart.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_bf16_computes_nearly_the_same_loss() -> None:
    exact, rough, data = make(), make(precision="bf16"), batch()
    rough.load_state_dict(exact.state_dict())
    assert rough.target_network.layers[0].weight.dtype == torch.bfloat16
    assert rough.network.layers[0].weight.dtype == torch.float32
    expected, loss = next(exact.updates(data, 1))["loss"], next(rough.updates(data, 1))["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)
    assert loss.item() != expected.item()


@pytest.mark.parametrize("double", [False, True])
def test_bf16_rounds_neither_the_choice_of_actions_nor_the_targets(double: bool) -> None:
    """Two actions 0.01 apart at Q = 8, in acting, in Double DQN's choice and in what the target network says of it."""
    learner, data = make(double=double, loss="mse", precision="bf16"), batch()
    for network, values in ((learner.network, [8.0, 8.01, 0.0, 0.0]), (learner.target_network, [8.03, 8.05, 0.0, 0.0])):
        with torch.no_grad():
            network.layers[-1].weight.zero_()
            network.layers[-1].bias.copy_(torch.tensor(values))
    assert (learner.act(data.observation.numpy(), 0.0, np.random.default_rng(0)) == 1).all()
    q = learner.network.layers[-1].bias.detach()[data.action]
    expected = (data.reward + data.discount * 8.05 - q).square().mean()
    assert next(learner.updates(data, 1))["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    learner.sync_target()
    assert torch.equal(learner.network.layers[-1].bias, learner.target_network.layers[-1].bias)


def test_standardization_is_that_of_both_networks() -> None:
    """Their inputs are scaled alike: else the targets would be of other observations than the values."""
    learner = make()
    frames = torch.randint(0, 256, (50, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    learner.sync_target()
    before = learner.network(batch().observation)
    learner.standardize(frames)
    online, target = (network(batch().observation) for network in (learner.network, learner.target_network))
    assert torch.equal(online, target)
    assert not torch.equal(online, before)


@pytest.mark.parametrize("name", ["asgc", "gradient-noise"])
def test_every_run_has_noise_of_its_own_that_its_seed_decides(name: str) -> None:
    def seed(run: int, given: int | None = None) -> int:
        optimizer = make(seed=run, optimizer=OptimizerConfig(name=name, seed=given)).optimizer
        return optimizer.param_groups[0]["seed"] if name == "asgc" else optimizer.clip.seed  # type: ignore[attr-defined, no-any-return]

    assert seed(1) == seed(1)
    assert seed(1) != seed(2)
    assert seed(2, given=5) == 5
