"""Runs that go on, shown on the terminal: panels that are drawn anew, or lines."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.cli.errors import UserError
from evaluation.runs.run_folder import CHECKPOINTS
from rl.view.follow import FINISHED, RUNNING, STOPPED, WAITING, FollowedRun

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SHOWN = {  # by name: split, name and format of a metric
    "score": ("eval", "score", ".2f"),
    "return": ("train", "return", ".2f"),
    "loss": ("train", "loss", ".4g"),
    "clipped": ("train", "clipped", ".1%"),
    "epsilon": ("train", "epsilon", ".3f"),
}
CURVE, SMALL_CURVE = 8, 4  # lines of the curve of one run, and of each of several


def ended(run: FollowedRun) -> bool:
    """Whether nothing more is to come of a run."""
    return run.state in (FINISHED, STOPPED)


def in_lines(runs: Sequence[FollowedRun], interval: float, *, once: bool) -> None:
    """A line of a run whenever it has logged something."""
    open_runs = list(runs)
    while open_runs:
        for run in open_runs:
            if run.refresh() or once:
                print(line(run), flush=True)
        open_runs = [run for run in open_runs if not ended(run)]
        if once:
            return
        if open_runs:
            time.sleep(interval)


def line(run: FollowedRun) -> str:
    """Where a run is, as `key=value` words."""
    words: dict[str, Any] = {"run": run.path, "state": run.state, "step": run.step, "total": run.total}
    words |= {"steps_per_s": _number(run.steps_per_s, ".0f")}
    words |= {"eta_s": _number(None if ended(run) else run.eta_s, ".0f")}
    words |= {name: _number(run.latest(split, key), form) for name, (split, key, form) in SHOWN.items()}
    text = " ".join(f"{key}={value}" for key, value in words.items() if value is not None)
    return text + (f" ({how_to_go_on(run)})" if run.state == STOPPED else "")


def how_to_go_on(run: FollowedRun) -> str:
    """What to say of a run that nobody works on."""
    return f"killed or interrupted; go on with: asgc-rl train --resume {shlex.quote(str(run.path))}"


def live(console: Console, runs: Sequence[FollowedRun], interval: float, *, once: bool, play: bool) -> None:
    """Panels that are drawn anew, and games between them."""
    from rich.console import Group
    from rich.live import Live

    checkpoints: dict[Path, str] = {}
    while True:
        with Live(console=console, auto_refresh=False) as shown:
            while True:
                for run in runs:
                    run.refresh()
                shown.update(Group(*(panel(run, console.width, len(runs)) for run in runs)), refresh=True)
                if once or all(map(ended, runs)):
                    return
                fresh = _with_new_checkpoint(runs, checkpoints) if play else None
                if fresh is not None:
                    break
                time.sleep(interval)
        _play(console, fresh)


def panel(run: FollowedRun, width: int, count: int = 1) -> RenderableType:
    """What is known of a run, `width` columns wide, one of `count` on the screen."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    from evaluation.runs.display import progress_bar
    from rl.view import braille

    inner, parts = max(20, width - 4), list[Any]()
    where = f"{run.step:,}/{run.total:,}" if run.total else f"{run.step:,}"
    speed, eta = _number(run.steps_per_s, ",.0f"), duration(run.eta_s)
    words = {
        WAITING: f"{where}  nothing logged yet",
        RUNNING: f"{where}  {speed or '-'} steps/s  ETA {eta}",
        FINISHED: f"{where}  finished after {duration(run.wall_s)}",
        STOPPED: f"{where}  stopped",
    }[run.state]
    parts.append(progress_bar(run.total or 1, min(run.step, run.total or 1), words))
    known = {name: _number(run.latest(split, key), form) for name, (split, key, form) in SHOWN.items()}
    parts.append(Text("   ".join(f"{name} {value}" for name, value in known.items() if value is not None)))
    scores = run.scores
    if scores:
        height = CURVE if count == 1 else SMALL_CURVE
        low, high = (format(pick(value for _, value in scores), ".4g") for pick in (min, max))
        margin = max(len(low), len(high)) + 1
        drawn = braille.curve(scores, max(10, inner - margin), height, run.total)
        labels = [high, *[""] * (height - 2), low]
        parts.append(Text("evaluation score", style="dim"))
        for label, row in zip(labels, drawn, strict=True):
            parts.append(Text.assemble((f"{label:>{margin - 1}} ", "dim"), (row, "cyan")))
    returns = [value for _, value in run.series.get(("train", "return"), ())]
    if returns:
        parts.append(Text.assemble(("training return ", "dim"), braille.bars(returns, inner - 16)))
    if run.state == STOPPED:
        parts.append(Text(how_to_go_on(run), style="yellow"))
    return Panel(Group(*parts), title=run.title, title_align="left", width=width)


def _with_new_checkpoint(runs: Sequence[FollowedRun], seen: dict[Path, str]) -> FollowedRun | None:
    """A run that has a checkpoint that was not played yet. (Their names are looked at, not the files: those of a large
    replay take a while to read.)"""
    for run in runs:
        newest = max((path.name for path in (run.path / CHECKPOINTS).glob("[0-9]*-step-*")), default=None)
        if newest is not None and seen.get(run.path) != newest:
            seen[run.path] = newest
            return run
    return None


def _play(console: Console, run: FollowedRun) -> None:
    """One game with the agent of the newest checkpoint."""
    from rl.agent import load_agent
    from rl.game_schedule import played_at
    from rl.view.film import Film
    from rl.view.play_cli import shown

    try:
        agent = load_agent(run.path, "cpu")
        game, env = played_at(agent.config, agent.step)
        film = Film(agent, game, env, seed=agent.step or 1)
        with shown(film, agent, game, None, None) as show:
            film.play(show)
        console.print(f"step {agent.step or 0:,}: a game of {film.scores[0]:g}", highlight=False)
    except (UserError, OSError) as error:  # checkpoints come and go
        console.print(f"no game this time: {error}", highlight=False, markup=False)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)
