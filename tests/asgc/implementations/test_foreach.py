"""What is special to the foreach path; its equality with the reference is tested beside the kernel's."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from asgc import ASGC
from asgc.implementations import foreach


def test_is_clearly_cheaper_than_the_reference() -> None:
    steps = {}
    for implementation in ("foreach", "reference"):
        params = [torch.zeros(400_000), *[torch.zeros(64) for _ in range(40)]]
        opt = ASGC(params, 0.1, implementation=implementation)
        for p in params:
            p.grad = torch.randn(p.shape)
        steps[implementation] = opt.step
    best = dict.fromkeys(steps, float("inf"))
    for turn in range(5):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if turn:
                best[name] = min(best[name], time.perf_counter() - begin)
    assert best["foreach"] < 0.7 * best["reference"], best


def test_optimizers_in_threads_of_their_own_do_not_touch_each_other() -> None:
    def train(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        param = torch.zeros(2 * foreach.CHUNK)
        opt = ASGC([param], 0.1, mode="value", clip_factor=1.0, seed=seed, implementation="foreach")
        for _ in range(20):
            param.grad = torch.randn(param.shape, generator=generator)
            opt.step()
        return param

    alone = [train(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(train, range(3)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
