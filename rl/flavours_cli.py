"""`asgc-rl eval RUN --flavours`: the run's agent in the other flavours of its game."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError, tell
from evaluation.cli.progress import progress
from evaluation.files import from_json, to_json
from evaluation.runs.kept_results import RESULTS, keep
from rl import generalization, tasks
from rl.agent import Agent
from rl.eval_cli import result_of
from rl.flavours import DIFFICULTIES, MODES, Flavour, available, flavours, play, signature_of
from rl.tasks import EnvConfig

COMPARED = ("model", "step", "flavour", "signature")  # equal in results that are the same


def main(agent: Agent, game: str, env: EnvConfig, options: argparse.Namespace) -> int:
    """Play in all flavours that have not been played yet, and print the table of the drop."""
    run, family = Path(options.run), tasks.find(game).family
    if family.name != "atari":
        raise UserError(f"--flavours: {game} is {family.title} and has none")
    if env.source != "envpool":
        raise UserError(f"--flavours: the run's environments are --env.source {env.source}'s, which has none")
    if options.mode is not None or options.difficulty is not None:
        raise UserError("--flavours plays all modes and difficulties: leave out --mode and --difficulty")
    asked = len(MODES) + len(DIFFICULTIES)
    with progress(f"which {game} has", asked, "looking at", "modes and difficulties") as show:
        modes, difficulties = available(game, show)
    found = flavours(game, env, modes, difficulties)
    how = {"episodes": options.episodes, "seed": options.seed, "epsilon": options.epsilon}
    scores: dict[str, NDArray[np.float64]] = {}
    for number, flavour in enumerate(found, start=1):
        signed = signature_of(game, flavour, **how)
        same = {"model": agent.model, "step": agent.step, "flavour": flavour.name, "signature": signed}
        known = _kept(run, same)
        if known is None:
            known = _played(agent, game, flavour, f"flavour {number} of {len(found)}, {flavour.name}", signed)
            keep(run, result_of(agent, run, known, signed) | {"flavour": flavour.name})
        scores[flavour.name] = known
    rows = generalization.table(scores)
    gap = generalization.generalization_gap(rows)
    signed = {"model": agent.model, "step": agent.step, **signature_of(game, found[0], **how)}
    if agent.model != "final":
        tell(f"the summary is of the final model: the {agent.model} model's table is not written into it")
    elif not generalization.write_summary(run, rows, signed):
        tell(f"{run} has not finished: the table goes into its summary when this is called again after its end")
    if options.json:
        print(json.dumps(to_json({"generalization_gap": gap, "flavours": rows, "signature": signed}), allow_nan=False))
        return 0
    print(*generalization.lines(rows), sep="\n")
    print(f"generalization_gap={'-' if gap is None else format(gap, '.2f')} (over other modes and difficulties)")
    return 0


def _played(agent: Agent, game: str, flavour: Flavour, what: str, signed: dict[str, Any]) -> NDArray[np.float64]:
    episodes, seed, epsilon = signed["episodes"], signed["seed"], signed["epsilon"]
    with progress(what, episodes) as show:
        how: dict[str, Any] = {"episodes": episodes, "seed": seed, "epsilon": epsilon, "tell": show}
        return play(agent.act, agent.num_actions, game, flavour, **how)


def _kept(run: Path, same: dict[str, Any]) -> NDArray[np.float64] | None:
    """The scores of a result that is the same, if there is one; lines that cannot be read are none."""
    path = run / RESULTS
    if not path.is_file():
        return None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            result = from_json(json.loads(line))
            if all(result.get(name) == from_json(to_json(same[name])) for name in COMPARED):
                return np.array(result["scores"], np.float64)
        except (ValueError, KeyError, AttributeError):
            continue
    return None
