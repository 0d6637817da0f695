"""The registry of optimizers by name."""

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import asgc
from asgc import ASGC, optimizers, wrap
from asgc.clips import Clipped, NormClip
from asgc.option import union
from asgc.options import rule_class

RULES = ["sgd", "adam", "adamw", "rmsprop", "adagrad"]
OF_TORCH = [*RULES, "radam"]
LIBRARY = ["soap", "shampoo", "lamb"]
ALL = [*OF_TORCH, "adopt", *LIBRARY]
CLIPS_BY_NAME = ["agc", "autoclip", "zclip", "adagc", "spamp"]
CLIPS_BY_NAME += ["gradient-stabilizer", "divgrad", "obgd", "gradient-noise"]


def test_names() -> None:
    expected = {"asgc", "asgc-clip", "asgc-noise", *ALL, *(f"{rule}+clip" for rule in ALL)}
    expected |= {f"{rule}+clip-value" for rule in ALL} | {"adam-rel", "adam-reset"}
    expected |= {*CLIPS_BY_NAME, *(f"asgc+{rule}" for rule in ("radam", "adopt", *LIBRARY))}
    assert set(optimizers.names()) == expected
    assert all(optimizers.info(name).description for name in optimizers.names())
    with pytest.raises(AttributeError):
        optimizers.info("asgc").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", optimizers.names())
def test_every_one_trains_with_every_default_given(name: str) -> None:
    p = torch.ones(20)
    opt = optimizers.build(name, [p], lr=0.01, **optimizers.defaults(name))
    assert isinstance(opt, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    for t in range(3):
        p.grad = torch.full((20,), 1.0 + t)
        opt.step()
        scheduler.step()
    assert (p < 1).all()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.00125)
    again = optimizers.build(name, [torch.ones(20)], lr=0.01)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    if "lamb" not in name:  # whose class forgets its attributes
        pickle.loads(pickle.dumps(opt)).step()


@pytest.mark.parametrize("rule", LIBRARY)
def test_the_librarys_are_its_own_and_go_on_from_their_state(rule: str) -> None:
    import pytorch_optimizer

    def grads(t: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(t)
        return [torch.randn(shape, generator=generator) for shape in ((6, 4), (4,), (3, 2, 2, 2))]

    def steps(opt: torch.optim.Optimizer, params: list[torch.Tensor], numbers: range) -> None:
        for t in numbers:
            for param, grad in zip(params, grads(t), strict=True):
                param.grad = grad
            opt.step()

    ours, theirs, wrapped, ready = ([p.clone() for p in grads(99)] for _ in range(4))
    opt = optimizers.build(rule, ours, lr=0.01, weight_decay=0.1)
    cls = {"soap": "SOAP", "shampoo": "Shampoo", "lamb": "Lamb"}[rule]
    steps(opt, ours, range(12))
    steps(getattr(pytorch_optimizer, cls)(theirs, lr=0.01, weight_decay=0.1), theirs, range(12))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    kept = copy.deepcopy(opt.state_dict())
    again = optimizers.build(rule, theirs, lr=0.01, weight_decay=0.1)
    again.load_state_dict(kept)
    steps(opt, ours, range(12, 20))
    steps(again, theirs, range(12, 20))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    steps(optimizers.build(f"asgc+{rule}", wrapped, lr=0.01, clip_factor=1.0, seed=3), wrapped, range(12))
    by_hand = wrap(getattr(pytorch_optimizer, cls)(ready, lr=0.01), clip_factor=1.0, seed=3)
    steps(by_hand, ready, range(12))
    assert all(torch.equal(a, b) for a, b in zip(wrapped, ready, strict=True))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert "asgc+soap" in optimizers.names()
    assert set(optimizers.options("soap")) >= {"betas", "precondition_frequency"}
    with pytest.raises(ValueError, match=r"lamb is pytorch_optimizer's: pip install 'asgc\[peers\]' brings it"):
        rule_class("lamb")


def test_all_options_cover_what_each_optimizer_takes() -> None:
    found = {option.name: option for option in optimizers.all_options()}
    assert len(found) == len(optimizers.all_options())
    for name in optimizers.names():
        for rule in RULES:
            for key, option in optimizers.options(name, rule).items():
                assert found[key].kind == option.kind
                assert found[key].choices == option.choices
                if option.allowed:
                    assert found[key].allowed == union(found[key].allowed, option.allowed)
    assert found["ema_decay"].owners == ("zclip", "adagc", "spamp")
    assert found["max_norm"].owners == ("NAME+clip", "zclip", "adagc")
    assert found["rule"].owners == ("asgc", *CLIPS_BY_NAME)
    assert found["momentum"].owners == ("sgd", "rmsprop", "shampoo")
    assert (found["warmup_steps"].allowed, found["warmup_steps"].default) == ("[0, inf]", None)
    assert found["betas"].owners == ("adam", "adamw", "radam", "adopt", "soap", "lamb")
    assert set(found["weight_decay"].owners) == set(ALL)
    assert set(optimizers.options("asgc")) == set(optimizers.defaults("asgc"))


def test_records_and_messages_need_no_torch() -> None:
    code = """
import sys
import asgc
from asgc import optimizers
optimizers.all_options(), optimizers.names()
try:
    optimizers.options("zclip", "sgd")["ema_decay"].check(1.0)
except ValueError as error:
    print(error)
assert "torch" not in sys.modules
assert callable(asgc.functional.clip) and issubclass(asgc.ASGC, object) and callable(asgc.wrap)
from asgc import ASGC, functional, optimizers, wrap
import asgc.wrapped
assert asgc.wrap is wrap
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "ema_decay must be at least 0 and below 1, got 1.0"
    with pytest.raises(AttributeError, match="no attribute 'asgcc'"):
        asgc.asgcc  # noqa: B018


def test_the_asgc_family() -> None:
    p = torch.zeros(2)
    whole, clip, noise = (optimizers.build(n, [p], lr=0.1) for n in ("asgc", "asgc-clip", "asgc-noise"))
    assert all(isinstance(opt, ASGC) for opt in (whole, clip, noise))
    assert whole.param_groups[0]["noise_scale"] > 0
    assert clip.param_groups[0]["noise_scale"] == 0
    assert noise.param_groups[0]["clip_factor"] == math.inf
    fixed = optimizers.build("asgc-noise", [p], lr=0.1, threshold=0.5, rule="sgd", momentum=0.9)
    assert fixed.param_groups[0]["threshold"] == 0.5
    assert "momentum" in optimizers.options("asgc", rule="sgd")
    assert "noise_scale" not in optimizers.options("asgc-clip")
    assert "clip_factor" not in optimizers.options("asgc-noise")


@pytest.mark.parametrize("named", [False, True])
def test_baselines_are_torchs_fused_where_supported(named: bool) -> None:
    for rule in OF_TORCH:
        p = torch.zeros(2)
        opt = optimizers.build(rule, iter([("p", p)] if named else [p]), lr=0.1)
        assert type(opt).__module__.startswith("torch.optim")
        assert bool(opt.param_groups[0].get("fused")) == (rule not in ("rmsprop", "radam"))
    groups: list[dict[str, Any]] = [{"params": iter([torch.zeros(2)])}, {"params": torch.zeros(1), "lr": 1.0}]
    opt = optimizers.build("adam", groups, lr=0.1)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 1.0]


@pytest.mark.parametrize("options", [{}, {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}])
def test_radam_is_torchs(options: dict[str, Any]) -> None:
    """Over the steps in which its variance is not rectified (up to 5 with beta2 0.999) and those after."""
    params = [torch.linspace(-1, 1, 7) for _ in range(2)]
    ours = optimizers.build("radam", [params[0]], lr=0.01, **options)
    theirs = torch.optim.RAdam([params[1]], lr=0.01, **options)
    for t in range(20):
        for p in params:
            p.grad = torch.randn(7, generator=torch.Generator().manual_seed(t))
        ours.step()
        theirs.step()
        assert torch.equal(*params)
    assert set(optimizers.options("radam")) == {"betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize"}
    assert optimizers.defaults("radam")["betas"] == (0.9, 0.999)


def test_radam_is_no_rule_of_asgc_and_its_kin() -> None:
    p = torch.zeros(2)
    for name in ("asgc", "agc"):
        with pytest.raises(ValueError, match=r"unknown rule 'radam'.*adagrad"):
            optimizers.options(name, "radam")
        with pytest.raises(ValueError, match="unknown rule 'radam'"):
            optimizers.build(name, [p], lr=0.1, rule="radam")
    with pytest.raises(ValueError, match="eps must be at least 0 and finite, got -1"):
        optimizers.build("radam", [p], lr=0.1, eps=-1.0)
    with pytest.raises(TypeError, match="radam has no option 'amsgrad'"):
        optimizers.build("radam", [p], lr=0.1, amsgrad=True)


@pytest.mark.parametrize("rule", OF_TORCH)
def test_clip_is_clip_grad_norm_before_the_step(rule: str) -> None:
    params: list[list[Tensor]] = [[torch.zeros(5), torch.zeros(3, 2)] for _ in range(2)]
    opt = optimizers.build(f"{rule}+clip", params[0], lr=0.1, max_norm=0.5)
    plain = optimizers.build(rule, params[1], lr=0.1)
    assert isinstance(opt, Clipped)
    assert isinstance(opt.clip, NormClip)
    for t in range(4):
        for group in params:
            generator = torch.Generator().manual_seed(t)
            for p in group:
                p.grad = torch.randn(p.shape, generator=generator)
        torch.nn.utils.clip_grad_norm_(params[1], 0.5)
        opt.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(*params, strict=True))
    norm = torch.cat([p.grad.flatten() for p in params[0] if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.5, rel=1e-4)
    assert optimizers.defaults(f"{rule}+clip")["max_norm"] == 10


def test_clip_evaluates_the_closure_first() -> None:
    p = torch.ones(1, requires_grad=True)
    opt = optimizers.build("sgd+clip", [p], lr=0.1, max_norm=1.0)

    def closure() -> float:
        opt.zero_grad()
        loss = (100 * p).sum()
        loss.backward()
        return loss.item()

    assert opt.step(closure) == 100
    assert p.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("asgcc", {}, ValueError, "unknown optimizer 'asgcc' .did you mean 'asgc'"),
        ("ADAM", {}, ValueError, "did you mean 'adam'"),
        ("adam", {"clip_factor": 2.0}, TypeError, "adam has no option 'clip_factor'.*it has: betas, eps"),
        ("adam", {"beta": 2.0}, TypeError, "did you mean 'betas'"),
        ("adam", {"max_norm": 2.0}, TypeError, "adam has no option 'max_norm'"),
        ("adam", {"eps": -1.0}, ValueError, "eps must be"),
        ("sgd", {"nesterov": True}, ValueError, "nesterov needs momentum"),
        ("adam+clip", {"max_norm": 0.0}, ValueError, "max_norm must be above 0"),
        ("adam+clip", {"max_norm": "1"}, TypeError, "max_norm must be a number"),
        ("asgc", {"noise": 2.0}, TypeError, "did you mean 'noise_"),
        ("asgc", {"rule": "adan"}, ValueError, "unknown rule 'adan'"),
        ("asgc", {"momentum": 0.9}, TypeError, "asgc has no option 'momentum'"),
        ("asgc-clip", {"noise_scale": 0.1}, TypeError, "asgc-clip has no option 'noise_scale'"),
        ("asgc-noise", {"clip_factor": 2.0}, TypeError, "asgc-noise has no option 'clip_factor'"),
    ],
)
def test_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimizers.build(name, [torch.zeros(1)], lr=0.1, **options)
