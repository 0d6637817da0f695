"""How well an agent does in flavours of its game that it has not been trained on: other modes and difficulties, and
sticky actions (Machado et al. 2018, arXiv 1709.06009, sections 5 and 6; Farebrother et al. 2018, arXiv 1810.00123).

`rl.generalization` says what the scores mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl import tasks
from rl.evaluate import Policy, Tell, play_games, signature
from rl.step import Environments
from rl.tasks import EnvConfig
from rl.tasks.protocols import PROTOCOLS, STICKY, AtariProtocol

TRAINED, STICKY_ACTIONS = "trained", "sticky"  # names of flavours
MODES, DIFFICULTIES = range(256), range(4)  # that EnvPool is asked for
SAME_STEPS = 100  # of random play, after which equal memories show equal flavours


@dataclass(frozen=True)
class Flavour:
    """A game as it is played: its rules and environments.

    Attributes:
        name: "trained", "sticky", or "mode=1:difficulty=0".
    """

    name: str
    protocol: AtariProtocol
    env: EnvConfig

    def make(self, game: str, num_envs: int, seed: int) -> Environments:
        """Evaluation environments."""
        from rl.tasks.atari import make_envs

        return make_envs(game, self.protocol, self.env, num_envs=num_envs, seed=seed, training=False)


def flavours(game: str, env: EnvConfig, modes: Sequence[int], difficulties: Sequence[int]) -> list[Flavour]:
    """The trained flavour first, then every other pair of mode and difficulty, then sticky actions (where the protocol
    has none of them)."""
    protocol = PROTOCOLS[env.protocol]
    found = [Flavour(TRAINED, protocol, env)]
    # A game's default is its first mode and difficulty; it is looked at, since only ALE knows.
    first = modes[0] if env.mode is None else env.mode, difficulties[0] if env.difficulty is None else env.difficulty
    for mode in modes:
        for difficulty in difficulties:
            other = dataclasses.replace(env, mode=mode, difficulty=difficulty)
            if (mode, difficulty) != first or not _plays_alike(game, protocol, env, other):
                found.append(Flavour(f"mode={mode}:difficulty={difficulty}", protocol, other))
    if protocol.repeat_action_probability == 0:
        sticky = dataclasses.replace(protocol, repeat_action_probability=STICKY.repeat_action_probability)
        found.append(Flavour(STICKY_ACTIONS, sticky, env))
    return found


def available(game: str, tell: Tell = lambda done, total: None) -> tuple[list[int], list[int]]:
    """The modes and difficulties of a game, sorted: as ale-py says where it is installed, else as EnvPool takes them
    (it answers in a tenth of a second each)."""
    with contextlib.suppress(ImportError):
        return _from_ale(game)
    total = len(MODES) + len(DIFFICULTIES)

    def taken(name: str, values: Sequence[int], before: int) -> Iterator[int]:
        for number, value in enumerate(values):
            tell(before + number, total)
            with contextlib.suppress(UserError):
                tasks.find(game).check(EnvConfig(**{name: value}))  # type: ignore[arg-type]
                yield value

    return list(taken("mode", MODES, 0)), list(taken("difficulty", DIFFICULTIES, len(MODES)))


def _from_ale(game: str) -> tuple[list[int], list[int]]:
    import ale_py
    import envpool

    spec = envpool.make_spec(f"{game}-v5")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(str(Path(spec.config.base_path, "atari", "roms", f"{spec.config.task}.bin")))
    return sorted(ale.getAvailableModes()), sorted(ale.getAvailableDifficulties())


def _plays_alike(game: str, protocol: AtariProtocol, one: EnvConfig, other: EnvConfig) -> bool:
    """Whether two flavours are the same: the console's memory after the same random actions."""
    from rl.tasks.atari import make_pool

    pools = [make_pool(game, protocol, env, num_envs=1, seed=1, training=False) for env in (one, other)]
    for pool in pools:
        pool.reset()
    rng = np.random.default_rng(1)
    for _ in range(SAME_STEPS):
        action = rng.integers(pools[0].action_space.n, size=1).astype(np.int32)
        memories = [pool.step(action)[4]["ram"] for pool in pools]
        if not np.array_equal(*memories):
            return False
    return True


def play(
    policy: Policy,
    num_actions: int,
    game: str,
    flavour: Flavour,
    *,
    episodes: int,
    seed: int,
    epsilon: float,
    tell: Tell,
) -> NDArray[np.float64]:
    """Scores (episodes,) of a policy in a flavour.

    Raises:
        UserError: the flavour has another number of actions than the agent.
    """

    def make(num_envs: int) -> Environments:
        envs = flavour.make(game, num_envs, seed)
        if envs.num_actions != num_actions:
            raise UserError(f"{game}, {flavour.name}: {envs.num_actions} actions, the agent has {num_actions}")
        return envs

    return play_games(policy, make, episodes, epsilon, np.random.default_rng(seed), tell=tell)


def signature_of(game: str, flavour: Flavour, *, episodes: int, seed: int, epsilon: float | None) -> dict[str, Any]:
    """How the scores in a flavour were made."""
    sticky = {"repeat_action_probability": flavour.protocol.repeat_action_probability}
    signed = signature(game, flavour.env, episodes=episodes, seed=seed, epsilon=epsilon)
    return signed | (sticky if flavour.name == STICKY_ACTIONS else {})
