"""What is run, what is captured and what is replayed: the logic around CUDA graphs, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import optimizers
from rl import graphs
from rl.graphs import Captured


class Recorded:
    """A stand-in for graphs that replays what was captured, and says what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warm(self, function: Callable[[], Any]) -> Any:
        self.events.append("warm")
        return function()

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        self.events.append("capture")

        def replay() -> Any:
            self.events.append("replay")
            return function()

        return replay


def test_first_calls_run_then_one_is_captured_and_replayed() -> None:
    made, memory = Recorded(), torch.zeros(())

    def function(x: Tensor, y: Tensor) -> Tensor:
        memory.add_(1)
        return x.sum() + y

    captured = Captured(function, made, warm_up=2)
    for k in range(5):
        assert float(captured(torch.arange(3.0) + k, torch.tensor(10.0))) == 13 + 3 * k
    assert made.events == ["warm", "warm", "capture", "replay", "replay", "replay"]
    assert float(memory) == 5


def test_inputs_lie_in_the_same_buffers_however_it_runs() -> None:
    """Else a graph would go on reading what it was captured with."""
    places: list[int] = []
    made = Recorded()
    captured = Captured(lambda x: places.append(x.data_ptr()), made, warm_up=1)
    for k in range(6):
        captured(torch.full((4,), float(k)), eager=k in (0, 4))
    assert len(set(places)) == 1
    assert made.events == ["warm", "capture", "replay", "replay", "replay"]


def test_other_shapes_and_replaced_tensors_are_captured_anew() -> None:
    made = Recorded()
    captured = Captured(lambda x: x.sum(), made, warm_up=1)
    sizes = [3, 3, 3, 5, 5, 5]
    assert [float(captured(torch.ones(size))) for size in sizes] == sizes
    assert made.events == ["warm", "capture", "replay", "replay"] * 2
    captured(torch.ones(3))  # shapes that take turns
    assert made.events[-1] == "replay"
    captured(torch.ones(5, dtype=torch.float64))
    captured(torch.ones(5, dtype=torch.float64))
    assert made.events[-3:] == ["warm", "capture", "replay"]
    captured.forget()
    captured(torch.ones(5))
    assert made.events[-1] == "warm"


def test_without_graphs_every_call_runs() -> None:
    captured = Captured(lambda x: x + 1, None)
    assert [float(captured(torch.tensor(float(k)))) for k in range(6)] == [1, 2, 3, 4, 5, 6]


ON_A_CPU = "the parameters are on the CPU"  # the Triton implementation's word; on a GPU there is none
PARAMETER = [torch.nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("adam", {}, None),
        ("sgd", {"momentum": 0.9}, None),
        ("rmsprop", {}, None),
        ("adam+clip", {}, None),
        ("adam+clip-value", {}, None),
        ("agc", {}, None),
        ("adagrad", {}, "counts its steps on the host"),
        ("autoclip", {}, "autoclip keeps what it has seen on the host"),
        ("adagc", {}, "adagc keeps"),
        ("gradient-noise", {}, "gradient-noise keeps"),
        ("gradient-stabilizer", {}, "gradient-stabilizer keeps"),
        ("divgrad", {}, "divgrad keeps"),
        ("obgd", {}, None),
        ("adopt", {}, "ADOPT counts its steps on the host"),
        *((f"asgc+{rule}", {}, "wrap counts its steps on the host") for rule in ("radam", "adopt", "soap", "lamb")),
        ("soap", {}, "SOAP counts its steps on the host"),
        ("asgc", {"nonfinite": "skip"}, "wait for the device at every step"),
        ("asgc", {}, ON_A_CPU),
    ],
)
def test_which_optimizers_can_be_captured(name: str, options: dict[str, Any], reason: str | None) -> None:
    found = graphs.not_capturable(optimizers.build(name, PARAMETER, lr=0.1, **options))
    if reason == ON_A_CPU:
        kernels = pytest.importorskip("asgc.implementations.triton.kernels")
        if not kernels.COMPILED:  # Triton's interpreter, which other tests switch on, takes the CPU's
            reason = None
    assert found == reason if reason is None else found is not None and reason in found


def test_where_there_are_graphs() -> None:
    adam, autoclip = (optimizers.build(name, PARAMETER, lr=0.1) for name in ("adam", "autoclip"))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert graphs.choose("auto", cpu, adam) is graphs.choose("never", gpu, adam) is None
    assert isinstance(graphs.choose("always", cpu, autoclip), graphs.Rehearsal)
    assert isinstance(graphs.choose("auto", gpu, adam), graphs.CudaGraphs)
    assert graphs.choose("auto", gpu, autoclip) is None
    with pytest.raises(ValueError, match="autoclip keeps"):
        graphs.choose("always", gpu, autoclip)


def test_learning_rates_are_tensors_only_where_graphs_read_them() -> None:
    adam, cpu = optimizers.build("adam", PARAMETER, lr=0.1), torch.device("cpu")
    (group,) = adam.param_groups
    graphs.prepare(adam, cpu, captured=True)
    kept = group["lr"]
    assert isinstance(kept, Tensor)
    graphs.prepare(adam, cpu, captured=True)
    assert group["lr"] is kept, "a graph reads it"
    graphs.prepare(adam, cpu, captured=False)
    assert group["lr"] == pytest.approx(0.1)
    assert isinstance(group["lr"], float)
