"""Values as people type them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from evaluation.cli.values import PathText, did_you_mean, number, path, read


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


@pytest.mark.parametrize(("text", "value"), [("0", False), ("1", True), (0, False), (1, True)])
def test_a_switch_may_be_0_or_1(text: Any, value: bool) -> None:
    assert read(text, bool) is value
    assert read(text, bool | None) is value


def test_paths_are_what_a_shell_makes_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOTHING", raising=False)
    for text, meant in {
        "~/x": "/home/me/x", "$DATA/x": "/data/x", "${DATA}x/y": "/datax/y", "./~/x": "./~/x", "a//b/": "a//b/",
        "~": "/home/me", "smoke": "smoke",
    }.items():  # fmt: skip
        assert read(text, PathText) == path(text) == meant
    assert read(Path("~/x"), PathText | None) == "/home/me/x"
    assert read("null", PathText | None) is None
    (tmp_path / "$NOTHING").mkdir()  # really called so
    assert path(f"{tmp_path}/$NOTHING/x") == f"{tmp_path}/$NOTHING/x"
    for text, fault in {
        "$NOTHING/x": r"\$NOTHING is not set", "x" * 300: "too long for a name: 300",
        "a\0b": "must be the name of a file", "": "must be the name of a file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=fault):
            path(text)


def test_a_home_that_nobody_knows_is_said() -> None:
    """A uid without an entry in the password file, and no HOME."""
    program = (
        "import os\nfrom evaluation.cli.values import path\nos.environ.pop('HOME', None)\n"
        "import pwd\npwd.getpwuid = lambda uid: {}[uid]\n"
        "try:\n    path('~/x')\nexcept ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "there is no home folder: HOME is not set\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", "--optimizer.lr"),
        ("--env-id", "--game"),
        ("--learning_rate", "--optimizer.lr"),
        ("--total-timesteps", "--total-steps"),
        ("--gamee", "--game"),
        ("--evaluation.episode", "--evaluation.episodes"),
        ("--xyz", ""),
    ],
)
def test_the_option_that_is_meant_is_named(typed: str, meant: str) -> None:
    known = ["--game", "--total-steps", "--optimizer.lr", "--evaluation.episodes"]
    assert did_you_mean(typed, known) == (f"; did you mean {meant!r}?" if meant else "")
    keys = [name.lstrip("-").replace("-", "_") for name in known]
    assert did_you_mean(typed.lstrip("-"), keys) == (
        f"; did you mean {meant.lstrip('-').replace('-', '_')!r}?" if meant else ""
    )


def test_text_with_odd_underscores_is_no_traceback() -> None:
    assert number("1__0.5") == 10.5
    assert (number("010"), number("1:30:00"), number("40_000")) == (10, "1:30:00", 40_000)
