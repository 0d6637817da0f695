"""Values as people type them."""

from __future__ import annotations

from typing import Any, Literal, Optional

import pytest

from evaluation.cli.values import read


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("1e6", int, 1_000_000),
        ("1_000", int, 1000),
        ("9007199254740993", int, 9007199254740993),  # beyond 2^53: not by way of a float
        ("-1e-4", float, -1e-4),
        ("inf", float | None, float("inf")),
        ("null", float | None, None),
        ("None", Optional[tuple[float, float]], None),  # noqa: UP045  # as the optimizers' options have it
        ("32, 64,64", list[int], [32, 64, 64]),
        ("[0.5, 0.9]", tuple[float, float], (0.5, 0.9)),
        ("Yes", bool, True),
        ("off", bool | None, False),
        ("b", Literal["a", "b"], "b"),
    ],
)
def test_text_is_read_as_its_type(text: str, hint: Any, value: Any) -> None:
    result = read(text, hint)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("value", "hint", "allowed", "message"),
    [
        ("1.5", int, "", "must be a whole number"),
        (True, int, "", "must be a whole number"),
        ("x", float, "", "must be a number"),
        ("nan", float, "[0, 1)", "must be at least 0 and below 1"),
        ([1, 0], list[int], "[1, 64]", "must be at least 1 and at most 64"),
        ("0.9", tuple[float, float], "", "must be 2 numbers such as 0.9,0.999"),
        ("maybe", bool, "", "must be true or false"),
        ("c", Literal["a", "b"], "", "must be a or b"),
        ("c", Literal["a"], "", "must be a$"),
        ("c", Literal["a"] | None, "", "must be a or null"),
        ("", str, "", "must be text"),
    ],
)
def test_wrong_values_say_what_is_allowed(value: Any, hint: Any, allowed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(value, hint, allowed)
