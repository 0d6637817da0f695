"""`asgc-rl eval`: play games with a trained agent; the result is printed and kept beside the run."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.cli.parser import Flags
from evaluation.cli.progress import progress
from evaluation.files import to_json
from evaluation.runs.kept_results import RESULTS, keep
from rl import tasks
from rl.config import options_of_others

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rl.agent import Agent


def main(argv: Sequence[str]) -> int:
    """Play games with the agent of a run and print the mean score and how it was made."""
    what = f"Play whole games with the agent of a run folder. The result is kept in RUN/{RESULTS}, too."
    flags = Flags("asgc-rl eval", "RUN [options]", what)
    general = flags.section("general")
    flags.path("run", "RUN", "run folder of `asgc-rl train`")
    best = "take the model of the best evaluation in the place of the last one"
    general.add_argument("--best", action="store_true", help=best)
    every = "play all modes and difficulties, and sticky actions: the drop goes into the run's summary"
    general.add_argument("--flavours", action="store_true", help=every)
    general.add_argument("--json", action="store_true", help="print the result as one JSON object")
    step = "take the model that was kept at this step (`train --keep-models`)"
    flags.option("general", "--step", int | None, None, step, allowed="[0, 1e12]")
    flags.option("general", "--episodes", int, 30, "games (100 for a published figure)", allowed="[1, 10000]")
    flags.option("general", "--epsilon", float | None, None, "share of random actions", allowed="[0, 1]")
    flags.option("general", "--mode", int | None, None, "game mode other than the trained one", allowed="[0, 255]")
    flags.option("general", "--difficulty", int | None, None, "difficulty other than the trained one", allowed="[0, 3]")
    flags.option("general", "--seed", int, 1, "seed of the environments and random actions", allowed="[0, 2147483647]")
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    options, _ = flags.read(list(argv))
    if options.run is None:
        raise UserError("say which run: asgc-rl eval RUN")

    from rl.agent import load_agent
    from rl.evaluate import evaluate, signature
    from rl.game_schedule import played_at

    agent = load_agent(options.run, options.device, best=options.best, step=options.step)
    game, env = played_at(agent.config, agent.step)
    if options.flavours:
        from rl import flavours_cli

        return flavours_cli.main(agent, game, env, options)
    family = tasks.find(game).family
    others = {one.path for one in options_of_others(family)}
    for name in ("mode", "difficulty"):
        value = getattr(options, name)
        if value is not None and f"env.{name}" in others:
            raise UserError(f"--{name}: {game} is {family.title} and has none")
        env = env if value is None else dataclasses.replace(env, **{name: value})
    how = {"episodes": options.episodes, "seed": options.seed, "epsilon": options.epsilon}
    step = "?" if agent.step is None else f"{agent.step:,}"
    with progress(f"{agent.model} model, step {step}", options.episodes) as show:
        scores = evaluate(agent.act, game, env, **how, tell=show)
    signed = signature(game, env, **how)
    result = result_of(agent, Path(options.run), scores, signed)
    keep(Path(options.run), result)
    if options.json:
        print(json.dumps(to_json(result), allow_nan=False))
        return 0
    formats = {"score": ".2f", "std": ".2f", "min": "g", "max": "g"}
    words = [f"{name}={format(result[name], form)}" for name, form in formats.items()]
    print(*words, f"model={agent.model}", f"step={'?' if agent.step is None else agent.step}")
    print(" ".join(f"{key}={value}" for key, value in signed.items()))
    return 0


def result_of(agent: Agent, run: Path, scores: NDArray[np.float64], signed: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an evaluation: scores (episodes,), how they were made, of which model, where and when."""
    return {
        "run": str(run),
        "model": agent.model,
        "step": agent.step,
        "score": scores.mean(),
        "std": scores.std(),
        "min": scores.min(),
        "max": scores.max(),
        "scores": scores.tolist(),
        "signature": signed,
        "device": str(agent.device),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
