"""Derivatives of training with respect to ASGC's options, against finite differences, and learning by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import functional
from asgc.meta import PARAMETERS, Space
from asgc.meta.unrolled import Unrolled

NAMES = ("clip_factor", "clip_sharpness", "noise_scale", "noise_decay", "outlier_share", "eps_scale")
START = {
    "clip_factor": 1.0,
    "clip_sharpness": 3.0,
    "noise_scale": 0.3,
    "noise_decay": 0.5,
    "outlier_share": 0.3,
    "eps_scale": 0.5,
    "ceiling": 0.02,
}


class Network:
    """A small network on noisy targets, fp64."""

    steps = 20

    def __init__(self, burst: float = 1.0) -> None:
        self.burst = burst

    def start(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"embed": (5, 3), "hidden.weight": (4, 3), "hidden.bias": (4,), "head.weight": (2, 4)}
        return {
            name: 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
        }

    def batch(self, step: int, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        words = torch.randint(5, (6,), generator=generator)
        targets = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        return words, targets * (self.burst if step % 5 == 3 else 1.0)

    def loss(self, params: Mapping[str, Tensor], *batch: Tensor) -> Tensor:
        words, targets = batch
        hidden = torch.tanh(params["embed"][words] @ params["hidden.weight"].T + params["hidden.bias"])
        return (hidden @ params["head.weight"].T - targets).square().mean()


@pytest.mark.parametrize(
    ("rule", "mode"), [("adam", "norm"), ("adam", "value"), ("rmsprop", "value"), ("adagrad", "norm"), ("sgd", "norm")]
)
def test_gradients_are_those_of_finite_differences(rule: str, mode: str) -> None:
    """Over the second of two truncations, which begins where the first one ends: along each option, and along
    directions that mix options, kinds of layer and time."""
    names = tuple(name for name in NAMES if rule != "sgd" or name != "eps_scale")
    space = Space((*names, "ceiling"), by_share=True)
    options = functional.options(rule, lr=0.05, mode=mode)
    generator = torch.Generator().manual_seed(0)
    vector = space.start(START) + 0.1 * torch.randn(space.size, generator=generator, dtype=torch.float64)
    along = torch.zeros(len(space.names), space.rows, len(space.names), dtype=torch.float64)
    along[:, 0] = torch.eye(len(space.names))
    mixed = torch.randn(2, space.size, generator=generator, dtype=torch.float64)
    directions = torch.cat([along.flatten(1), mixed])

    def run(z: Tensor) -> tuple[Tensor, Tensor | None]:
        unrolled = Unrolled(Network(burst=20.0), space, options, [1])
        unrolled.truncation(vector, 3)  # the same for all: only the second depends on z
        return unrolled.truncation(z, 4)

    _, gradient = run(vector)
    assert gradient is not None
    for direction in directions:
        numeric = (run(vector + 1e-5 * direction)[0] - run(vector - 1e-5 * direction)[0]) / 2e-5
        assert float(gradient @ direction) == pytest.approx(float(numeric), rel=2e-4, abs=2e-8)
    assert int((gradient.abs() > 1e-7).sum()) > space.size // 2


def test_truncations_are_one_run() -> None:
    space = Space(("clip_factor",))
    options = functional.options("sgd", lr=0.1, momentum=0.9)
    vector = space.start({"clip_factor": 2.0})
    whole, parts = (Unrolled(Network(), space, options, [2]) for _ in range(2))
    whole.truncation(vector, 100)
    while not parts.done:
        parts.truncation(vector, 3)
    assert whole.losses == parts.losses
    assert whole.step == parts.step == Network.steps == len(whole.losses)
    with pytest.raises(ValueError, match="the run is over: it has 20 steps"):
        whole.truncation(vector, 1)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("adam", {"mode": "norm"}),
        ("rmsprop", {"mode": "value", "noise_at": "update"}),
        ("adam", {"mode": "value", "granularity": "element"}),
        ("sgd", {"mode": "norm", "momentum": 0.9, "granularity": "unit", "ceiling_norm": "spectral"}),
    ],
)
def test_runs_side_by_side_are_those_by_themselves(rule: str, options: dict[str, Any]) -> None:
    """Losses and gradients of runs of three seeds at once, against each one alone with the same noise."""
    space = Space(("clip_factor", "noise_scale", "ceiling"))
    complete = functional.options(rule, lr=0.05, **options)
    vector = space.start(START)

    class Other(Network):
        """What seed 7, whose noise it has, does with another's start and data."""

        def __init__(self, of: int) -> None:
            super().__init__(20.0)
            self.of = of

        def start(self, seed: int) -> dict[str, Tensor]:
            return super().start(self.of)

        def batch(self, step: int, seed: int) -> tuple[Tensor, ...]:
            return super().batch(step, self.of)

    together = Unrolled(Network(20.0), space, complete, [7, 8, 9])
    alone = [Unrolled(Other(of), space, complete, [7]) for of in (7, 8, 9)]
    for _ in range(2):
        mean, gradient = together.truncation(vector, 4)
        each = [one.truncation(vector, 4) for one in alone]
        torch.testing.assert_close(mean, torch.stack([loss for loss, _ in each]).mean(), rtol=1e-9, atol=0)
        torch.testing.assert_close(
            gradient, torch.stack([g for _, g in each if g is not None]).mean(0), rtol=1e-6, atol=1e-12
        )
    losses = torch.tensor([[run.losses[k][0] for run in alone] for k in range(8)])
    torch.testing.assert_close(torch.tensor(together.losses), losses, rtol=1e-6, atol=0)
    still = Unrolled(Network(20.0), space, complete, [7, 8, 9])
    _, none = still.truncation(vector, 4, gradient=False)
    assert none is None
    again = Unrolled(Network(20.0), space, complete, [1, 2, 3])
    again.load_state_dict(still.state_dict())
    again.truncation(vector, 4)
    assert again.losses == together.losses


def test_it_learns_to_clip_where_bursts_come_and_not_where_none_do() -> None:
    """SGD without a clip to begin with: descent on the unrolled loss lowers clip_factor where bursts spoil a step."""

    def learned(burst: float) -> float:
        space = Space(("clip_factor",), kinds=())
        options = functional.options("sgd", lr=0.1, noise_scale=0.0)
        vector = space.start({"clip_factor": 20.0})
        optimizer = torch.optim.Adam([vector], lr=0.4)
        for seed in range(10):
            run = Unrolled(Network(burst), space, options, [seed])
            while not run.done:
                _, vector.grad = run.truncation(vector, 7)
                optimizer.step()
        return float(PARAMETERS["clip_factor"].value(vector[0]))

    bursts, calm = learned(50.0), learned(1.0)
    assert bursts < 5
    assert calm > 2 * bursts


def test_the_head_is_free_of_a_ceiling_as_in_the_optimizer_and_unused_parameters_are_left_alone() -> None:
    space = Space(("ceiling",))

    def moved(**options: bool) -> dict[str, float]:
        task = Network()
        begin = task.start(1)
        unused = {**begin, "extra": torch.ones(3, 3, dtype=torch.float64)}
        task.start = lambda seed: {"extra": unused["extra"], **begin}  # type: ignore[method-assign]
        run = Unrolled(task, space, functional.options("sgd", lr=10.0, noise_scale=0.0, **options), [1])
        run.truncation(space.start({"ceiling": 1e-3}), 1)
        return {name: float((run._params[name][0] - start).abs().max()) for name, start in task.start(1).items()}

    free, bounded = moved(), moved(exclude_head=False)
    assert free["extra"] == 0
    assert free["head.weight"] > 0.1
    assert bounded["head.weight"] < 0.01
    assert max(free["hidden.weight"], free["embed"]) < 0.01


def test_what_a_rule_does_not_have_cannot_be_learned() -> None:
    space = Space(("eps_scale", "ceiling"))
    assert float(space.values(space.start({"eps_scale": 0.1, "ceiling": None}))["head"]["ceiling"]) > 0.9  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="eps_scale cannot be learned with rule 'sgd'"):
        Unrolled(Network(), space, functional.options("sgd", lr=0.1), [1])
