"""The bench: its networks, its figures, and that it refuses to time code that does not do the work."""

import json
import math

import pytest
import torch

import asgc.implementations.cpu
from benchmarks import optimizer_step as bench


def test_networks_have_the_published_sizes() -> None:
    assert sum(math.prod(shape) for shape in bench.dqn()) == 1_687_206  # 6 actions
    assert sum(math.prod(shape) for shape in bench.resnet50()) == 25_557_032  # torchvision's resnet50
    assert len(bench.resnet50()) == 161
    assert sum(math.prod(shape) for shape in bench.gpt2_medium()) == 354_823_168  # Hugging Face's gpt2-medium


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SHAPES", {"dqn": lambda: [(64, 50), (64,)]})


@pytest.mark.usefixtures("small")
def test_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--shapes", "dqn", "--steps", "2", "--threads", "1"]) == 0
    table = capsys.readouterr().out
    assert table.count("dqn") == 4 * 3
    for word in ("value", "norm", "cpu", "foreach", "reference", "of copy speed", "Largest ratio of cpu"):
        assert word in table
    assert bench.main(["--shapes", "dqn", "--steps", "2", "--fast-only", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [(r["mode"], r["noise_scale"]) for r in figures["results"]] == [
        ("value", 0.0), ("value", 0.1), ("norm", 0.0), ("norm", 0.1),
    ]  # fmt: skip
    for result in figures["results"]:
        median = result["cpu"]["median"]
        assert result["cpu"]["ratio"] == pytest.approx(median / result["clip_adam"]["median"])
        assert result["cpu"]["ratio_adam"] == pytest.approx(median / result["adam"]["median"])
        assert result["cpu"]["copy_bandwidth"] == pytest.approx(result["copy"]["median"] / median)
        assert result["copy"]["min"] > 0
        assert result["bytes"] == 28 * (64 * 50 + 64)
        assert "reference" not in result


@pytest.mark.usefixtures("small")
def test_other_granularity_and_noise_are_timed_by_what_serves_them(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--shapes", "dqn", "--steps", "1", "--granularity", "unit", "--noise-at", "update", "--json"]
    assert bench.main(argv) == 0
    for result in json.loads(capsys.readouterr().out)["results"]:
        assert (result["granularity"], result["noise_at"]) == ("unit", "update")
        assert result["cpu"]["ratio"] > 0
        assert "foreach" not in result  # it has no units


@pytest.mark.usefixtures("small")
def test_adaptation_is_timed_beside_the_same_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--shapes", "dqn", "--steps", "8", "--adapt", "--fast-only", "--json"]) == 0
    for result in json.loads(capsys.readouterr().out)["results"]:
        both = result["cpu+adapt"], result["cpu"]
        assert both[0]["ratio_without"] == pytest.approx(both[0]["mean"] / both[1]["mean"])
    assert bench.main(["--shapes", "dqn", "--steps", "8", "--adapt", "--granularity", "unit"]) == 0
    assert "no cpu+adapt implementation here: " in capsys.readouterr().out


def test_the_copy_moves_the_bytes_of_a_step() -> None:
    grads = bench.heavy_tailed([(8, 10)], seed=0)
    copy = bench.peers([(8, 10)], grads, "cpu")["copy"]()
    assert 2 * copy.numel() * copy.element_size() == 28 * 80


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"noise_scale": 0.0}, "the noise does not change the step"),
        ({"clip_factor": math.inf}, "clipped"),
        ({"lr": 2e-3}, "off the reference"),
    ],
)
def test_code_that_does_less_is_not_timed(
    options: dict[str, float], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = asgc.implementations.cpu.step

    def weak(opt: asgc.ASGC) -> None:
        for group in opt.param_groups:
            group.update(options)
        real(opt)

    monkeypatch.setattr(asgc.implementations.cpu, "step", weak)
    assert bench.main(["--shapes", "dqn", "--steps", "1"]) == 1
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.out == ""


def test_without_a_compiler_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: None
) -> None:
    monkeypatch.setattr(asgc.implementations.cpu, "unsupported", lambda opt: "no C++ compiler")
    assert bench.main(["--shapes", "dqn", "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert "no cpu implementation here: no C++ compiler" in out
    assert "foreach" in out


def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--steps", "0"], ["--shapes", "vgg"], ["--threads", "-1"], ["--noise-at", "end"]):
        with pytest.raises(SystemExit) as error:
            bench.main(argv)
        assert error.value.code == 2
    assert torch.get_num_threads() >= 1
