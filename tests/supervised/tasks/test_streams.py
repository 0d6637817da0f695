"""Streams whose optimum is known: their samples, their score, and a run on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import load_summary
from supervised import cli, train
from supervised.config import TrainConfig
from supervised.distributed import ALONE, Group
from supervised.regression_stream import EVERY, JUMP, KINDS, LENGTH, PERIOD, SPREAD, RegressionStream
from supervised.tasks.streams import Streams
from tests.supervised.test_trainer import Killed, StopAt


def config_of(run: Path | None = None, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {"task": "streams", "threads": 1, "tensorboard": False, "device": "cpu", "run_dir": run}
    return TrainConfig.preset("streams", **(values | {"gradients": {"enabled": False}} | options))


def samples(kind: str, updates: int, batch: int = 64, seed: int = 3) -> tuple[RegressionStream, np.ndarray, np.ndarray]:
    """A stream, its inputs and its noise, of each update."""
    stream = RegressionStream(kind, seed, batch)
    pairs = [stream.samples(np.arange(k * batch, (k + 1) * batch)) for k in range(updates)]
    noise = [y - x @ stream.optimum(k).T for k, (x, y) in enumerate(pairs)]
    return stream, np.stack([x for x, _ in pairs]), np.stack(noise)


def test_samples_are_what_is_said_of_them() -> None:
    _, x, noise = samples("gaussian", 200)
    np.testing.assert_allclose(x.reshape(-1, 16).std(0), SPREAD, rtol=0.03)
    assert abs(np.corrcoef(x.reshape(-1, 16).T)[~np.eye(16, dtype=bool)]).max() < 0.05
    assert noise.std() == pytest.approx(1, rel=0.02)
    assert abs(noise).max() < 6
    _, _, heavy = samples("heavy-tailed", 200)
    median, far = np.quantile(abs(heavy), [0.5, 0.999])
    assert median == pytest.approx(0.8165, rel=0.03)  # quantiles of Student's t with 2 degrees of freedom
    assert far == pytest.approx(31.6, rel=0.3)


def test_bursts_come_once_in_each_hundred_updates() -> None:
    stream, _, noise = samples("bursts", 3 * EVERY)
    scales = noise.std((1, 2)).round(-1)
    blocks = (scales > 50).reshape(3, EVERY)
    assert blocks.sum(1).tolist() == [LENGTH] * 3
    starts = blocks.argmax(1)
    assert len(set(starts)) > 1
    assert all(block[start : start + LENGTH].all() for block, start in zip(blocks, starts, strict=True))
    assert [stream.noise_scale(k) for k in range(3 * EVERY)] == [100.0 if one else 1.0 for one in blocks.ravel()]


def test_optima_stay_jump_or_go_round() -> None:
    def moved(kind: str, *updates: int) -> list[float]:
        stream = RegressionStream(kind, 1, 8)
        return [float(np.linalg.norm(stream.optimum(k) - stream.optimum(0))) for k in updates]

    for kind in ("gaussian", "heavy-tailed", "bursts"):
        assert moved(kind, 1, 10_000) == [0, 0]
    before, after, later = moved("jumps", JUMP - 1, JUMP, 2 * JUMP)
    assert before == 0
    assert min(after, later, abs(after - later)) > 0.1
    near, half, whole = moved("drifting", 1, PERIOD // 2, PERIOD)
    assert 0 < near < 0.01 * half
    assert whole == pytest.approx(0, abs=1e-9)
    first = [RegressionStream("gaussian", seed, 8).optimum(0) for seed in (1, 2)]
    assert np.abs(first[0] - first[1]).max() > 0.5


def test_a_sample_is_its_own_whoever_asks() -> None:
    stream = RegressionStream("heavy-tailed", 1, 16)
    whole = stream.samples(np.arange(32, 48))
    part = stream.samples(np.arange(33, 48, 2))
    assert all(np.array_equal(a[1::2], b) for a, b in zip(whole, part, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_has_no_excess_risk_and_another_model_has_what_it_is_off_by(kind: str) -> None:
    task = Streams(config_of(model="linear", **{"data.name": kind}), ALONE, print)
    task.updates = 2 * JUMP  # the next update has another optimum, of which the model can know nothing
    model = task.make_model()
    optimum = torch.from_numpy(task.stream.optimum(2 * JUMP - 1))
    with torch.no_grad():
        model.bias.zero_()  # type: ignore[union-attr,operator]
        model.weight.copy_(optimum)  # type: ignore[union-attr,operator,arg-type]
        near = task.evaluate(model, "validation", final=True, tell=lambda *_: None)
        assert near.score > 10
        model.bias.fill_(0.1)  # type: ignore[union-attr,operator]
        off = task.evaluate(model, "validation", final=True, tell=lambda *_: None)
    assert off.values["excess_risk"] == pytest.approx(4 * 0.01 / 2, rel=1e-3)
    assert off.score == pytest.approx(1.699, abs=1e-3)


def test_a_model_far_off_has_the_lowest_score_and_one_that_is_no_number_has_none() -> None:
    task = Streams(config_of(model="linear"), ALONE, print)
    model = task.make_model()
    scores = []
    with torch.no_grad():
        for value in (1e3, 1e6, float("inf"), float("nan")):
            model.weight.fill_(value)  # type: ignore[union-attr,operator]
            scores.append(task.evaluate(model, "validation", final=True, tell=lambda *_: None).score)
    np.testing.assert_allclose(scores, [-1.30103, -1.30103, np.nan, np.nan], rtol=1e-5)


def test_learning_nears_the_optimum_and_a_clip_survives_bursts(tmp_path: Path) -> None:
    def final(folder: str, kind: str, **optimizer: Any) -> float:
        options = {"data.name": kind, "model": "linear", "total_steps": 300, "evaluation.interval": 100}
        train(config_of(tmp_path / folder, **options, optimizer=optimizer))
        return float(load_summary(tmp_path / folder)["mean_score"])

    assert final("a", "gaussian", name="sgd", lr=0.05) > 0.8
    plain = final("b", "bursts", name="sgd", lr=0.05)
    clipped = final("c", "bursts", name="asgc", rule="sgd", lr=0.05, outlier_share=0.25)
    assert clipped > plain + 0.5


def test_a_killed_run_goes_on_the_same_and_is_evaluated_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"data.name": "jumps", "total_steps": 260, "checkpoint_interval": 50}
    options["evaluation.interval"] = 130
    train(config_of(tmp_path / "whole", **options))
    with pytest.raises(Killed):
        train(config_of(tmp_path / "run", **options), watchers=[StopAt(120)])
    train(config_of(tmp_path / "run", **options), resume=True)
    whole, again = (load_summary(tmp_path / name)["mean_score"] for name in ("whole", "run"))
    assert whole == again
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
    assert f"score={whole:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"data.name": "burst"}, "--data burst: no such stream; did you mean 'bursts'?"),
        ({"model": "mpl"}, "--model mpl: no model of streams; there are linear, mlp"),
        ({"total_steps": None, "epochs": 3.0}, "--total-steps: a stream has no epochs"),
        ({"evaluation.train_subset": 10}, "--evaluation.train-subset: a stream has no training samples"),
    ],
)
def test_what_a_stream_cannot_do_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        Streams(config_of(**options), ALONE, print).make_model()
    assert line in str(caught.value)


def test_options_that_do_nothing_on_a_stream_are_refused() -> None:
    for name, value in {"label_smoothing": 0.3, "data.train_size": 5, "data.root": "x", "data.bad_share": 0.5}.items():
        (fault,) = [line for line in config_of(**{name: value}).faults() if "leave it out" in line]
        assert name.replace("_", "-") in fault


def test_several_processes_share_an_update() -> None:
    with pytest.raises(UserError, match="fewer samples than the 2 processes"):
        Streams(config_of(batch_size=1), Group(0, 2), print)
