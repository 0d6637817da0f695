"""The table of options: intervals, words, and that it is the signature of ASGC."""

import inspect
import math
from typing import Literal, get_type_hints

import pytest

import asgc
from asgc import options
from asgc.implementations import REGISTRY
from asgc.option import Option, describe_range, in_range, union
from asgc.options import ASGC_OPTIONS, CLIPS, IMPLEMENTATIONS, LR, RULE_OPTIONS


def test_intervals() -> None:
    assert in_range(0, "[0, 1)")
    assert not in_range(1, "[0, 1)")
    assert not in_range(0, "(0, 1]")
    assert in_range(math.inf, "(0, inf]")
    assert not in_range(math.inf, "(0, inf)")
    assert not in_range(math.nan, "(-inf, inf)")
    assert not in_range(math.nan, "[0, 1]")
    assert describe_range("[0, 1)") == "at least 0 and below 1"
    assert describe_range("(0, inf]") == "above 0"
    assert describe_range("(-inf, inf)") == "finite"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("[0, 1)", "(0, 1]", "[0, 1]"),
        ("[1, inf]", "[0, inf)", "[0, inf]"),
        ("(0, 2)", "[1, 3)", "(0, 3)"),
        ("(-inf, 0]", "[-1, 5)", "(-inf, 5)"),
    ],
)
def test_union(a: str, b: str, expected: str) -> None:
    assert union(a, b) == union(b, a) == expected


def test_every_option_has_help_a_kind_and_what_it_allows() -> None:
    clips = [option for clip in CLIPS.values() for option in clip.options]
    for option in (LR, *ASGC_OPTIONS, *RULE_OPTIONS, *clips):
        assert option.help
        assert bool(option.allowed) == (option.kind in ("number", "integer", "pair")), option
        assert bool(option.choices) == (option.kind == "choice"), option
        assert option.words
        if option not in (LR, *RULE_OPTIONS):
            option.check(option.default)


def test_types_and_words() -> None:
    by_name = {option.name: option for option in (*ASGC_OPTIONS, *RULE_OPTIONS)}
    assert by_name["seed"].type is int
    assert by_name["noise_scale"].type is float
    assert by_name["capturable"].type is bool
    assert by_name["betas"].type == tuple[float, float]
    assert by_name["mode"].type == Literal["value", "norm"]
    assert by_name["adapt"].words == "hypergradient"
    assert by_name["on_shift"].words == "none, rewarm, adam-rel or reset"
    assert by_name["noise_zeros"].words == "true or false"
    with pytest.raises(AttributeError):
        by_name["seed"].name = "x"  # type: ignore[misc]


def test_the_table_is_the_signature_of_asgc_and_in_its_help() -> None:
    parameters = inspect.signature(asgc.ASGC).parameters
    assert list(parameters)[:3] == ["params", "lr", "rule"]
    own = {name: p.default for name, p in parameters.items() if name not in ("params", "lr", "options")}
    assert own == options.ASGC_DEFAULTS
    assert parameters["options"].kind is inspect.Parameter.VAR_KEYWORD
    doc = asgc.ASGC.__doc__
    assert doc is not None
    assert all(option.name in doc and option.help in doc for option in ASGC_OPTIONS)


def test_every_implementation_is_registered() -> None:
    assert tuple(REGISTRY) == IMPLEMENTATIONS
    assert all(callable(record.load().step) and callable(record.load().unsupported) for record in REGISTRY.values())


def test_clips_declare_the_attributes_of_their_options() -> None:
    from asgc.peers import CLASSES

    assert set(CLASSES) == set(CLIPS)
    for name, cls in CLASSES.items():
        hints = get_type_hints(cls)
        assert set(cls.fresh) <= set(hints)
        declared = {key: hint for key, hint in hints.items() if key not in ("name", "fresh", *cls.fresh)}
        assert declared == {option.name: option.type for option in CLIPS[name].options}
        assert {key: getattr(cls(), key) for key in declared} == {o.name: o.default for o in CLIPS[name].options}


def test_unit_of_an_option_alone() -> None:
    share = Option("share", 0.5, "a share", allowed="(0, 1)", optional=True)
    share.check(None)
    share.check(0.25)
    with pytest.raises(ValueError, match=r"^share must be above 0 and below 1, got 1$"):
        share.check(1)
    with pytest.raises(TypeError, match=r"^share must be a number \(above 0 and below 1\), got 'x'$"):
        share.check("x")
