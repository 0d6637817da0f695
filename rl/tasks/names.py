"""Names of what EnvPool can play: the Atari games and the control tasks."""

from __future__ import annotations

import difflib
import functools
import re

from evaluation.cli.errors import UserError

# Name -> EnvPool's task. LunarLander's v3 is the newest; without wind, as here, v2 has the same dynamics.
CONTROL = {
    "Acrobot": "Acrobot-v1",
    "CartPole": "CartPole-v1",
    "LunarLander": "LunarLander-v3",
    "MountainCar": "MountainCar-v0",
}

_TASK = re.compile(r"(?:ALE/)?(?P<game>.+?)(?:NoFrameskip)?(?:-v\d+)?", re.IGNORECASE)


@functools.cache
def names() -> tuple[str, ...]:
    """Canonical names ("SpaceInvaders") of all games in EnvPool's registry, sorted."""
    from envpool.registration import registry  # importing EnvPool takes a second: not before it is needed

    atari = (task for task, (module, *_) in registry.specs.items() if module == "envpool.atari")
    return tuple(sorted(task.removesuffix("-v5") for task in atari))


def resolve(name: str) -> str:
    """The canonical name of a game or control task in any spelling: "breakout", "space_invaders", "ALE/Pong-v5",
    "PongNoFrameskip-v4", "cartpole", "CartPole-v1".

    Raises:
        UserError: no such game; the message gives the nearest names.
    """
    key = _key(name)
    if key in _CONTROL_KEYS:  # known without EnvPool's registry
        return _CONTROL_KEYS[key]
    games = _CONTROL_KEYS | {_key(game): game for game in names()}
    if key in games:
        return games[key]
    near = [games[other] for other in difflib.get_close_matches(key, games, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`asgc-rl games` lists all of them"
    raise UserError(f"unknown game {name!r}: {hint}")


def is_control(name: str) -> bool:
    """Whether this is a control task's name, in any spelling; everything else is taken for an Atari game's."""
    return _key(name) in _CONTROL_KEYS


def _key(name: str) -> str:
    """What all spellings of a name have in common; "" for no name at all."""
    match = _TASK.fullmatch(name.strip())
    return re.sub(r"[^a-z0-9]", "", match["game"].lower()) if match else ""


_CONTROL_KEYS = {_key(name): name for name in CONTROL}
