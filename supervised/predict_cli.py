"""`asgc-sup predict`: classify images with the model of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import EXIT_USER_ERROR, UserError, reason, tell
from evaluation.cli.parser import Flags
from evaluation.runs.run_folder import load_config

if TYPE_CHECKING:
    import torch

    from supervised.model import Loaded

TOP = 5


def predict_command(argv: Sequence[str]) -> int:
    """Print the likeliest classes of each image; 2 where one of the files is no image, the others are classified."""
    what = f"Classify images: the {TOP} likeliest classes of each, with their probabilities in percent."
    flags = Flags("asgc-sup predict", "RUN IMAGE [IMAGE ...] [options]", what)
    general = flags.section("general")
    best = "take the model of the best evaluation in the place of the last one"
    general.add_argument("--best", action="store_true", help=best)
    general.add_argument("--json", action="store_true", help="print a JSON object for each image")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    values = {number + 1 for number, token in enumerate(argv) if token == "--device"}
    paths = [k for k, token in enumerate(argv) if k not in values and not token.startswith("-")]
    options, _ = flags.read([token for k, token in enumerate(argv) if k not in paths])
    if len(paths) < 2:
        raise UserError("say which run and which images: asgc-sup predict RUN IMAGE [IMAGE ...]")
    run, *images = (argv[k] for k in paths)
    task = load_config(run).get("task", "imagenet")
    if task != "imagenet":
        instead = f": asgc-sup translate {run} < LINES" if task == "wmt14" else ""
        raise UserError(f"{run} is a run of --task {task}, it does not classify images{instead}")
    if missing := [image for image in images if not Path(image).exists()]:
        raise UserError(f"{missing[0]}: no such file")

    from supervised.model import build, load

    loaded = load(run, options.device, best=options.best)
    model, code = build(loaded), 0
    names = class_names(loaded.facts["classes"])
    for image in images:
        try:
            pixels = opened(Path(image), loaded.facts["preprocessing"])
        except UserError:
            raise
        except Exception as error:  # the decoders' errors are of any kind, for anything may stand in a file
            tell(f"error: {image}: no image ({reason(error)})")
            code = EXIT_USER_ERROR
            continue
        found = top(loaded, model, pixels, names)
        if options.json:
            print(json.dumps({"image": image, "classes": [{"name": n, "probability": p} for n, p in found]}))
        else:
            print(f"{image}: " + ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in found))
    return code


def opened(path: Path, preprocessing: dict[str, Any]) -> torch.Tensor:
    """A picture as evaluations see it, bytes, shape (1, channels, side, side)."""
    import torch
    from PIL import Image

    from supervised.vision.augmentation import evaluated

    with Image.open(path) as image:
        grey = preprocessing["grey"]
        pixels = torch.from_numpy(evaluated(image, preprocessing["side"], preprocessing["resize"], grey=grey))
    return pixels[None, None] if grey else pixels.permute(2, 0, 1)[None]


def top(loaded: Loaded, model: torch.nn.Module, pixels: torch.Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    """The likeliest classes and their probabilities."""
    import torch

    from supervised.vision.splits import Normalization

    preprocessing = loaded.facts["preprocessing"]
    x = Normalization(tuple(preprocessing["mean"]), tuple(preprocessing["std"])).apply(pixels.to(loaded.device))
    autocast = torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.config.precision == "bf16")
    with torch.inference_mode(), autocast:
        logits = model(x.expand(-1, loaded.facts["channels"], -1, -1)).float()[0]
    found = logits.softmax(0).topk(min(TOP, len(names)))
    return [(names[int(k)], float(p)) for p, k in zip(found.values, found.indices, strict=True)]


def class_names(classes: Sequence[str]) -> Sequence[str]:
    """The classes in words: ImageNet's folders are called by numbers of WordNet."""
    if len(classes) != 1000 or not all(name.startswith("n") and name[1:].isdigit() for name in classes):
        return classes
    from supervised.vision.torchvision_import import import_torchvision

    words: list[str] = import_torchvision("torchvision.models").ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return words
