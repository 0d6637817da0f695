"""Differentiable tasks: samples by seed and step, what a loss is, and a run that learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asgc.meta import Preset
from evaluation.meta import class_task
from supervised.learned_tasks import Digits, Stream
from supervised.regression_stream import RegressionStream

PLAIN = Preset("plain", "adam", {"noise_scale": 0.0}, {kind: {} for kind in ("weights", "vectors", "head")})


def test_wrong_labels_are_those_of_the_run_in_every_batch() -> None:
    clean, wrong = Digits(batch_size=4000), Digits(batch_size=4000, label_noise=0.4)
    (x, y), (same, labels) = clean.batch(3, 1), wrong.batch(3, 1)
    assert torch.equal(x, same)
    assert float((labels != y).float().mean()) == pytest.approx(0.4 * 0.9, abs=0.04)
    known = {tuple(image): int(label) for image, label in zip(x.tolist(), labels.tolist(), strict=True)}
    images, later = wrong.batch(4, 1)
    pairs = zip(map(tuple, images.tolist()), later.tolist(), strict=True)
    again = [known[image] == label for image, label in pairs if image in known]
    assert len(again) > 1000
    assert all(again)
    _, other = wrong.batch(3, 2)
    assert not torch.equal(other, labels)


def test_a_stream_is_the_trainers_and_scales_its_targets() -> None:
    task = Stream("bursts", batch_size=8, scale=10.0)
    x, y = task.batch(5, seed=3)
    stream = RegressionStream("bursts", 3, 8)
    inputs, targets = stream.samples(np.arange(40, 48))
    np.testing.assert_allclose(x, inputs, rtol=1e-6)
    np.testing.assert_allclose(y, 10 * targets, rtol=1e-5)
    params = {name: torch.zeros_like(value) for name, value in task.start(0).items()}
    assert float(task.loss(params, x, y)) == pytest.approx(float((y**2).sum(1).mean() / 2), rel=1e-6)
    with pytest.raises(ValueError, match="no stream 'burst': there are gaussian, heavy-tailed, bursts"):
        Stream("burst")


@pytest.mark.parametrize(("task", "rate"), [(Digits(steps=100), 1e-2), (Stream("gaussian", steps=200), 1e-2)])
def test_a_run_learns(task: Any, rate: float) -> None:
    untrained, trained = class_task.run(task, PLAIN, 1e-9, 5), class_task.run(task, PLAIN, rate, 5)
    assert trained > 0.75 * untrained  # both are negative: a quarter less of the loss, as a mean over the run
    assert class_task.run(task, PLAIN, rate, 5) == trained
    starts = [task.start(seed) for seed in (1, 1, 2)]
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(starts[0]["layer0.weight"], starts[2]["layer0.weight"])
    assert float(starts[0]["layer0.weight"].abs().max()) <= starts[0]["layer0.weight"].shape[1] ** -0.5
