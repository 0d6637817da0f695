"""Loading what does not fit: one clear error that names what is wrong, and nothing changed."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from asgc import ASGC, wrap
from asgc.saved import VERSION
from tests.asgc.implementations.small_run import assert_same_bits

SHAPES = ((4, 3), (5,))
State = dict[str, Any]


def stepped(shapes: tuple[tuple[int, ...], ...] = SHAPES, wrapped: Any = None, **options: Any) -> Any:
    params = [torch.ones(shape) for shape in shapes]
    opt: Any = wrap(wrapped(params, lr=0.1), **options) if wrapped else ASGC(params, **{"lr": 0.1, **options})
    for p in params:
        p.grad = torch.linspace(-1, 1, p.numel()).view(p.shape)
    opt.step()
    return opt


def own(opt: Any) -> list[Any]:
    """All that loading could change."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
    params = [p for group in opt.param_groups for p in group["params"]]
    extra = [opt.options, [opt.statistics.get(p) for p in params]] if hasattr(opt, "statistics") else []
    return copy.deepcopy([groups, params, [opt.state[p] for p in params], *extra])


def refuses(opt: Any, state_dict: State, message: str) -> None:
    before, given = own(opt), copy.deepcopy(state_dict)
    with pytest.raises(ValueError, match=message) as caught:
        opt.load_state_dict(state_dict)
    assert "\n" not in str(caught.value)
    after = own(opt)
    assert_same_bits(before, after)
    assert [list(group) for group in before[0]] == [list(group) for group in after[0]]
    assert state_dict.keys() == given.keys()
    assert_same_bits(state_dict, given)
    for p in (p for group in opt.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    opt.step()  # and it still works


def edited(opt: Any, edit: Callable[[State], Any]) -> State:
    state_dict = copy.deepcopy(opt.state_dict())
    edit(state_dict)
    return state_dict


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_a_state_of_another_model(rule: str) -> None:
    opt = stepped(rule=rule)
    refuses(
        opt, stepped(((3, 4), (5,)), rule=rule).state_dict(), r"saved state of group 0, parameter 0 .*\(3, 4\), not"
    )
    refuses(opt, stepped(((4, 3), (6,)), rule=rule).state_dict(), r"saved state of group 0, parameter 1 .*\(6,\), not")
    refuses(opt, stepped(((4, 3),), rule=rule).state_dict(), "doesn't match the size")
    refuses(opt, stepped((*SHAPES, (2,)), rule=rule).state_dict(), "doesn't match the size")
    more = stepped(rule=rule)
    more.add_param_group({"params": [torch.ones(2)]})
    refuses(opt, more.state_dict(), "different number of parameter groups")
    opt.load_state_dict(stepped(rule=rule).state_dict())


def test_a_state_of_another_rule() -> None:
    refuses(stepped(rule="sgd"), stepped(rule="adam").state_dict(), "of rule 'adam', the optimizer's of 'sgd'")
    refuses(stepped(rule="adam"), stepped(rule="adamw").state_dict(), "group 0 .* of rule 'adamw'")
    refuses(stepped(), torch.optim.Adam([torch.ones(4, 3), torch.ones(5)]).state_dict(), "not a state_dict of ASGC")
    refuses(stepped(), stepped(wrapped=torch.optim.Adam).state_dict(), "not a state_dict of ASGC")
    refuses(stepped(), {}, "not a state_dict of ASGC")


def test_a_later_version() -> None:
    def later(state_dict: State) -> None:
        state_dict["param_groups"][0] |= {"asgc_version": VERSION + 1, "temperature": 3.0}

    opt = stepped()
    refuses(opt, edited(opt, later), f"version {VERSION + 1}, .* up to {VERSION}: it was saved by a later asgc")
    around = stepped(wrapped=torch.optim.Adam)
    newer = edited(around, lambda s: s["asgc"].update(version=VERSION + 1))
    refuses(around, newer, f"version {VERSION + 1}, .* later asgc")


def test_an_earlier_state_is_completed() -> None:
    """Without a version, shapes and the options that came later, as the first states were."""

    def earlier(state_dict: State) -> None:
        for group in state_dict["param_groups"]:
            for name in ("asgc_version", "noise_zeros", "maximize"):
                del group[name]
        for state in state_dict["state"].values():
            del state["shape"]

    opt = stepped(noise_scale=0.3)
    other = stepped(noise_zeros=True)
    other.load_state_dict(edited(opt, earlier))
    group = other.param_groups[0]
    assert (group["asgc_version"], group["noise_zeros"], group["maximize"]) == (VERSION, True, False)
    assert group["noise_scale"] == 0.3
    assert "shape" not in other.state[group["params"][0]]
    assert_same_bits(other.state_dict()["state"], opt.state_dict()["state"])


def of_version_1(state_dict: State) -> None:
    """As saved before the statistics had rows for the noise of the last step and for non-finite steps in a row."""
    for group in state_dict["param_groups"]:
        group.pop("asgc_version", None)
    entries = state_dict["state"]
    if "asgc" in state_dict:
        state_dict["asgc"]["version"] = 1
        entries = state_dict["asgc"]["state"]
    for state in entries.values():
        state["stats"] = state["stats"][:9].clone()


@pytest.mark.parametrize("granularity", ["layer", "unit"])
@pytest.mark.parametrize("noise_at", ["gradient", "update"])
@pytest.mark.parametrize("wrapped", [None, torch.optim.Adam])
def test_a_state_of_version_1_goes_on_to_the_last_bit(wrapped: Any, noise_at: str, granularity: str) -> None:
    options = {"granularity": granularity, "noise_at": noise_at if wrapped is None else "gradient"}
    opt, other = stepped(wrapped=wrapped, **options), stepped(wrapped=wrapped, **options)
    other.load_state_dict(edited(opt, of_version_1))
    for each in (opt, other):
        for p in (p for group in each.param_groups for p in group["params"]):
            p.fill_(1.0)
            p.grad = torch.linspace(-2, 1, p.numel()).view(p.shape)
        each.step()
    assert_same_bits(own(opt), own(other))


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_a_group_without_an_option_keeps_the_present_one(rule: str) -> None:
    """Every option has a default or is given; states of earlier versions lack those that came later."""
    opt = stepped(rule=rule)
    for name in set(opt.param_groups[0]) - {"params"}:
        opt.load_state_dict(edited(opt, lambda s, name=name: s["param_groups"][0].pop(name)))
        assert name in opt.param_groups[0]
    for p in opt.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    opt.step()
    refuses(opt, edited(opt, lambda s: s["param_groups"][0].pop("params")), "not a state_dict of ASGC")


def to_number(kind: str, value: Any) -> Any:
    return {
        "int": int,
        "float": float,
        "numpy": np.float32,
        "int64": lambda x: torch.tensor(x, dtype=torch.int64),
        "float64": lambda x: torch.tensor(x, dtype=torch.float64),
        "one element": lambda x: torch.tensor([x], dtype=torch.float32),
    }[kind](float(value))


@pytest.mark.parametrize("kind", ["int", "float", "numpy", "int64", "float64", "one element"])
@pytest.mark.parametrize("implementation", ["reference", "cpu", "foreach"])
def test_counters_that_are_numbers(kind: str, implementation: str) -> None:
    """As torch.optim once kept ``step``, and as other tools write numbers."""

    def numbers(state_dict: State) -> None:
        for state in state_dict["state"].values():
            state |= {name: to_number(kind, state[name]) for name in ("step", "noise_step", "layer")}
            state["stats"] = state["stats"].double()

    opt, other = stepped(implementation=implementation), stepped(implementation=implementation)
    other.load_state_dict(edited(opt, numbers))
    assert_same_bits(other.state_dict(), opt.state_dict())
    for each in (opt, other):
        for p in each.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        each.step()
    assert_same_bits(other.state_dict(), opt.state_dict())


def test_wrapped_counters_and_options() -> None:
    opt, other = stepped(wrapped=torch.optim.Adam), stepped(wrapped=torch.optim.Adam, seed=5)

    def numbers(state_dict: State) -> None:
        del state_dict["param_groups"][0]["lr"], state_dict["param_groups"][0]["maximize"]
        del state_dict["asgc"]["options"]["seed"]
        for state in state_dict["asgc"]["state"].values():
            state |= {"noise_step": 1, "layer": float(state["layer"])}

    other.load_state_dict(edited(opt, numbers))
    assert other.options["seed"] == 5
    assert_same_bits(other.state_dict()["state"], opt.state_dict()["state"])
    assert_same_bits(other.state_dict()["asgc"]["state"], opt.state_dict()["asgc"]["state"])
    for p in other.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    other.step()
    assert other.param_groups[0]["lr"] == 0.1


DAMAGE: list[tuple[Callable[[State], Any], str]] = [
    (
        lambda s: s["param_groups"][0].update(clip_factor=-1.0),
        "group 0 of this state_dict: clip_factor must be above 0",
    ),
    (lambda s: s["param_groups"][0].update(betas=0.9), "group 0 of this state_dict: betas must be a pair"),
    (lambda s: s["param_groups"][0].update(mode="values"), "unknown mode 'values' .did you mean 'value'"),
    (lambda s: s["state"][1].pop("exp_avg"), "parameter 1 .* has no 'exp_avg', which rule 'adam' needs"),
    (lambda s: s["state"][1].pop("noise_step"), "parameter 1 .* has no 'noise_step'"),
    (lambda s: s["state"][0].pop("layer"), "parameter 0 .* has no layer number"),
    (lambda s: s["state"][0].update(exp_avg_sq=torch.ones(3, 4)), r"saved exp_avg_sq of .* \(3, 4\), not \(4, 3\)"),
    (lambda s: s["state"][0].update(step=torch.ones(2)), r"saved step of .*\(2,\), not \(\)"),
    (lambda s: s["state"][0].update(stats=torch.ones(3, 1)), r"saved statistics of .*\(3, 1\), not"),
    (lambda s: s.pop("state"), "not a state_dict of ASGC"),
    (lambda s: s["state"][0].update(step=-1), "'step' in the saved state of parameter 0 is -1.0, not a whole number"),
    (lambda s: s["state"][0].update(noise_step=1.5), "'noise_step' .* is 1.5, not a whole number"),
    (lambda s: s["state"][0].update(step=float("nan")), "'step' .* is nan, not a whole number"),
    (lambda s: s["state"][0].update(layer="first"), "'layer' .* is 'first', not a number"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_a_damaged_state(damage: Callable[[State], Any], message: str) -> None:
    opt = stepped()
    refuses(opt, edited(opt, damage), message)


@pytest.mark.parametrize("inner", [torch.optim.SGD, torch.optim.Adam])
def test_wrapped(inner: Any) -> None:
    opt = stepped(wrapped=inner)
    refuses(opt, stepped(((3, 4), (5,)), wrapped=inner).state_dict(), r"parameter 0 .*\(3, 4\), not \(4, 3\)")
    refuses(opt, stepped(((4, 3),), wrapped=inner).state_dict(), "doesn't match the size")
    refuses(opt, stepped((*SHAPES, (2,)), wrapped=inner).state_dict(), "parameter 2, but there are only 2")
    refuses(opt, stepped(wrapped=torch.optim.RMSprop).state_dict(), f"wrap around RMSprop, not around {inner.__name__}")
    refuses(opt, stepped().state_dict(), r"not a state_dict of asgc\.wrap")
    refuses(
        opt, edited(opt, lambda s: s["asgc"]["options"].update(seed=-1)), "options of this state_dict: seed must be"
    )
    refuses(opt, edited(opt, lambda s: s["asgc"].pop("options")), "no options or no state")
    refuses(opt, edited(opt, lambda s: s["asgc"]["state"][1].pop("stats")), "parameter 1 .* has no layer number, noise")
    opt.load_state_dict(stepped(wrapped=inner, noise_scale=0.3).state_dict())
    assert opt.options["noise_scale"] == 0.3
