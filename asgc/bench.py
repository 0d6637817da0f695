"""``python -m asgc.bench``: what a step of ASGC(adam) costs beside clip_grad_norm_ + Adam(fused=True).

All optimizers take turns in one process on the same shapes, so a busy machine slows all of them alike; the figures are
medians. Before anything is timed, the timed code is checked: it must equal the reference, clip, and add noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .optimizer import ASGC, unsupported

__all__ = ["SHAPES", "main", "measure", "verify"]

Shapes = list[tuple[int, ...]]
MODES = ("value", "norm")
NOISES = (0.0, 0.1)
SLOW = ("foreach", "reference")  # timed in fewer rounds


def dqn() -> Shapes:
    """The Nature DQN for 84x84x4 frames and 6 actions: 1.7 million parameters."""
    layers: Shapes = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
    return [shape for weight in layers for shape in (weight, weight[:1])]


def resnet50() -> Shapes:
    """ResNet-50 (He et al. 2015, table 1) with batch norm and 1,000 classes: 25.6 million parameters."""

    def convolution(out: int, inputs: int, kernel: int) -> Shapes:
        return [(out, inputs, kernel, kernel), (out,), (out,)]

    shapes, inputs = convolution(64, 3, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, inputs, 1) + convolution(width, width, 3) + convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, inputs, 1)
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


SHAPES: dict[str, Callable[[], Shapes]] = {"dqn": dqn, "resnet50": resnet50}
ROUNDS = {"dqn": 200, "resnet50": 15}


def heavy_tailed(shapes: Shapes, seed: int) -> list[Tensor]:
    """Gradients with outliers: Gaussian numbers divided by uniform ones, about 2 % beyond three sigma."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) / (0.05 + torch.rand(s, generator=generator)) for s in shapes]


def parameters(shapes: Shapes) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator) * 0.1) for s in shapes]


def set_gradients(params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


def build(shapes: Shapes, implementation: str, mode: str, noise_scale: float) -> tuple[list[Tensor], ASGC]:
    params: list[Tensor] = list(parameters(shapes))
    return params, ASGC(params, 1e-3, mode=mode, noise_scale=noise_scale, implementation=implementation)


def verify(shapes: Shapes, implementations: Sequence[str], mode: str, steps: int = 2) -> list[str]:
    """Check implementations against the reference on these shapes, noise on.

    The last step has gradients thirty times larger, which norm mode must clip in every layer.

    Returns:
        What is wrong, in words; empty if all is well.
    """
    runs = {("reference", 0.1): build(shapes, "reference", mode, 0.1)}
    for implementation in implementations:
        for noise_scale in NOISES:
            runs[implementation, noise_scale] = build(shapes, implementation, mode, noise_scale)
    for step in range(steps):
        grads = heavy_tailed(shapes, seed=step)
        if step == steps - 1:
            torch._foreach_mul_(grads, 30.0)
        for params, opt in runs.values():
            set_gradients(params, grads)
            opt.step()
    expected = runs["reference", 0.1][0]
    largest = max(range(len(shapes)), key=lambda i: expected[i].numel())
    wrong: list[str] = []
    for implementation in implementations:
        label = f"{implementation}, {mode} mode"
        found, opt = runs[implementation, 0.1]
        silent = runs[implementation, 0.0][0]
        for i, (e, f) in enumerate(zip(expected, found, strict=True)):
            if not torch.allclose(e, f, rtol=1e-5, atol=2e-6):
                error = float((e - f).detach().abs().max())
                wrong.append(f"{label}: parameter {i} {tuple(e.shape)} is off the reference by {error:.1e}")
        if all(torch.equal(f, s) for f, s in zip(found, silent, strict=True)):
            wrong.append(f"{label}: the noise does not change the step")
        entries = opt.diagnostics()
        if mode == "norm" and not all(entry["clipped"] > 0 for entry in entries):
            wrong.append(f"{label}: gradients thirty times larger are not clipped in every layer")
        if not entries[largest]["clipped"] > 0 or not entries[largest]["attenuation"] < 0.5:
            wrong.append(f"{label}: outliers are not clipped")
    return wrong


def peer(shapes: Shapes, grads: Sequence[Tensor]) -> Callable[[], None]:
    """clip_grad_norm_ + Adam(fused=True) on gradients of its own (it changes them)."""
    params = parameters(shapes)
    set_gradients(params, [grad.clone() for grad in grads])
    opt = torch.optim.Adam(params, lr=1e-3, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()

    return step


def measure(
    shapes: Shapes, implementations: Sequence[str], mode: str, noise_scale: float, rounds: int
) -> dict[str, Any]:
    """Median and shortest seconds a step of the peer and of every implementation, taking turns.

    Returns:
        {"peer": {"median", "min"}, implementation: {"median", "min", "ratio"}}, ratio of the medians over the peer's.
    """
    grads = heavy_tailed(shapes, seed=0)
    steps: dict[str, Callable[[], Any]] = {"peer": peer(shapes, grads)}
    for implementation in implementations:
        params, opt = build(shapes, implementation, mode, noise_scale)
        set_gradients(params, grads)
        steps[implementation] = opt.step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = 2
    for turn in range(warm_up + rounds):
        for name, step in steps.items():
            if name in SLOW and turn >= warm_up + max(3, rounds // 20):
                continue
            begin = time.perf_counter()
            step()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    result: dict[str, Any] = {
        name: {"median": statistics.median(values), "min": min(values)} for name, values in seconds.items()
    }
    for name in implementations:
        result[name]["ratio"] = result[name]["median"] / result["peer"]["median"]
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asgc.bench", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES), help="networks")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--steps", type=int, default=None, help="timed rounds (default: 200 for dqn, 15 for resnet50)")
    parser.add_argument("--fast-only", action="store_true", help="leave foreach and the reference out of the timing")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args(argv)
    for name in ("threads", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit code: 1 if the timed code does not do what it should, else 0."""
    args = arguments(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    probe = ASGC([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    reason = unsupported(probe, "cpu")
    implementations = [name for name in ("cpu", *SLOW) if name != "cpu" or reason is None]
    checked = [name for name in implementations if name != "reference"]
    wrong = [problem for name in args.shapes for mode in MODES for problem in verify(SHAPES[name](), checked, mode)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    if wrong:
        return 1
    if args.fast_only:
        implementations = [name for name in implementations if name not in SLOW]

    results = []
    if not args.json:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ratios to clip_grad_norm_ + fused Adam")
        if reason is not None:
            print(f"no cpu implementation here: {reason}")
        print(f"{'shapes':10}{'mode':7}{'noise':7}{'peer ms':>9}" + "".join(f"{name:>19}" for name in implementations))
    for name in args.shapes:
        for mode in MODES:
            for noise_scale in NOISES:
                rounds = args.steps or ROUNDS[name]
                result = measure(SHAPES[name](), implementations, mode, noise_scale, rounds)
                results.append({"shapes": name, "mode": mode, "noise_scale": noise_scale, **result})
                if not args.json:
                    cells = (
                        f"{1e3 * result[i]['median']:>9.2f} ms {result[i]['ratio']:>5.2f}x" for i in implementations
                    )
                    noise = "on" if noise_scale else "off"
                    print(
                        f"{name:10}{mode:7}{noise:7}{1e3 * result['peer']['median']:>9.2f}" + "".join(cells), flush=True
                    )
    if args.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "results": results}))
    elif reason is None:
        worst = max(result["cpu"]["ratio"] for result in results)
        print(
            f"checked: equal to the reference, clips, adds noise. Largest ratio of cpu: {worst:.2f}x (reach <= 1.00x)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
