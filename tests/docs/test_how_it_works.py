"""The picture of the optimizer's README, from recorded gradients."""

from __future__ import annotations

import math

import pyarrow
import pytest
from pyarrow import parquet

from docs.how_it_works import main


@pytest.fixture
def run(tmp_path):
    """A small layer, and a large one whose gradient is above its threshold at one update of four."""
    rows = [
        {
            "update": update,
            "layer": layer,
            "numel": numel,
            "since_shift": update % 2,
            "grad_rms": size,
            "threshold": 2.0,
        }
        for layer, numel, sizes in (("bias", 3, (1.0, 1.0, 1.0, 1.0)), ("weight", 60, (1.0, 9.0, 1.0, 0.5)))
        for update, size in enumerate(sizes)
    ]
    (tmp_path / "run" / "gradients").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist([*rows, rows[-1]]), tmp_path / "run" / "gradients" / "part-0.parquet")
    return tmp_path / "run"


def test_it_shows_the_largest_layer_or_the_one_asked_for(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "a.svg")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.svg'}: weight\n"
    assert "weight of a DQN: 25.0% of its updates are clipped" in (tmp_path / "a.svg").read_text()
    assert main([str(run), str(tmp_path / "b.svg"), "--layer", "bias"]) == 0
    assert "bias of a DQN: 0.0% of its updates are clipped" in (tmp_path / "b.svg").read_text()


def test_what_cannot_be_drawn_is_one_line(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "a.png"), "--layer", "head"]) == 2
    assert "has no layer 'head': it has bias, weight" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "a.png")]) == 2
    assert "has no readable gradients: train with --gradients.interval 1" in capsys.readouterr().err
    rows = [{"update": 0, "layer": "w", "numel": 1, "since_shift": 0, "grad_rms": 1.0, "threshold": math.inf}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), run / "gradients" / "part-0.parquet")
    assert main([str(run), str(tmp_path / "a.png")]) == 2
    assert "has a threshold: train with --optimizer asgc" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
