"""Names of the Atari games that EnvPool can play."""

from __future__ import annotations

import difflib
import functools
import re

from evaluation.errors import UserError

_TASK = re.compile(r"(?:ALE/)?(?P<game>.+?)(?:NoFrameskip)?(?:-v\d+)?", re.IGNORECASE)


@functools.cache
def names() -> tuple[str, ...]:
    """Canonical names ("SpaceInvaders") of all games in EnvPool's registry, sorted."""
    from envpool.registration import registry  # importing EnvPool takes a second: not before it is needed

    atari = (task for task, (module, *_) in registry.specs.items() if module == "envpool.atari")
    return tuple(sorted(task.removesuffix("-v5") for task in atari))


def resolve(name: str) -> str:
    """The canonical name of a game in any spelling: "breakout", "space_invaders", "ALE/Pong-v5", "PongNoFrameskip-v4".

    Raises:
        UserError: no such game; the message gives the nearest names.
    """
    games = {_key(game): game for game in names()}
    match = _TASK.fullmatch(name.strip())
    key = _key(match["game"]) if match else ""
    if key in games:
        return games[key]
    near = [games[other] for other in difflib.get_close_matches(key, games, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`asgc-rl games` lists all of them"
    raise UserError(f"unknown game {name!r}: {hint}")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
