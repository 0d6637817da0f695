"""``wrap``: the transform in front of any optimizer."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from asgc import ASGC, wrap


def pair(shape: tuple[int, ...] = (6, 5)) -> tuple[Tensor, Tensor]:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return start.clone(), start.clone()


@pytest.mark.parametrize("mode", ["value", "norm"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_equals_asgc_with_that_rule(rule: str, mode: str) -> None:
    a, b = pair()
    classes: dict[str, Any] = {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop, "adagrad": torch.optim.Adagrad,
    }  # fmt: skip
    options = {"mode": mode, "noise_scale": 0.3, "noise_decay": 0.2, "seed": 5, "clip_factor": 1.0}
    ours = ASGC([torch.zeros(1), a], 0.01, rule=rule, implementation="reference", **options)
    theirs = wrap(classes[rule]([torch.zeros(1), b], lr=0.01, foreach=False), **options)
    for t in range(30):
        a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(t))
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(a, b)
    assert torch.equal(ours.state[a]["stats"], theirs.statistics[b]["stats"])


def test_gradients_are_restored_or_left() -> None:
    for restore in (True, False):
        p = torch.zeros(100)
        opt = wrap(
            torch.optim.SGD([p], lr=1.0),
            restore_grad=restore,
            noise_scale=0.0,
            clip_factor=0.5,
            clip_sharpness=math.inf,
        )
        raw = torch.linspace(-1, 1, 100)
        grad = p.grad = raw.clone()
        opt.step()
        assert p.grad is grad
        assert torch.equal(grad, raw) == restore
        assert torch.allclose(p, -0.5 * raw)
        if not restore:
            assert torch.equal(grad, -p)


def test_gradients_are_restored_after_an_error() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise RuntimeError("broken")

    p = torch.zeros(3)
    opt = wrap(Broken([p], lr=1.0))
    p.grad = torch.arange(3.0)
    with pytest.raises(RuntimeError, match="broken"):
        opt.step()
    assert torch.equal(p.grad, torch.arange(3.0))


def inference(*shape: int) -> Tensor:
    with torch.inference_mode():
        return torch.linspace(-1, 1, math.prod(shape)).view(shape)


UNWRITABLE = {
    "expanded": lambda: torch.linspace(-1, 1, 4).expand(3, 4),
    "one number": lambda: torch.ones(()).expand(3, 4),
    "overlapping": lambda: torch.linspace(-1, 1, 6).as_strided((3, 4), (1, 1)),
    "inference": lambda: inference(3, 4),
}


@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.parametrize("restore", [True, False])
def test_a_gradient_that_cannot_be_written(kind: str, restore: bool) -> None:
    """Before, the first parameter's gradient and statistics had changed when the second one's was refused."""
    results = []
    for writable in (False, True):
        params = [torch.zeros(3, 4), torch.zeros(3, 4)]
        opt = wrap(torch.optim.SGD(params, lr=1.0), clip_factor=0.5, restore_grad=restore)
        for _ in range(3):
            params[0].grad = torch.linspace(-1, 1, 12).view(3, 4)
            raw = UNWRITABLE[kind]()
            params[1].grad = raw.clone() if writable else raw
            held = raw.clone()
            opt.step()
            assert (params[1].grad is raw) == (restore and not writable)
            assert torch.equal(raw, held)
        results.append([*params, *(p.grad for p in params), *(opt.statistics[p]["stats"] for p in params)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_one_gradient_for_two_parameters() -> None:
    params, apart = [torch.zeros(3), torch.zeros(3)], [torch.zeros(3), torch.zeros(3)]
    opts = [wrap(torch.optim.SGD(ps, lr=1.0), clip_factor=0.5) for ps in (params, apart)]
    for t in range(3):
        raw = torch.tensor([1.0, 2.0, 3.0]) * 10**t
        params[0].grad = params[1].grad = raw
        for p in apart:
            p.grad = raw.clone()
        for opt in opts:
            opt.step()
        assert torch.equal(raw, apart[0].grad)
        assert params[0].grad is params[1].grad is raw
    assert all(torch.equal(a, b) for a, b in zip(params, apart, strict=True))


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("where", ["transform", "inner"])
def test_all_or_nothing(where: str, restore: bool) -> None:
    """An error after some gradients were changed: gradients, statistics and the noise's time are as they were."""
    params = [torch.zeros(3, 4), torch.zeros(3, 4)]
    opt = wrap(torch.optim.SGD(params, lr=1.0), clip_factor=0.5, restore_grad=restore)
    for p in params:
        p.grad = torch.linspace(-1, 1, 12).view(3, 4)
    opt.step()
    for p in params:
        p.grad = torch.linspace(-5, 5, 12).view(3, 4)
    good = opt.statistics[params[1]]["stats"].clone()
    if where == "transform":
        opt.statistics[params[1]]["stats"] = torch.zeros(9, 5)
    else:
        params[1].grad = torch.linspace(-5, 5, 12).view(3, 4)
        opt.inner.step = lambda: (_ for _ in ()).throw(RuntimeError("broken"))
    held = [p.clone() for p in params], [p.grad.clone() for p in params], opt.statistics[params[0]]["stats"].clone()
    with pytest.raises(RuntimeError):
        opt.step()
    assert all(torch.equal(p, before) for p, before in zip(params, held[0], strict=True))
    assert torch.equal(opt.statistics[params[0]]["stats"], held[2])
    assert all(opt.statistics[p]["noise_step"] == 1 for p in params)
    if where == "transform" or restore:
        assert all(torch.equal(p.grad, before) for p, before in zip(params, held[1], strict=True))
    opt.statistics[params[1]]["stats"] = good


def test_closure_comes_first() -> None:
    p = torch.ones(2, requires_grad=True)
    opt = wrap(torch.optim.SGD([p], lr=0.1), noise_scale=0.0, clip_factor=math.inf)
    calls = []

    def closure() -> float:
        calls.append(1)
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert opt.step(closure) == 2
    assert len(calls) == 1
    assert torch.allclose(p.detach(), torch.full((2,), 0.8))


def test_it_is_an_optimizer_and_shares_the_groups() -> None:
    p, q = torch.zeros(2), torch.zeros(3)
    inner = torch.optim.SGD([p], lr=1.0, momentum=0.9)
    opt = wrap(inner, noise_scale=0.0)
    assert isinstance(opt, torch.optim.Optimizer)
    assert opt.param_groups is inner.param_groups
    assert opt.state is inner.state
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    p.grad = torch.ones(2)
    opt.step()
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.5
    opt.add_param_group({"params": q, "lr": 0.25})
    q.grad = torch.ones(3)
    opt.step()
    assert inner.param_groups[1]["lr"] == 0.25
    assert [opt.statistics[x]["layer"] for x in (p, q)] == [0, 1]
    assert len(opt.diagnostics()) == 2
    opt.zero_grad()
    assert p.grad is None
    seen = []
    opt.register_step_post_hook(lambda *_: seen.append(1))
    opt.register_state_dict_post_hook(lambda *_: seen.append(2))
    opt.step()
    opt.state_dict()
    assert seen == [1, 2]
    assert "SGD" in repr(opt)


def test_outlier_share_follows_the_inner_optimizer() -> None:
    assert wrap(torch.optim.SGD([torch.zeros(1)])).options["outlier_share"] == 0.9
    assert wrap(torch.optim.NAdam([torch.zeros(1)])).options["outlier_share"] == 0.25


def test_rewarm() -> None:
    p = torch.zeros(10)
    opt = wrap(torch.optim.Adam([p]), on_shift="rewarm")
    for _ in range(20):
        p.grad = torch.randn(10)
        opt.step()
    opt.shift()
    assert opt.statistics[p]["stats"][0] == 10
    assert opt.statistics[p]["noise_step"] == 20


def test_bf16_gradients_and_nonfinite_ones() -> None:
    p = torch.zeros(10, dtype=torch.bfloat16)
    opt = wrap(torch.optim.SGD([p], lr=1.0), mode="value")
    for t in range(5):
        p.grad = torch.full((10,), math.nan if t == 3 else 1.0, dtype=torch.bfloat16)
        opt.step()
    assert torch.isfinite(p).all()
    assert opt.diagnostics()[0]["nonfinite"] == 1
    assert opt.statistics[p]["stats"].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise_at": "update"}, ValueError, 'noise_at="update"'),
        ({"on_shift": "reset"}, ValueError, "on_shift='reset'"),
        ({"clip_facto": 1.0}, TypeError, "wrap has no option 'clip_facto' .did you mean 'clip_factor'"),
        ({"rule": "adam"}, TypeError, "wrap has no option 'rule'"),
        ({"clip_factor": -1.0}, ValueError, "clip_factor"),
        ({"clip_factor": torch.tensor(1.0)}, TypeError, "numbers, not tensors"),
        ({"restore_grad": 1}, TypeError, "restore_grad"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrap(torch.optim.SGD([torch.zeros(1)]), **options)


def test_refused_inner_optimizers() -> None:
    with pytest.raises(ValueError, match="LBFGS"):
        wrap(torch.optim.LBFGS([torch.zeros(1)]))
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer"):
        wrap([torch.zeros(1)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wrapped already"):
        wrap(wrap(torch.optim.SGD([torch.zeros(1)])))
    with pytest.raises(ValueError, match="complex"):
        wrap(torch.optim.SGD([torch.zeros(1, dtype=torch.complex64)]))
    opt = wrap(torch.optim.SGD([torch.zeros(1)]))
    with pytest.raises(ValueError, match="complex"):
        opt.add_param_group({"params": torch.zeros(1, dtype=torch.complex64)})
    assert len(opt.param_groups) == 1
