"""``python -m benchmarks.optimizer_step``: what a step of ASGC(adam) costs.

The peers are clip_grad_norm_ + Adam(fused=True), Adam(fused=True) alone, and a copy.

All optimizers take turns in one process on the same shapes, so a busy machine slows all of them alike; the figures are
medians. The copy moves the bytes that a step must move at least, so its time over a step's is the share of the
machine's copy bandwidth that the step reaches; on a CPU it may exceed 100 %, as a copy has to fetch the lines that it
overwrites, too, while a step has read them anyway. Before anything is timed, the timed code is checked: it must equal
the reference, clip, and add noise.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from asgc.implementations import REGISTRY
from asgc.optimizer import ASGC
from asgc.options import ASGC_OPTIONS

__all__ = ["BYTES", "SHAPES", "main", "measure", "verify"]

Shapes = list[tuple[int, ...]]
Options = Mapping[str, Any]
MODES = ("value", "norm")
NOISES = (0.0, 0.1)
FAST = {"cpu": "cpu", "cuda": "triton"}
SLOW = ("foreach", "reference")  # timed in fewer rounds
ADAPT = "+adapt"  # after an implementation's name: with adapt="hypergradient"
PEERS = {"clip_adam": "clip+Adam", "adam": "Adam", "copy": "copy"}
BYTES = 28  # a parameter: gradient, parameter and both moments are read, the last three written, in fp32


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


def gpt2_medium() -> Shapes:
    """GPT-2 medium (Radford et al. 2019, table 2: 24 layers of width 1,024): 354.8 million parameters."""
    width, vocabulary, positions = 1024, 50257, 1024
    norm: Shapes = [(width,), (width,)]
    attention: Shapes = [(3 * width, width), (3 * width,), (width, width), (width,)]
    feed_forward: Shapes = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(vocabulary, width), (positions, width), *(24 * (norm + attention + norm + feed_forward)), *norm]


SHAPES: dict[str, Callable[[], Shapes]] = {"dqn": dqn, "resnet50": resnet50, "gpt2-medium": gpt2_medium}
# The largest needs 24 GB or so of memory, and minutes on a CPU: only where it is asked for, or on a GPU.
USUAL = {"cpu": ["dqn", "resnet50"], "cuda": list(SHAPES)}
ROUNDS = {("cpu", "resnet50"): 16, ("cpu", "gpt2-medium"): 8}  # else 200


def heavy_tailed(shapes: Shapes, seed: int, device: str = "cpu") -> list[Tensor]:
    """Gradients with outliers: Gaussian numbers divided by uniform ones, about 2 % beyond three sigma."""
    generator = torch.Generator(device).manual_seed(seed)
    options: dict[str, Any] = {"generator": generator, "device": device}
    return [torch.randn(s, **options) / (0.05 + torch.rand(s, **options)) for s in shapes]


def parameters(shapes: Shapes, device: str = "cpu") -> list[torch.nn.Parameter]:
    generator = torch.Generator(device).manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, device=device) * 0.1) for s in shapes]


def set_gradients(params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


def build(shapes: Shapes, device: str, **options: Any) -> tuple[list[Tensor], ASGC]:
    params: list[Tensor] = list(parameters(shapes, device))
    return params, ASGC(params, 1e-3, **options)


def verify(
    shapes: Shapes, implementations: Sequence[str], mode: str, options: Options, device: str = "cpu", steps: int = 2
) -> list[str]:
    """Check implementations against the reference on these shapes, noise on.

    The last step has gradients thirty times larger, which norm mode must clip in every layer.

    Returns:
        What is wrong, in words; empty if all is well.
    """

    def made(implementation: str, noise_scale: float) -> tuple[list[Tensor], ASGC]:
        chosen = {**options, "mode": mode, "noise_scale": noise_scale, "implementation": implementation}
        return build(shapes, device, **chosen)

    runs = {("reference", 0.1): made("reference", 0.1)}
    for implementation in implementations:
        for noise_scale in NOISES:
            runs[implementation, noise_scale] = made(implementation, noise_scale)
    for step in range(steps):
        grads = heavy_tailed(shapes, step, device)
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


def peers(shapes: Shapes, grads: Sequence[Tensor], device: str) -> dict[str, Callable[[], Any]]:
    """Steps of clip_grad_norm_ + Adam(fused=True), on gradients of its own (it changes them), of the latter alone, and
    a copy of as many bytes as a step must move."""

    def adam(grads: Sequence[Tensor], max_norm: float | None) -> Callable[[], Any]:
        params = parameters(shapes, device)
        set_gradients(params, grads)
        opt = torch.optim.Adam(params, lr=1e-3, fused=True)

        def step() -> None:
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(params, max_norm)
            opt.step()

        return step

    size = sum(math.prod(shape) for shape in shapes) * BYTES // 8  # fp32 numbers, each read and written
    source = torch.ones(size, device=device)
    target = torch.zeros(size, device=device)
    return {
        "clip_adam": adam([grad.clone() for grad in grads], 1.0),
        "adam": adam(grads, None),
        "copy": lambda: target.copy_(source),
    }


def measure(
    shapes: Shapes, implementations: Sequence[str], options: Options, rounds: int, device: str = "cpu"
) -> dict[str, Any]:
    """Median and shortest seconds a step of the peers and of every implementation, taking turns.

    Returns:
        {"clip_adam", "adam", "copy", implementation: {"median", "min", "mean"}}; an implementation's has the ratios of
        the medians, too: "ratio" to clip_adam, "ratio_adam" to adam, and "copy_bandwidth", the copy's over it; with
        adapt also "ratio_without", of the mean to that of the same implementation without.
    """
    grads = heavy_tailed(shapes, 0, device)
    steps = peers(shapes, grads, device)
    for name in implementations:
        adapt = "hypergradient" if name.endswith(ADAPT) else None
        params, opt = build(shapes, device, **options, implementation=name.removesuffix(ADAPT), adapt=adapt)
        set_gradients(params, grads)
        steps[name] = opt.step
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = 2
    for turn in range(warm_up + rounds):
        for name, step in steps.items():
            if name in SLOW and turn >= warm_up + max(3, rounds // 20):
                continue
            wait()
            begin = time.perf_counter()
            step()
            wait()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    result: dict[str, Any] = {
        name: {"median": statistics.median(values), "min": min(values), "mean": statistics.fmean(values)}
        for name, values in seconds.items()
    }
    for name in implementations:
        median = result[name]["median"]
        result[name]["ratio"] = median / result["clip_adam"]["median"]
        result[name]["ratio_adam"] = median / result["adam"]["median"]
        result[name]["copy_bandwidth"] = result["copy"]["median"] / median
        if name.endswith(ADAPT):  # it measures every few steps only: a median would not see it
            result[name]["ratio_without"] = result[name]["mean"] / result[name.removesuffix(ADAPT)]["mean"]
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizer_step", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=None,
                        help="networks (default: dqn and resnet50; on a GPU gpt2-medium as well)")  # fmt: skip
    parser.add_argument("--device", choices=sorted(FAST), default="cpu", help="where the parameters are (default: cpu)")
    for name in ("granularity", "noise_at"):
        flag = f"--{name.replace('_', '-')}"
        option = next(option for option in ASGC_OPTIONS if option.name == name)
        parser.add_argument(
            flag, choices=option.choices, default=option.default, help=f"{option.help} (default: {option.default})"
        )
    parser.add_argument("--adapt", action="store_true", help="time it with adapt='hypergradient', too (on a CPU)")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--steps", type=int, default=None,
                        help="timed rounds (default: 200; on a CPU 16 for resnet50, 8 for gpt2-medium)")  # fmt: skip
    parser.add_argument("--fast-only", action="store_true", help="leave foreach and the reference out of the timing")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args(argv)
    for name in ("threads", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit code: 1 if the timed code does not do what it should, else 0."""
    args = arguments(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    fast, shapes = FAST[args.device], args.shapes or [name for name in USUAL[args.device] if name in SHAPES]
    options = {"granularity": args.granularity, "noise_at": args.noise_at}
    _, probe = build([(2, 2)], args.device, **options)
    reasons = {name: REGISTRY[name].unsupported(probe) for name in (fast, *SLOW)}
    implementations = [name for name, reason in reasons.items() if reason is None]
    checked = [name for name in implementations if name != "reference"]
    wrong = [
        problem
        for name in shapes
        for mode in MODES
        for problem in verify(SHAPES[name](), checked, mode, options, args.device)
    ]
    for problem in wrong:
        print(problem, file=sys.stderr)
    if wrong:
        return 1
    if args.fast_only:
        implementations = [name for name in implementations if name not in SLOW]
    if args.adapt:
        _, probe = build([(2, 2)], args.device, **options, adapt="hypergradient")
        reason = REGISTRY[fast].unsupported(probe)
        if reason is None:
            implementations.insert(1, fast + ADAPT)
        reasons[fast + ADAPT] = reason

    say: Callable[..., Any] = (lambda *_, **__: None) if args.json else print
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    say(f"torch {torch.__version__}, {where}; granularity {args.granularity}, noise at {args.noise_at}")
    for name, reason in reasons.items():
        if reason is not None:
            say(f"no {name} implementation here: {reason}")
    say(f"MB: what a step moves at least, {BYTES} bytes a parameter; clip+Adam: clip_grad_norm_ + Adam(fused=True)")
    say(_header())
    results = []
    for name in shapes:
        network = SHAPES[name]()
        size = BYTES * sum(math.prod(shape) for shape in network)
        rounds = args.steps or ROUNDS.get((args.device, name), 200)
        for mode in MODES:
            for noise_scale in NOISES:
                chosen = {**options, "mode": mode, "noise_scale": noise_scale}
                result = measure(network, implementations, chosen, rounds, args.device)
                results.append({"shapes": name, "bytes": size, **chosen, **result})
                say("\n".join(_lines(results[-1], implementations)), flush=True)
    if args.json:
        versions = {"torch": torch.__version__, "device": args.device, "threads": torch.get_num_threads()}
        print(json.dumps({**versions, "results": results}))
    elif fast in implementations:
        worst = max(result[fast]["ratio"] for result in results)
        print(
            f"checked: equal to the reference, clips, adds noise. Largest ratio of {fast} to clip+Adam: {worst:.2f}x "
            f"(reach <= {1.0 if args.device == 'cpu' else 0.9:.2f}x)"
        )
        if fast + ADAPT in implementations:
            most = max(result[fast + ADAPT]["ratio_without"] for result in results)
            print(f"Mean step with adapt over the same without: at most {most:.2f}x (reach <= 1.50x)")
    return 0


def _header() -> str:
    peers = "".join(f"{peer + ' ms':>14}" for peer in PEERS.values())
    own = f"  {'ASGC':10}{'ms':>9}{'to clip+Adam':>14}{'to Adam':>9}{'of copy speed':>15}"
    return f"{'shapes':12}{'mode':6}{'noise':5}{'MB':>8}{peers}{own}"


def _lines(result: Mapping[str, Any], implementations: Sequence[str]) -> list[str]:
    noise = "on" if result["noise_scale"] else "off"
    start = f"{result['shapes']:12}{result['mode']:6}{noise:5}{result['bytes'] / 1e6:>8.1f}"
    start += "".join(f"{1e3 * result[peer]['median']:>14.3f}" for peer in PEERS)
    return [
        f"{start}  {name:10}{1e3 * figures['median']:>9.3f}{figures['ratio']:>13.2f}x{figures['ratio_adam']:>8.2f}x"
        f"{figures['copy_bandwidth']:>15.0%}"
        for name, figures in ((name, result[name]) for name in implementations)
    ]


if __name__ == "__main__":
    sys.exit(main())
