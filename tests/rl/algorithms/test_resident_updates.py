"""Updates on a device, rehearsed on a CPU: those of the host, for every optimizer, network and head."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluation.runs import seeding
from rl import TrainConfig
from rl.algorithms import resident
from rl.tasks import ObservationSpec
from tests.rl.algorithms.test_resident import config, learner, pair, playing

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", ["adam", "asgc", "sgd", "rmsprop", "adam+clip"])
def test_updates_are_those_of_the_host(optimizer: str) -> None:
    """On the same transitions, to the last bit (with a learning rate that float32 holds)."""
    settings = config(optimizer={"name": optimizer, "lr": 2**-9}, precision="fp32")
    assert_updates_of_the_host(settings, dataclasses.replace(settings, cuda_graphs="never"), exactly=True)


@pytest.mark.parametrize("double", [False, True])
def test_compiled_updates_are_those_of_the_host(double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes of the losses, with weights that are handed in (without code generation, for speed)."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    settings = config(optimizer={"name": "adam", "lr": 2**-9}, precision="bf16", double=double, compile=True)
    assert_updates_of_the_host(settings, dataclasses.replace(settings, cuda_graphs="never", compile=False))


NETWORKS: dict[str, dict[str, Any]] = {
    "dueling": {"network": {"dueling": True, "layer_norm": True}},
    "spectral-norm": {"network": {"spectral_norm": [1, 2]}},
    "impala": {"network": {"kind": "impala", "hidden": 16}},
    "c51": {"head": {"name": "c51", "atoms": 11}},
    "qr": {"head": {"name": "qr", "quantiles": 7}},
    "noisy": {"network": {"noisy": True}, "exploration": {"start": 0, "end": 0}},
    "own": {"network": {"cls": f"{__name__}:BatchNormalized"}},
    "mse": {"loss": "mse"},
}


class BatchNormalized(nn.Sequential):
    """It sees its batch: two are not one."""

    def __init__(self, observation: ObservationSpec, num_actions: int) -> None:
        channels, height, width = observation.shape
        super().__init__(nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * height * width, num_actions))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_heads_learn_as_on_the_host(name: str, precision: str) -> None:
    settings = config(optimizer={"name": "adam", "lr": 2**-9}, precision=precision, **NETWORKS[name])
    assert_updates_of_the_host(settings, dataclasses.replace(settings, cuda_graphs="never"), one_by_one=name == "noisy")


def test_small_batches_pass_together() -> None:
    for size, graphs, expected in ((256, "always", True), (257, "always", False), (256, "never", False)):
        assert learner(config(batch_size=size, cuda_graphs=graphs))._joined is expected


def assert_updates_of_the_host(
    settings: TrainConfig, of_host: TrainConfig, one_by_one: bool = False, exactly: bool = False
) -> None:
    """Losses, values, parameters and buffers; float32 weights and gradients, whatever they are rounded to.
    `one_by_one`: noise is drawn for each update. `exactly`: to the last bit."""
    rtol, atol = (0.0, 0.0) if exactly else (1e-6, 1e-8)
    replay = playing()
    made, device = pair(settings, replay)
    host = learner(of_host)
    rows = replay.draw(6 * 32, torch.Generator().manual_seed(seeding.derive(settings.seed, "replay")))
    found = [{name: x.clone().view(-1) for name, x in values.items()} for values in device.updates(6, 1.0)]
    assert len(found) == (6 if one_by_one else 1)
    expected: list[dict[str, Tensor]] = []
    for some in rows.chunk(6 if one_by_one else 1):
        expected += host.updates(replay.transitions(some.numpy()), len(some) // 32)
    assert len({float(values["loss"]) for values in expected}) == 6
    for name in ("loss", "q"):
        values = torch.cat([values[name] for values in found])
        torch.testing.assert_close(
            values, torch.stack([values[name] for values in expected]), rtol=rtol, atol=0.0, msg=name
        )
    pairs = zip(made.network.state_dict().items(), host.network.state_dict().values(), strict=True)
    for (name, a), b in pairs:
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=name)
    for parameter in made.network.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_copies_of_all_kinds_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones, of other types, laid out otherwise in memory."""
    monkeypatch.setattr(resident, "LARGE", 10)
    source = [torch.randn(3), torch.randn(4, 5), torch.randn(2, 3), torch.randn(3, 2).t().bfloat16(), torch.randn(1)]
    into = [torch.zeros(3, dtype=torch.bfloat16), *(torch.zeros(t.shape) for t in source[1:])]
    resident.copy_all(into, source)
    for a, b in zip(into, source, strict=True):
        assert torch.equal(a, b.to(a.dtype))
