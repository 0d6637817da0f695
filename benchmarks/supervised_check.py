"""Is supervised training on a device right, and how fast is it? For a machine with a GPU, in minutes, from a checkout:

    python -m benchmarks.supervised_check [--device cuda] [--seconds 280]

Correct are: updates of ResNet-50 and the Transformer beside the same updates on the CPU, no waiting for the device in
an update, two deterministic runs. Then images and target tokens per second in bf16 on data that is made up; the share
of the speed of bf16 matrix products, measured in the same run, which that is (operations as torch counts them); the
share of the time that the trainer waits for data, and the peak of the device's memory. One table; the exit code is 1
where something is wrong. With `--device cpu` it rehearses all that in small sizes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before a device is used

import torch
from torch import Tensor

from benchmarks.checks import Check, Setting, Skip, run_all
from benchmarks.made_up import MadeUpImages, MadeUpText
from evaluation.runs.hardware import deterministic
from evaluation.runs.interval_means import clipping_on_device
from supervised.config import TrainConfig
from supervised.distributed import ALONE
from supervised.dry_run import operations
from supervised.learner import Learner
from supervised.preflight import choose
from supervised.stream import Stream
from supervised.tasks.task import Task

CLASSES: dict[str, Callable[..., Task]] = {"imagenet": MadeUpImages, "wmt14": MadeUpText}
SPEEDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("ResNet-50", "imagenet", {"channels_last": True}),
    ("ResNet-50, contiguous", "imagenet", {"channels_last": False}),
    ("Transformer base", "wmt14", {}),
    ("ResNet-50, compile", "imagenet", {"channels_last": True, "compile": True}),
    ("Transformer base, compile", "wmt14", {"compile": True}),
)
SIZE = 8192  # of the matrices whose product is timed
FAR = 1 << 40  # updates of runs that nobody ends
UPDATES = 3  # that are compared
TOLERANCE = 1e-2  # of how far the weights went


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks and print the table; returns the exit code."""
    return run_all("python -m benchmarks.supervised_check", __doc__.split("\n\n")[0], checks, argv)


def checks() -> list[tuple[str, Check]]:
    """Names and checks: each returns a note, or raises."""
    made: list[tuple[str, Check]] = [("matrix products in bf16", matrix_products)]
    for model in (None, "small-cnn"):
        images = functools.partial(as_on_the_cpu, task="imagenet", model=model)
        made.append((f"updates = the CPU's, {model or 'ResNet'}", images))
    made.append(("updates = the CPU's, Transformer", functools.partial(as_on_the_cpu, task="wmt14")))
    for name, check in (
        ("deterministic twice", deterministic_twice),
        ("no waiting in updates", no_waiting),
    ):
        made += [(f"{name}, {task}", functools.partial(check, task=task)) for task in CLASSES]
    return made + [
        (f"speed of {name}", functools.partial(speed, task=task, **options)) for name, task, options in SPEEDS
    ]


class Session(NamedTuple):
    task: Task
    learner: Learner
    stream: Stream

    def update(self) -> tuple[int, dict[str, Tensor]]:
        """As the trainer does; returns the update's items, and the means of what is logged."""
        batches, items = self.stream.next()
        return items, self.learner.update(batches, items)


@contextlib.contextmanager
def session(setting: Setting, task: str, *, device: torch.device | None = None, **options: Any) -> Iterator[Session]:
    """Training on made-up data, from the start.

    Args:
        options: of `TrainConfig`, beside those that all have here.
    """
    where = setting.device if device is None else device
    values: dict[str, Any] = {"device": str(where), "threads": torch.get_num_threads(), "precision": "bf16"}
    if task == "imagenet":
        side, batch, model = (32, 4, "resnet18") if setting.small else (224, 256, "resnet50")
        values |= {"model": model, "batch_size": batch, "data": {"resolution": side, "train_size": 8 * batch}}
        values |= {"optimizer": {"name": "asgc", "rule": "sgd", "lr": 0.01, "momentum": 0.9}}
        preset = "imagenet"
    else:
        vocabulary, tokens, model = (300, 300, "tiny") if setting.small else (32_000, 16_384, "base")
        values |= {"model": {"name": model, "pre_norm": False, "dropout": None}, "batch_size": tokens}
        values |= {"data": {"vocabulary": vocabulary, "train_size": tokens}, "label_smoothing": 0.1}
        values |= {"evaluation": {"metric": "accuracy"}}  # no text was made up, which BLEU needs
        values |= {"optimizer": {"name": "asgc", "rule": "adam", "lr": 1e-4, "betas": [0.9, 0.98]}}
        preset = "dict-ende"
    for name, value in options.items():
        values[name] = values[name] | value if isinstance(values.get(name), dict) else value
    values["data"] |= {"name": "made-up"}
    config = TrainConfig.preset(preset, **values, lr_schedule={"name": "constant", "warmup": 0})
    config.validate()
    full, _ = choose(config, None)
    torch.manual_seed(0)
    made = CLASSES[task](full, ALONE, print)
    learner = Learner(full, made, where, ALONE, FAR)
    stream = Stream(made, ALONE, where, 0, FAR, 0)
    try:
        yield Session(made, learner, stream)
    finally:
        stream.close()


# Correct --------------------------------------------------------------------------------------------------------------


def as_on_the_cpu(setting: Setting, task: str, model: str | None = None) -> str:
    """Weights after a few updates in fp32, the differences as a share of how far they went; of images in the other
    memory format, so that a rehearsal on a CPU compares something, too.

    With batch normalization one update: in a fresh network each multiplies differences of rounding about eightyfold.
    """
    cudnn, cpu, count = torch.backends.cudnn, torch.device("cpu"), UPDATES
    plain = {"name": "asgc", "rule": "sgd", "noise_scale": 0.0}  # devices draw different noise
    options: dict[str, Any] = {"precision": "fp32", "optimizer": plain}
    if task == "imagenet":
        count = 1 if model is None else UPDATES
        options |= {} if model is None else {"model": model}
        options |= {} if setting.small else {"batch_size": 16, "data": {"resolution": 64}}
    else:  # with SGD, for Adam's first steps make a sign of each gradient, however small it is
        options |= {"model": {"dropout": 0.0}, "optimizer": plain | {"lr": 0.1, "betas": None}}
        options |= {} if setting.small else {"batch_size": 1024, "data": {"train_size": 1024}}
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    found: list[Tensor] = []
    try:
        for device in (cpu, setting.device):
            formats = {"channels_last": len(found) > 0} if task == "imagenet" else {}
            with session(setting, task, device=device, **options, **formats) as one:
                start = _weights(one.learner)
                for _ in range(count):
                    one.update()
                found.append(_weights(one.learner))
    finally:
        cudnn.allow_tf32 = before
    went, apart = torch.linalg.vector_norm(found[0] - start), torch.linalg.vector_norm(found[1] - found[0])
    assert went > 0, "the weights stay where they are"
    share = float(apart / went)
    assert share < TOLERANCE, f"the weights are apart by {share:.2g} of how far {count} updates took them"
    return f"{count} update{'s' * (count > 1)} in fp32, weights apart by {share:.1g} of how far they went"


def _weights(learner: Learner) -> Tensor:
    """All of them in one row, on the CPU in double precision."""
    return torch.cat([weight.detach().cpu().double().flatten() for weight in learner.model.parameters()])


def deterministic_twice(setting: Setting, task: str) -> str:
    """Weights and losses of two trainings with `--deterministic`, to the last bit."""
    found = []
    for _ in range(2):
        with deterministic(True), session(setting, task) as one:
            losses = [one.update()[1]["loss"].cpu().double() for _ in range(UPDATES)]
            found.append(torch.cat([_weights(one.learner), torch.stack(losses)]))
    worst = float((found[0] - found[1]).abs().max())
    assert worst == 0, f"they differ by up to {worst:.3g}"
    return f"{UPDATES} updates in bf16 to the last bit"


def no_waiting(setting: Setting, task: str) -> str:
    """torch's own look-out for waits, over updates with their data."""
    if not setting.gpu:
        raise Skip("only a GPU can be waited for")
    with deterministic(False), session(setting, task) as one, warnings.catch_warnings(record=True) as caught:
        for _ in range(UPDATES):
            one.update()
        warnings.simplefilter("always")
        caught.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(UPDATES):
                one.update()
                clipping_on_device(one.learner.optimizer)  # as the trainer looks at it
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{found.filename}:{found.lineno}" for found in caught if "synchroniz" in str(found.message)})
    assert not places, f"{UPDATES} updates waited at {', '.join(places)}"
    return f"{UPDATES} updates"


# Fast -----------------------------------------------------------------------------------------------------------------


def matrix_products(setting: Setting) -> str:
    """The speed that all others are a share of."""
    size = _size(setting)
    return f"{products(setting.device, size) / 1e12:,.3g} TFLOP/s, {size} x {size}"


def _size(setting: Setting) -> int:
    return 256 if setting.small else SIZE


@functools.cache
def products(device: torch.device, size: int) -> float:
    """Operations per second of products of two matrices in bf16, as fast as they come."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out, best = torch.empty_like(a), 0.0
    for count in (3, 10, 30):
        wait(device)
        start = time.perf_counter()
        for _ in range(count):
            torch.mm(a, b, out=out)
        wait(device)
        best = max(best, 2.0 * size**3 * count / (time.perf_counter() - start))
    return best


def speed(setting: Setting, task: str, **options: Any) -> str:
    """Items per second after the first updates, the share of the matrix products' speed, the share of waiting for data,
    the peak of the memory."""
    if options.get("compile") and setting.small:
        raise Skip("compiled on a GPU only")
    seconds = 0.2 if setting.small else 6.0
    with deterministic(False), session(setting, task, **options) as one:
        per_item = _operations_of_an_item(one, 1 if setting.small else 4)
        for _ in range(1 if setting.small else 12):
            one.update()
        if setting.gpu:
            torch.cuda.reset_peak_memory_stats()
        wait(setting.device)
        one.stream.waited_s, items, start = 0.0, 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            items += one.update()[0]
        waited = one.stream.waited_s
        wait(setting.device)
        taken = time.perf_counter() - start
    achieved = items * per_item / taken
    share = achieved / products(setting.device, _size(setting))
    peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if setting.gpu else ""
    return (
        f"{items / taken:,.0f} {one.task.item}/s, {achieved / 1e12:,.3g} TFLOP/s, {share:.0%} of matrix products', "
        f"{waited / taken:.1%} of the time waiting for data{peak}"
    )


def _operations_of_an_item(one: Session, updates: int) -> float:
    """Floating-point operations of both passes for an image or a target token, over so many updates' data."""
    count, items = 0.0, 0
    for _ in range(updates):
        batches, number = one.stream.next()
        count += operations(one.learner, one.task, batches, number)
        items += number
    return count / items


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
