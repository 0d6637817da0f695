"""metrics.jsonl: one row a key, valid JSON, cut on resume, readable after a kill."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess

import pytest

from evaluation.cli.errors import UserError
from evaluation.runs.metrics_file import MetricRow, MetricsWriter, read_prefix, read_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_a_row_has_the_documented_keys(path):
    writer = MetricsWriter(path)
    writer.log(5000, 20000, 12.5, "eval", {"return": -20.4})
    assert json.loads(path.read_text()) == {
        "step": 5000, "samples": 20000, "wall_s": 12.5, "split": "eval", "name": "return", "value": -20.4,
    }  # fmt: skip
    assert list(read_rows(path)) == [MetricRow(5000, 20000, 12.5, "eval", "return", -20.4)]


def test_values_come_back_to_the_last_bit(path):
    values = {"a": 0.1 + 0.2, "b": 1e-310, "c": -0.0, "d": math.inf, "e": -math.inf, "f": 1e300, "g": 3}
    MetricsWriter(path).log(1, 1, 1.0, "train", {**values, "nan": math.nan})

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=no_constant)
    read = {row.name: row.value for row in read_rows(path)}
    assert math.isnan(read.pop("nan"))
    assert {name: value.hex() for name, value in read.items()} == {name: float(v).hex() for name, v in values.items()}


def test_a_key_comes_once_and_steps_only_grow(path):
    writer = MetricsWriter(path)
    writer.log(10, 10, 1.0, "train", {"loss": 1.0})
    writer.log(10, 10, 1.0, "eval", {"loss": 1.0})
    writer.log(10, 10, 1.0, "train", {"return": 1.0})
    before = path.read_bytes()
    for step in (10, 9):
        with pytest.raises(ValueError, match=r"train/loss at step .*: step 10 is already logged"):
            writer.log(step, 10, 2.0, "train", {"new": 0.0, "loss": 1.0})
    assert path.read_bytes() == before  # not even the row that would have been fine
    writer.log(11, 11, 2.0, "train", {"new": 0.0, "loss": 1.0})


def test_every_row_reaches_the_system_at_once(path):
    writer = MetricsWriter(path)
    for step in range(3):
        writer.log(step, step, 0.0, "train", {"loss": 1.0})
        assert len(list(read_rows(path))) == step + 1


def test_resume_cuts_to_the_recorded_length_and_knows_the_steps_before_it(path):
    writer = MetricsWriter(path)
    writer.log(1, 1, 1.0, "train", {"loss": 1.0})
    length = writer.length()
    assert length == path.stat().st_size
    writer.log(2, 2, 2.0, "train", {"loss": 2.0})
    writer.close()
    again = MetricsWriter(path, length=length)
    assert [row.step for row in read_rows(path)] == [1]
    with pytest.raises(ValueError):
        again.log(1, 1, 1.0, "train", {"loss": 1.0})
    again.log(2, 2, 2.0, "train", {"loss": 3.0})
    assert [row.value for row in read_rows(path)] == [1.0, 3.0]
    assert again.length() == path.stat().st_size


def test_a_new_run_starts_from_nothing(path):
    MetricsWriter(path).log(1, 1, 1.0, "train", {"loss": 1.0})
    MetricsWriter(path).log(1, 1, 1.0, "train", {"loss": 2.0})
    assert [row.value for row in read_rows(path)] == [2.0]


def test_a_file_shorter_than_the_checkpoint_says_was_changed_by_someone(path):
    writer = MetricsWriter(path)
    writer.log(1, 1, 1.0, "train", {"loss": 1.0})
    length = writer.length()
    os.truncate(path, 5)
    with pytest.raises(UserError, match=r"metrics.jsonl has 5 bytes, the checkpoint was taken at"):
        MetricsWriter(path, length=length)


def test_whatever_is_torn_off_the_end_the_whole_rows_are_read(path):
    writer = MetricsWriter(path)
    for step in (1, 2, 3):
        writer.log(step, step, 1.0, "train", {"loss": float(step)})
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        assert [row.step for row in read_rows(path)] == [1, 2]
    path.write_bytes(whole[:last] + b"\0" * 20 + b"\n")  # blocks that a power failure left unwritten
    assert [row.step for row in read_rows(path)] == [1, 2]


def test_damage_in_the_middle_is_named_with_its_line(path):
    writer = MetricsWriter(path)
    for step in (1, 2, 3):
        writer.log(step, step, 1.0, "train", {"loss": float(step)})
    lines = path.read_text().splitlines(keepends=True)
    for bad in ("{not json}\n", "[]\n", '{"step": 2}\n', lines[1].replace("2.0", '"two"')):
        path.write_text(lines[0] + bad + lines[2])
        with pytest.raises(UserError, match="line 2: not a row of metrics"):
            list(read_rows(path))


@pytest.mark.parametrize("damage", [b"\0" * 30, b"\xff\xfe{", b'{"step": x', b"x"])
def test_a_row_can_be_given_up_as_the_message_says(path, damage):
    """The length stays, so that a checkpoint's still holds."""
    path = path.with_name("it's metrics.jsonl")
    writer = MetricsWriter(path)
    for step in (1, 2, 3):
        writer.log(step, step, 1.0, "train", {"loss": float(step)})
    length = writer.length()
    writer.close()
    start = path.read_bytes().index(b"\n") + 1
    with path.open("r+b") as file:
        file.seek(start)
        file.write(damage)
    with pytest.raises(UserError) as caught:
        MetricsWriter(path, length=length)
    command = str(caught.value).partition("to go on without it: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert path.stat().st_size == length
    assert [row.step for row in read_rows(path)] == [1, 3]
    MetricsWriter(path, length=length).log(4, 4, 1.0, "train", {"loss": 4.0})
    assert [row.step for row in read_rows(path)] == [1, 3, 4]


def test_the_last_row_that_a_checkpoint_counts_must_be_whole(path):
    writer = MetricsWriter(path)
    for step in (1, 2):
        writer.log(step, step, 1.0, "train", {"loss": float(step)})
    length = writer.length()
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"\0\0\0\0\n")
    assert [row.step for row in read_rows(path)] == [1]
    with pytest.raises(UserError, match="line 2: not a row of metrics"):
        read_prefix(path, length)
    assert len(read_prefix(path, length // 2)) == 1


def test_on_a_full_disk_the_file_ends_with_its_last_whole_row_and_the_rest_waits(path):
    writer = MetricsWriter(path)
    writer.log(1, 1, 1.0, "train", {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))  # half a row more
    try:
        writer.log(2, 2, 2.0, "train", {"loss": 2.0})
        assert writer.held
        assert [row.value for row in read_rows(path)] == [1.0]
        with pytest.raises(OSError, match=r"File too large: .*metrics.jsonl"):
            writer.length()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes().endswith(b"}\n")
    writer.log(3, 3, 3.0, "train", {"loss": 3.0})
    assert not writer.held
    assert [row.value for row in read_rows(path)] == [1.0, 2.0, 3.0]
    assert writer.length() == path.stat().st_size
