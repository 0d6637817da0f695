"""The warning when a gradient does not become finite again."""

import logging
import math
from typing import Any

import pytest
import torch

from asgc import ASGC, wrap
from asgc.implementations.cpu import build
from asgc.nonfinite import STREAK, Watch

IMPLEMENTATIONS = [
    "reference",
    "foreach",
    pytest.param("cpu", marks=pytest.mark.skipif(build.unavailable() is not None, reason="no C++ compiler")),
    "wrap",
]
EVERYWHERE = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def made(implementation: str, **options: Any) -> tuple[list[torch.Tensor], Any]:
    params = [("body.weight", torch.zeros(4, 3)), ("head.weight", torch.zeros(2, 4))]
    if implementation == "wrap":
        opt: Any = wrap(torch.optim.SGD(params, lr=0.1), **options)
    else:
        opt = ASGC(params, 0.1, implementation=implementation, **options)
    return [param for _, param in params], opt


def step(params: list[torch.Tensor], opt: Any, bad: float | None) -> None:
    for param in params:
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(0))
    if bad is not None:
        params[1].grad[1, 2] = bad
    opt.step()


@EVERYWHERE
@pytest.mark.parametrize("policy", ["contain", "skip"])
@pytest.mark.parametrize("mode", ["norm", "value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ten_in_a_row_are_said_once_with_the_name(
    implementation: str, policy: str, mode: str, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    params, opt = made(implementation, nonfinite=policy, mode=mode)
    for value in (None, *[bad] * (STREAK - 1), None, *[bad] * (STREAK - 1)):
        step(params, opt, value)
    assert caplog.records == []  # nine, and nine again
    step(params, opt, bad)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "head.weight" in record.getMessage()
    assert "10 steps in a row" in record.getMessage()
    assert "\n" not in record.getMessage()
    for value in (bad, None, *[bad] * (2 * STREAK)):
        step(params, opt, value)
    assert opt.diagnostics()[1]["nonfinite"] > 2 * STREAK
    assert len(caplog.records) == 1


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
def test_one_unit_is_enough_and_a_resumed_run_goes_on_counting(
    implementation: str, caplog: pytest.LogCaptureFixture
) -> None:
    if implementation == "cpu" and build.unavailable() is not None:
        pytest.skip("no C++ compiler")
    params, opt = made(implementation, granularity="unit")
    for _ in range(STREAK - 1):
        step(params, opt, math.nan)
    resumed_params, resumed = made(implementation, granularity="unit")
    resumed.load_state_dict(opt.state_dict())
    assert caplog.records == []
    step(resumed_params, resumed, math.nan)
    assert "head.weight" in caplog.text


def test_diagnostics_says_it_where_no_step_came_by(caplog: pytest.LogCaptureFixture) -> None:
    """As after replays of a CUDA graph."""
    params, opt = made("reference")
    step(params, opt, None)
    opt.state[params[0]]["stats"][-1] = 25.0
    opt.diagnostics()
    opt.diagnostics()
    assert caplog.text.count("body.weight has had") == caplog.text.count("25 steps in a row") == 1


def test_a_copy_from_a_gpu_is_read_when_it_has_arrived(caplog: pytest.LogCaptureFixture) -> None:
    class Event:
        done = False

        def query(self) -> bool:
            return self.done

    watch, event = Watch(), Event()
    watch._asked = ["body.weight", "head.weight"], torch.tensor([0.0, 12.0]), event  # type: ignore[assignment]
    watch.look([], {})
    assert caplog.text == ""
    event.done = True
    watch.look([], {})
    assert "head.weight has had" in caplog.text
    assert watch._asked is None
