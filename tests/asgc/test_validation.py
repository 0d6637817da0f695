"""Bad options, parameters and gradients: one clear error that names the culprit, and nothing changed."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from asgc import ASGC, wrap

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rule": "adamm"}, ValueError, "unknown rule 'adamm' .did you mean 'adam'"),
    ({"rule": "lion"}, ValueError, "unknown rule 'lion'"),
    ({"rule": 3}, TypeError, "rule must be one of"),
    ({"mode": "values"}, ValueError, "unknown mode 'values' .did you mean 'value'"),
    ({"clip_factor": 0.0}, ValueError, "clip_factor must be above 0"),
    ({"clip_factor": -1}, ValueError, "clip_factor"),
    ({"clip_factor": math.nan}, ValueError, "clip_factor"),
    ({"clip_factor": "3"}, TypeError, "clip_factor must be a number"),
    ({"clip_factor": True}, TypeError, "clip_factor"),
    ({"clip_factor": torch.tensor(2.0)}, TypeError, "only lr and betas may be tensors"),
    ({"clip_sharpness": 0}, ValueError, "clip_sharpness"),
    ({"clip_sharpness": None}, TypeError, "clip_sharpness"),
    ({"threshold": -0.1}, ValueError, "threshold"),
    ({"granularity": "row"}, ValueError, "unknown granularity 'row'"),
    ({"noise_scale": -0.1}, ValueError, "noise_scale must be at least 0 and finite"),
    ({"noise_scale": math.inf}, ValueError, "noise_scale"),
    ({"noise_decay": -1}, ValueError, "noise_decay"),
    ({"noise_at": "updates"}, ValueError, "did you mean 'update'"),
    ({"noise_zeros": 1}, TypeError, "noise_zeros must be True or False"),
    ({"stats_decay": 1.0}, ValueError, "stats_decay must be at least 0 and below 1"),
    ({"stats_decay": -0.1}, ValueError, "stats_decay"),
    ({"outlier_share": 0.0}, ValueError, "outlier_share must be above 0 and below 1"),
    ({"outlier_share": 1.0}, ValueError, "outlier_share"),
    ({"on_shift": "restart"}, ValueError, "unknown on_shift"),
    ({"adapt": "hypergradients"}, ValueError, "unknown adapt 'hypergradients'.*did you mean 'hypergradient'"),
    ({"adapt": True}, TypeError, "adapt must be one of hypergradient"),
    ({"adapt": "hypergradient", "threshold": 1.0}, ValueError, "needs the adaptive threshold, not threshold=1.0"),
    ({"adapt": "hypergradient", "clip_factor": math.inf}, ValueError, "needs a finite clip_factor to start from"),
    ({"adapt_lr": -0.1}, ValueError, "adapt_lr must be at least 0 and finite"),
    ({"adapt_lr": math.inf}, ValueError, "adapt_lr"),
    ({"adapt_every": 0}, ValueError, "adapt_every must be at least 1"),
    ({"adapt_every": 2.0}, TypeError, "adapt_every must be a whole number"),
    ({"nonfinite": "ignore"}, ValueError, "unknown nonfinite"),
    ({"seed": -1}, ValueError, "seed must be at least 0 and at most 4294967295"),
    ({"seed": 1 << 32}, ValueError, "seed"),
    ({"seed": 0.5}, TypeError, "seed must be a whole number"),
    ({"implementation": "gpu"}, ValueError, "unknown implementation"),
    ({"capturable": True}, ValueError, "capturable=True"),
    ({"lr": -0.1}, ValueError, "lr must be at least 0 and finite"),
    ({"lr": math.nan}, ValueError, "lr"),
    ({"lr": torch.ones(2)}, ValueError, "lr must be one number"),
    ({"lr": "fast"}, TypeError, "lr must be a number"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1"),
    ({"betas": 0.9}, TypeError, "betas must be a pair"),
    ({"eps": -1e-8}, ValueError, "eps"),
    ({"weight_decay": -1}, ValueError, "weight_decay"),
    ({"amsgrad": "yes"}, TypeError, "amsgrad must be True or False"),
    ({"beta": (0.9, 0.9)}, TypeError, "has no option 'beta' .did you mean 'betas'"),
    ({"clip_facto": 1.0}, TypeError, "has no option 'clip_facto' .did you mean 'clip_factor'"),
    ({"momentum": 0.9}, TypeError, "rule 'adam' has no option 'momentum'"),
    ({"fused": True}, TypeError, "has no option 'fused'"),
    ({"rule": "sgd", "betas": (0.9, 0.9)}, TypeError, "rule 'sgd' has no option 'betas'"),
    ({"rule": "sgd", "momentum": -1}, ValueError, "momentum"),
    ({"rule": "sgd", "nesterov": True}, ValueError, "nesterov needs momentum"),
    ({"rule": "rmsprop", "alpha": -1}, ValueError, "alpha"),
    ({"rule": "adagrad", "lr_decay": -1}, ValueError, "lr_decay"),
    ({"rule": "adagrad", "initial_accumulator_value": -1}, ValueError, "initial_accumulator_value"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_wrong_options_in_constructor_and_group(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ASGC([torch.zeros(2)], **{"lr": 0.1, **options})
    opt = ASGC([torch.zeros(2)], 0.1, implementation="reference")
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(error):
        opt.add_param_group({"params": [torch.zeros(3)], **options})
    assert opt.state_dict() == before
    assert not opt.state


def test_unknown_group_keys() -> None:
    opt = ASGC([torch.zeros(2)], 0.1)
    with pytest.raises(TypeError, match="did you mean 'noise_scale'"):
        opt.add_param_group({"params": [torch.zeros(3)], "noise_scal": 0.0})
    opt.add_param_group({"params": [torch.zeros(3)], "initial_lr": 0.1, "lr_scale": 0.5, "name": "head"})
    assert opt.param_groups[1]["name"] == "head"
    with pytest.raises(ValueError, match="all groups share one implementation"):
        opt.add_param_group({"params": [torch.zeros(3)], "implementation": "reference"})
    assert len(opt.param_groups) == 2


def test_wrong_parameters() -> None:
    with pytest.raises(ValueError, match=r"weight .*is complex"):
        ASGC([("weight", torch.zeros(2, dtype=torch.complex64))], 0.1)
    with pytest.raises(ValueError, match=r"parameter 1 .*is int64"):
        ASGC([torch.zeros(1), torch.zeros(2, dtype=torch.int64)], 0.1)
    with pytest.raises(ValueError, match="sparse"):
        ASGC([torch.eye(2).to_sparse()], 0.1)
    with pytest.raises(ValueError, match="empty parameter list"):
        ASGC([], 0.1)
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        ASGC([3], 0.1)
    with pytest.raises(TypeError, match="ordered collections"):
        ASGC([{"params": {torch.zeros(1)}}], 0.1)
    p = torch.zeros(2)
    opt = ASGC([p], 0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        opt.add_param_group({"params": [p]})


@pytest.mark.parametrize("named", [False, True])
def test_sparse_gradients_name_the_parameter(named: bool) -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "embedding": nn.Embedding(5, 3, sparse=True)})
    for make in (
        lambda: ASGC(model.named_parameters() if named else model.parameters(), 0.1, implementation="reference"),
        lambda: wrap(torch.optim.SGD(model.named_parameters() if named else model.parameters(), lr=0.1)),
    ):
        opt = make()
        before = [p.detach().clone() for p in model.parameters()]
        model["first"](torch.ones(1, 2)).sum().backward()
        model["embedding"](torch.tensor([1])).sum().backward()
        name = r"embedding\.weight" if named else r"group 0, parameter 2 \(shape \(5, 3\)\)"
        with pytest.raises(RuntimeError, match=f"{name} has a sparse gradient"):
            opt.step()
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert opt.diagnostics() == []


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_skip_changes_nothing_but_the_counter(value: float, wrapped: bool) -> None:
    params = [torch.ones(3, 2), torch.ones(4)]

    def make() -> Any:
        if wrapped:
            return wrap(torch.optim.Adam(params, lr=0.1), nonfinite="skip", granularity="unit")
        return ASGC(params, 0.1, nonfinite="skip", granularity="unit", implementation="reference")

    opt = make()
    for bad in (True, False, True):  # also as the very first step
        before = [p.clone() for p in params]
        state = copy.deepcopy(opt.state_dict())
        for p in params:
            p.grad = torch.randn_like(p)
        if bad:
            params[0].grad[1, 1] = value
        opt.step()
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True)) == bad
        if bad and state["state"].get(1, {}).get("step") is not None:
            for key, old in state["state"][1].items():
                assert torch.equal(torch.as_tensor(opt.state_dict()["state"][1][key]), torch.as_tensor(old))
    first, second = opt.diagnostics()
    assert (first["nonfinite"], second["nonfinite"]) == (2, 0)
    own = opt.statistics if wrapped else opt.state
    assert own[params[0]]["stats"][5].tolist() == [0, 2, 0]
    assert own[params[0]]["noise_step"] == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_raise_names_the_parameter_and_changes_nothing(wrapped: bool) -> None:
    params = [("a", torch.ones(2)), ("b", torch.ones(2))]
    if wrapped:
        opt: Any = wrap(torch.optim.SGD(params, lr=0.1), nonfinite="raise")
    else:
        opt = ASGC(params, 0.1, nonfinite="raise", implementation="reference")
    params[0][1].grad, params[1][1].grad = torch.ones(2), torch.tensor([1.0, math.nan])
    with pytest.raises(RuntimeError, match="b has a non-finite gradient"):
        opt.step()
    assert all(torch.equal(p, torch.ones(2)) for _, p in params)
    assert opt.diagnostics() == []
    params[1][1].grad = torch.ones(2)
    opt.step()
    assert not torch.equal(params[0][1], torch.ones(2))


def test_contain_keeps_one_bad_layer_from_the_others() -> None:
    params = [torch.zeros(64), torch.zeros(64)]
    opts = [ASGC([p], 1.0, rule="sgd", noise_scale=0.0, mode="value", implementation="reference") for p in params]
    for t in range(20):
        for p, opt in zip(params, opts, strict=True):
            p.grad = torch.randn(64, generator=torch.Generator().manual_seed(t))
            opt.step()
    stats = opts[1].state[params[1]]["stats"].clone()
    params[0].zero_(), params[1].zero_()
    params[0].grad = torch.linspace(-1, 1, 64)
    params[1].grad = params[0].grad.clone()
    params[1].grad[:3] = torch.tensor([math.inf, -math.inf, math.nan])
    for opt in opts:
        opt.step()
    assert torch.equal(params[0][3:], params[1][3:])
    tau = opts[1].diagnostics()[0]["threshold"]
    assert params[1][:3].tolist() == pytest.approx([-tau, tau, 0])
    after = opts[1].state[params[1]]["stats"]
    assert torch.equal(after[:5], stats[:5])
    assert after[5] == stats[5] + 1
