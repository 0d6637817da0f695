"""`asgc-rl play`: watch an agent play, on the terminal or in a video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.cli.errors import UserError, tell
from evaluation.cli.parser import Flags
from evaluation.cli.values import PathText

if TYPE_CHECKING:
    from rl.agent import Agent
    from rl.view.film import Film, Moment


def main(argv: Sequence[str]) -> int:
    """Play games with the agent of a run and show them."""
    what = (
        "Watch the agent of a run folder play, with its action values and what its network sees. The games are those "
        "of `asgc-rl eval RUN --episodes GAMES` with the same seed: the scores are equal."
    )
    flags = Flags("asgc-rl play", "RUN [options]", what)
    general = flags.section("general")
    flags.path("run", "RUN", "run folder of `asgc-rl train`")
    flags.option(
        "general",
        "--video",
        PathText | None,
        None,
        "write FILE.mp4 (.mov, .mkv, .gif) and show nothing on the terminal",
    )
    flags.option("general", "--games", int, 1, "games, shown one after another", allowed="[1, 32]")
    flags.option(
        "general", "--step", int | None, None, "the agent as it was (`train --keep-models`)", allowed="[0, 1e12]"
    )
    general.add_argument("--best", action="store_true", help="the model of the best evaluation, not the last one")
    flags.option("general", "--seed", int, 1, "seed of the environments and random actions", allowed="[0, 2147483647]")
    flags.option(
        "general", "--epsilon", float | None, None, "share of random actions; null: the protocol's", allowed="[0, 1]"
    )
    flags.option(
        "general", "--fps", float | None, None, "steps shown a second; null: the game's own", allowed="[1, 240]"
    )
    flags.option("general", "--device", str, "auto", "auto, cpu, cuda or cuda:N")
    options, _ = flags.read(list(argv))
    if options.run is None:
        raise UserError("say which run: asgc-rl play RUN")

    from rl.agent import load_agent
    from rl.game_schedule import played_at
    from rl.view.film import Film

    agent = load_agent(options.run, options.device, best=options.best, step=options.step)
    game, env = played_at(agent.config, agent.step)
    film = Film(agent, game, env, games=options.games, seed=options.seed, epsilon=options.epsilon)
    with shown(film, agent, game, options.video, options.fps) as show:
        film.play(show)
    for number, score in enumerate(film.scores, start=1):
        if options.games > 1:
            print(f"game={number} score={score:g}")
    scores = [score for score in film.scores if score is not None]
    step = "?" if agent.step is None else agent.step
    print(f"score={sum(scores) / len(scores):.2f} games={len(scores)} model={agent.model} step={step}")
    return 0


def heading(agent: Agent, game: str) -> tuple[str, ...]:
    """What is played, by whom."""
    step = "" if agent.step is None else f", step {agent.step:,}"
    return f"{game}, {agent.config.algorithm} with {agent.config.optimizer.name}", f"{agent.model} model{step}"


@contextlib.contextmanager
def shown(
    film: Film, agent: Agent, game: str, video: str | None, fps: float | None
) -> Iterator[Callable[[Moment], None]]:
    """What shows a film: a video, the terminal, or where that shows no pictures a line now and then."""
    from rich.console import Console

    from rl import tasks
    from rl.tasks.action_names import action_names
    from rl.view.screens import speed

    lines, actions = heading(agent, game), action_names(tasks.find(game), agent.num_actions)
    fps = speed(tasks.find(game)) if fps is None else fps
    if video is not None:
        from rl.view.video import open_video

        with open_video(Path(video), fps) as file:
            from rl.view.canvas import Canvas

            canvas = Canvas(lines, actions)
            try:
                yield lambda moment: file.add(canvas.draw(moment))
            except KeyboardInterrupt:
                tell(f"{file.path}: {file.frames} frames, up to here")
                raise
        print(f"{file.path}: {file.frames} frames, {file.frames / fps:.1f} seconds")
        return
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and console.color_system in ("256", "truecolor"):
        from rl.view.terminal import TerminalStage

        with TerminalStage(console, lines, actions, fps).open() as stage:
            yield stage.show
        return
    tell("this terminal shows no pictures: scores only (`--video FILE.mp4` writes a video)")
    yield lambda moment: None
