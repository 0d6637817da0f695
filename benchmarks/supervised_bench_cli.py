"""`asgc-sup bench`: its flags. What it measures is imported when it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asgc import optimizers
from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText, suggestion

IMAGES, TEXT = "imagenet:", "wmt14:"
TASKS = ("imagenet", "wmt14")
_ONLY = {"resolution": "imagenet", "workers": "imagenet", "vocabulary": "wmt14", "profile": "wmt14"}


def main(argv: Sequence[str]) -> int:
    """Measure images per second beside torchvision (`benchmarks.image_speed`), or target tokens per second beside
    fairseq (`benchmarks.translation_speed`)."""
    flags = Flags(
        "asgc-sup bench",
        "[--task imagenet|wmt14] [options]",
        "Training speed beside others on the same data, in turns in one process: images per second beside a plain "
        "torchvision loop (imagenet), target tokens per second beside fairseq (wmt14). The last line is the ratio to "
        "the fastest of them, the median of those within the rounds; a ratio by processor time stands beside it, "
        "which a machine with other work does not distort.",
    )

    given: tuple[tuple[str, object, object, str, str], ...] = (
        ("--task", str, "imagenet", "imagenet or wmt14", ""),
        ("--model", str | None, None, f"{IMAGES} torchvision's classifier [resnet50]; {TEXT} Transformer [small]", ""),
        ("--data", PathText | None, None, f"{IMAGES} folder of images; {TEXT} of prepared text; null: random data", ""),
        ("--optimizer", str, "asgc", "this toolkit's; torchvision's loop has SGD with momentum, fairseq the same", ""),
        ("--batch-size", int | None, None, f"{IMAGES} images of an update [32]; {TEXT} tokens [2048]", "[1, 1e6]"),
        ("--resolution", int | None, None, f"{IMAGES} pixels of sides; null: 224, on a CPU 96", "[8, 4096]"),
        ("--workers", int | None, None, f"{IMAGES} processes that read a folder; null: as many as cores", "[0, 1024]"),
        ("--vocabulary", int | None, None, f"{TEXT} subwords of random data [8000]", "[300, 1e6]"),
        ("--precision", str, "auto", "of all: auto, bf16 or fp32", ""),
        ("--device", str, "auto", "auto, cpu, cuda or cuda:N", ""),
        ("--threads", int | None, None, "torch's CPU threads; null: by free cores", "[1, 1024]"),
        ("--updates", int, 4, "of each in a round", "[1, 1e6]"),
        ("--rounds", int, 5, "in turns", "[1, 1000]"),
        ("--profile", bool, False, f"{TEXT} one round more of each, for the share of its matrix products", ""),
    )
    for name, hint, default, help, allowed in given:
        flags.option("general", name, hint, default, help, allowed=allowed)
    options, typed = flags.read(list(argv))
    for name, value, known in (
        ("task", options.task, TASKS),
        ("optimizer", options.optimizer, tuple(optimizers.names())),
        ("precision", options.precision, ("auto", "bf16", "fp32")),
    ):
        if value not in known:
            raise UserError(f"--{name} {value}: unknown{suggestion(value, known)}")
    for name in typed:
        task = _ONLY.get(name, options.task)
        if task != options.task:
            raise UserError(f"--{name}: only --task {task} has this option: leave it out")
    if options.task == "imagenet":
        from benchmarks import image_speed

        setting = image_speed.Setting(
            data=options.data,
            model=options.model or "resnet50",
            optimizer=options.optimizer,
            batch_size=options.batch_size or 32,
            resolution=options.resolution,
            workers=options.workers,
            precision=options.precision,
            device=options.device,
            threads=options.threads,
        )
        image_speed.compare(setting, options.updates, options.rounds)
        return 0
    from benchmarks import translation_speed

    translation_speed.compare(
        data=None if options.data is None else Path(options.data),
        size=options.model or "small",
        optimizer=options.optimizer,
        batch_size=options.batch_size or 2048,
        vocabulary=options.vocabulary,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        updates=options.updates,
        rounds=options.rounds,
        profile=options.profile,
    )
    return 0
