"""`asgc-sup eval`: score the model of a run again; the result is printed and kept beside the run."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.cli.errors import UserError, tell
from evaluation.cli.parser import Flags
from evaluation.cli.progress import progress
from evaluation.files import to_json
from evaluation.runs.kept_results import RESULTS, keep


def main(argv: Sequence[str]) -> int:
    """Evaluate the model of a run and print its score and how it was made."""
    what = f"Evaluate the model of a run folder. The result is kept in RUN/{RESULTS}, too."
    flags = Flags("asgc-sup eval", "RUN [options]", what)
    general = flags.section("general")
    flags.path("run", "RUN", "run folder of `asgc-sup train`")
    best = "take the model of the best evaluation in the place of the last one"
    general.add_argument("--best", action="store_true", help=best)
    general.add_argument("--json", action="store_true", help="print the result as one JSON object")
    step = "take the model that was kept at this update (`train --keep-models`)"
    flags.option("general", "--step", int | None, None, step, allowed="[0, 1e12]")
    average = "average the weights of the last so many models that were kept, instead"
    flags.option("general", "--average", int | None, None, average, allowed="[2, 1000]")
    flags.option("general", "--split", str, "validation", "validation, train_subset or, of translations, test")
    flags.option(
        "general", "--beam", int | None, None, "width of the beam search; null: the run's", allowed="[1, 1000]"
    )
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    options, _ = flags.read(list(argv))
    if options.run is None:
        raise UserError("say which run: asgc-sup eval RUN")

    import torch

    from asgc import __version__
    from supervised import model, tasks
    from supervised.distributed import ALONE
    from supervised.tasks.task import TRAIN_SUBSET, VALIDATION

    run = Path(options.run)
    loaded = model.load(run, options.device, best=options.best, step=options.step, average=options.average)
    config = loaded.config
    config.device = str(loaded.device)
    if options.beam is not None:
        if config.task != "wmt14":
            of = f"{run} is a run of --task {config.task}"
            raise UserError(f"--beam {options.beam}: {of}, without a beam search: leave it out")
        config.evaluation = dataclasses.replace(config.evaluation, beam=options.beam)
    task = tasks.find(config.task)(config, ALONE, tell)
    model.check_facts(loaded, task.facts())
    known = (VALIDATION, TRAIN_SUBSET, *task.others)
    if options.split not in known:
        raise UserError(f"--split {options.split}: there are {', '.join(known)}")
    network, task.updates = model.build(loaded), loaded.step
    autocast = torch.autocast(loaded.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    name = f"{loaded.name} model, update {loaded.step:,}"
    with torch.inference_mode(), autocast, progress(name, task.size(options.split), "evaluating", task.things) as show:
        scores = task.evaluate(network, options.split, final=True, tell=show)
    signed = {"task": config.task, "data": config.data.name, "split": options.split, **task.signature()}
    if options.split != VALIDATION:  # else a translation's own word for it: which of its texts that is
        signed["split"] = options.split
    if "sentences" in signed:
        signed["sentences"] = task.size(options.split)
    result = {
        "run": str(run),
        "model": loaded.name,
        "step": loaded.step,
        "score": scores.score,
        **scores.values,
        **scores.summary,
        "signature": signed | {"seed": config.seed, "version": __version__},
        "device": str(loaded.device),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    keep(run, result)
    if options.json:
        print(json.dumps(to_json(result), allow_nan=False))
        return 0
    values = {"score": scores.score, **scores.values}
    print(*(f"{name}={value:.4g}" for name, value in values.items()), f"model={loaded.name}", f"step={loaded.step}")
    print(" ".join(f"{key}={value}" for key, value in {**signed, **scores.summary}.items()))
    return 0
