"""`asgc-rl watch`: runs that go on, in other processes, followed on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.cli.errors import UserError, tell
from evaluation.cli.parser import Flags


def main(argv: Sequence[str]) -> int:
    """Follow runs until all of them have ended."""
    what = "Follow runs that go on in other processes; ends when they do. Ctrl-C leaves, and the runs go on."
    flags = Flags("asgc-rl watch", "RUN [RUN ...] [options]", what)
    flags.section("general").add_argument("--once", action="store_true", help="show where they are and stop")
    flags.section("general").add_argument(
        "--play", action="store_true", help="play a game with the agent of each new checkpoint"
    )
    flags.option("general", "--interval", float, 2.0, "seconds between two looks", allowed="[0.1, 3600]")
    values = {number + 1 for number, token in enumerate(argv) if token == "--interval"}
    runs = [token for number, token in enumerate(argv) if not token.startswith("-") and number not in values]
    options, _ = flags.read([token for token in argv if token not in runs])
    if not runs:
        raise UserError("say which run: asgc-rl watch RUN")

    from rich.console import Console

    from rl.view.follow import FollowedRun
    from rl.view.watching import in_lines, live

    followed = [FollowedRun(Path(run)) for run in dict.fromkeys(runs)]
    console = Console()
    terminal = console.is_terminal and not console.is_dumb_terminal
    if options.play and not terminal:
        raise UserError("--play shows games on a terminal, and there is none here: `asgc-rl play RUN --video FILE.mp4`")
    try:
        if terminal:
            live(console, followed, options.interval, once=options.once, play=options.play)
        else:
            in_lines(followed, options.interval, once=options.once)
    except KeyboardInterrupt:
        tell("left; the runs go on")
    return 0
