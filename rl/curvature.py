"""The training loss of an algorithm as a function of its network's parameters, for `evaluation.curvature`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from evaluation.curvature.hessian import Problem
from rl.algorithms.algorithm import Algorithm


@contextmanager
def training_loss(algorithm: Algorithm, samples: int, rng: np.random.Generator) -> Iterator[Problem | None]:
    """The mean loss of that many samples of what it remembers, drawn with `rng` alone, with the targets that it would
    learn them from now: targets are fixed, as in an update. None as long as it remembers none.

    In the block the network is in evaluation mode (a spectral norm stays as it is), in float32 and without the noise of
    noisy layers, which a resumed run would have drawn otherwise.
    """
    learner = algorithm.learner
    training, precision = learner.network.training, learner.precision
    noises = list(getattr(learner, "noise", {}).values())
    for noise in noises:
        noise.silent = True
    try:
        part = algorithm.part(samples, rng)
        learner.network.eval()
        learner.precision = "fp32"
        if part is None:
            yield None
            return
        known = part
        yield Problem(
            learner.network,
            lambda rows: learner.losses(tuple(tensor[rows] for tensor in known)).sum(),
            samples=samples,
            items=samples,
        )
    finally:
        learner.precision = precision
        learner.network.train(training)
        for noise in noises:
            noise.silent = False
