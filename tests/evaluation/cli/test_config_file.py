"""config.yaml and the comparison of configurations."""

from __future__ import annotations

import enum
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from evaluation.cli.config_file import ABSENT, differences, dump_yaml, parse_yaml, plain, read_config, write_config
from evaluation.cli.errors import UserError


class Loss(enum.Enum):
    HUBER = "huber"


def test_everything_becomes_plain_yaml_and_comes_back(tmp_path):
    config = {
        "loss": Loss.HUBER, "path": Path("a/b"), "lr": np.float32(0.5), "n": np.int64(3), "sizes": (1, 2), "no": None,
        "yes": True, "small": 1e-7, "inf": math.inf, "text": "1e-3", "empty": {}, "word": "no",
    }  # fmt: skip
    write_config(tmp_path / "config.yaml", config)
    read = read_config(tmp_path / "config.yaml")
    assert read == plain(config)
    assert read["loss"] == "huber"
    assert type(read["lr"]) is float
    assert (read["text"], read["word"], read["small"]) == ("1e-3", "no", 1e-7)
    assert differences(config, read) == {}


def test_every_kind_of_difference_is_named():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 0, "flag": True, "e": {}}
    new = {"a": 2, "b": {"c": [1, 3], "d": 0}, "new": 0, "flag": 1, "e": {"f": 1}}
    assert differences(old, new) == {
        "a": (1, 2), "b.c": ([1, 2], [1, 3]), "b.d": (None, 0), "gone": (0, ABSENT), "flag": (True, 1),
        "e": ({}, ABSENT), "new": (ABSENT, 0), "e.f": (ABSENT, 1),
    }  # fmt: skip


def test_equal_values_are_no_difference():
    assert (
        differences(
            {"a": 1, "b": (1, 2), "c": math.nan, "d": math.inf}, {"d": math.inf, "c": math.nan, "b": [1, 2], "a": 1.0}
        )
        == {}
    )


def test_an_option_of_a_later_version_is_no_difference_until_it_is_set():
    assert differences({"a": 1}, {"a": 1, "new": None}) == differences({"a": 1, "gone": None}, {"a": 1}) == {}
    assert differences({"a": 1}, {"a": 1, "new": False}) == {"new": (ABSENT, False)}
    assert differences({"a": 1}, {"a": 1, "new": 2}, defaults={"new": None}) == {"new": (None, 2)}
    assert differences({"a": 1}, {"a": 1, "new": None}, defaults={"new": None}) == {}


def test_ignored_keys_stand_for_what_is_below_them_only():
    old = {"env": {"threads": 1, "height": 84}, "environment": 1, "device": "cpu"}
    new = {"env": {"threads": 2, "height": 42}, "environment": 2, "device": "cuda"}
    assert set(differences(old, new, ("env", "device"))) == {"environment"}
    assert set(differences(old, new, ("env.threads",))) == {"env.height", "environment", "device"}


@pytest.mark.parametrize("text", ["a: [1", "- 1\n", "", "\x00"])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "config.yaml")
    assert str(caught.value).startswith(f"cannot read {tmp_path / 'config.yaml'}:")
    assert "\n" not in str(caught.value)


def test_a_document_knows_where_its_keys_stand_and_is_a_mapping_otherwise():
    text = "a: 1\nb: &b\n  c: 2\nd:\n  <<: *b\n  e: 3\n"
    document = parse_yaml(text, "x.yaml")
    assert document == {"a": 1, "b": {"c": 2}, "d": {"c": 2, "e": 3}}
    assert document.where == {"a": "x.yaml:1", "b": "x.yaml:2", "d": "x.yaml:4"}
    assert document["d"].where == {"c": "x.yaml:3", "e": "x.yaml:6"}
    assert yaml.safe_load(yaml.safe_dump({"all": document})) == {"all": document}
    assert pickle.loads(pickle.dumps(document)).where == document.where
    assert parse_yaml("", "x.yaml") == {}


def test_a_key_of_an_anchor_may_be_given_anew_and_no_key_twice():
    assert parse_yaml("b: &b {c: 2}\nd: {<<: *b, c: 3}", "x.yaml")["d"] == {"c": 3}
    with pytest.raises(UserError, match=r"cannot read x\.yaml:3: no valid YAML: key 'a' is given twice"):
        parse_yaml("d:\n  a: 1\n  a: 2\n", "x.yaml")


def test_numbers_and_words_are_those_of_yaml_1_2():
    numbers = "[010, 0x1F, 0o17, 1e3, -1e-3, .inf, 09, +.5, 12e03, ~, True, null]"
    assert parse_yaml(f"a: {numbers}", "x.yaml")["a"] == [
        10, 31, 15, 1000.0, -0.001, math.inf, 9, 0.5, 12000.0, None, True, None,
    ]  # fmt: skip
    texts = "1:30:00 0b11 yes on no 2024-01-01 1_000"
    assert parse_yaml(f"a: [{texts.replace(' ', ', ')}]", "x.yaml")["a"] == texts.split()
    assert math.isnan(parse_yaml("a: .nan", "x.yaml")["a"])
    assert list(parse_yaml("010: a\nnull: b\ntrue: c\n1e3: d\n", "x.yaml")) == ["010", "null", "true", "1e3"]
    assert parse_yaml("name: 010\nnames: [010, null]\nno: 010\nnone: null", "x.yaml", ("name", "names", "none")) == {
        "name": "010", "names": ["010", "null"], "no": 10, "none": None,
    }  # fmt: skip


WORDS = [
    *(
        "010",
        "1:30:00",
        "0b11",
        "0x1F",
        "0o17",
        "1e3",
        "yes",
        "2024-01-01",
        ".inf",
        "1_000",
        "+.5",
        "09",
        "~",
        "",
        "True",
    ),
    *("=", "<<", "null", "Infinity", "a: b", "#x", "x\ny", " x ", "\t", "\x07", "\x85", "\u2028", "\ufeff", "-", "?"),
]


@pytest.mark.parametrize("value", [*WORDS, 1e-7, 1e300, 5e-324, 1e22, 10**30, -0.0, math.inf, True, None])
def test_what_is_written_is_read_back_equal_by_readers_of_1_1_too(value):
    text = dump_yaml({"a": value, "b": [value]})
    for read in (parse_yaml(text, "x.yaml"), yaml.safe_load(text)):
        assert read == {"a": value, "b": [value]}
        assert type(read["a"]) is type(value)
    if isinstance(value, str):
        assert parse_yaml(dump_yaml({value: 1}), "x.yaml") == {value: 1}


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int x", "!!timestamp x", "!!float ''", "[" * 5000])
def test_a_wrong_tag_is_one_line(text):
    with pytest.raises(UserError, match=r"cannot read x\.yaml"):
        parse_yaml(f"a: {text}", "x.yaml")
