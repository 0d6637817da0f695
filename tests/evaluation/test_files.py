"""Atomic files and numbers that JSON does not have."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation.files import atomic_path, atomic_write, folder_name, from_json, read_json, to_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    atomic_write(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    atomic_write(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_valid_and_comes_back(tmp_path):
    value = {"final": math.inf, "low": -math.inf, "x": [1, 2.5, None, True, "word"], "nested": {"t": (1, math.inf)}}
    write_json(tmp_path / "summary.json", value)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / "summary.json").read_text(), parse_constant=no_constant)
    assert read_json(tmp_path / "summary.json") == {**value, "nested": {"t": [1, math.inf]}}
    assert math.isnan(from_json(json.loads(json.dumps(to_json({"v": math.nan}))))["v"])


def test_numpy_numbers_and_paths_become_plain():
    plain = to_json(
        {"a": np.float32(1.5), "b": np.int64(3), "c": np.float64(np.nan), "d": Path("x/y"), 5: np.bool_(True)}
    )
    assert plain == {"a": 1.5, "b": 3, "c": "NaN", "d": "x/y", "5": True}
    assert all(type(value) in (float, int, str, bool) for value in plain.values())


def test_text_that_reads_like_a_number_stays_text(tmp_path):
    value = {"setting": "Infinity", "x": ["NaN", "-Infinity", "\\Infinity", "\\", "infinity"], "y": math.inf}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_long_names_are_shortened_and_stay_apart():
    assert folder_name("x" * 255) == "x" * 255
    names = {folder_name("x" * 300), folder_name("x" * 301), folder_name("ä" * 200)}
    assert len(names) == 3
    assert all(len(name.encode()) <= 255 for name in names)


def test_file_names_that_are_no_text_can_be_written(tmp_path):
    atomic_write(tmp_path / "page.html", "runs/\udcff")
    assert (tmp_path / "page.html").read_text() == "runs/\\udcff"
