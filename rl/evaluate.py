"""Evaluation: full games in environments of their own, scored by the true rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl import tasks
from rl.step import Environments, Step
from rl.tasks import EnvConfig

MAX_ENVS = 32

Policy = Callable[[NDArray[Any], float, np.random.Generator], NDArray[np.int64]]
Tell = Callable[[int, int], None]  # games done, and all
Watch = Callable[[Step, NDArray[np.bool_]], None]  # a step, and where it belongs to a game that counts


def play_games(
    policy: Policy,
    make: Callable[[int], Environments],
    episodes: int,
    epsilon: float,
    rng: np.random.Generator,
    max_envs: int = MAX_ENVS,
    watch: Watch | None = None,
    tell: Tell = lambda done, total: None,
) -> NDArray[np.float64]:
    """Play exactly `episodes` games and return their scores (episodes,).

    Each environment plays a number of games fixed beforehand. Taking the first games to finish instead would favour
    short ones: in Pong the lost, in Breakout the bad.

    Args:
        policy: (observations (N, stack, ...), epsilon, rng) -> actions (N,).
        make: number of environments -> environments; they are closed here.
        epsilon: share of random actions.
        watch: shown every step.
        tell: told after every step how many games are done; what it raises ends the games.
    """
    num_envs = min(episodes, max_envs)
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    envs = make(num_envs)
    try:
        scores: list[float] = []
        running = np.zeros(num_envs)
        observation = envs.reset()
        while quota.any():
            tell(len(scores), episodes)
            step = envs.step(policy(observation, epsilon, rng))
            if watch is not None:
                watch(step, quota > 0)
            observation = step.observation
            running += step.score
            for i in np.flatnonzero(step.game_over):
                if quota[i] > 0:
                    scores.append(float(running[i]))
                    quota[i] -= 1
                running[i] = 0.0
    finally:
        envs.close()
    return np.array(scores)


def evaluate(
    policy: Policy,
    game: str,
    env: EnvConfig,
    *,
    episodes: int,
    seed: int,
    epsilon: float | None = None,
    watch: Watch | None = None,
    tell: Tell = lambda done, total: None,
) -> NDArray[np.float64]:
    """Scores (episodes,) of a policy under an environment configuration's protocol (epsilon None: the protocol's)."""
    task = tasks.find(game)

    def make(num_envs: int) -> Environments:
        return task.make(env, num_envs=num_envs, seed=seed, training=False)

    if epsilon is None:
        epsilon = task.family.protocol(env.protocol).eval_epsilon
    return play_games(policy, make, episodes, epsilon, np.random.default_rng(seed), watch=watch, tell=tell)


def signature(game: str, env: EnvConfig, *, episodes: int, seed: int, epsilon: float | None) -> dict[str, Any]:
    """How scores were made, to be kept beside them; scores with different protocols are never compared."""
    task = tasks.find(game)
    from asgc import __version__  # imports torch; a checkout on a path of Python's has no metadata

    spec = task.observation(env)
    # A field that every score would have were no news: it is there where the actions are not the game's own.
    actions = {"full_actions": True} if env.full_actions else {}
    return {
        "game": game,
        "protocol": env.protocol,
        "epsilon": task.family.protocol(env.protocol).eval_epsilon if epsilon is None else epsilon,
        "episodes": episodes,
        "seed": seed,
        "frame": "x".join(map(str, (*spec.frame, spec.stack))),
        "mode": env.mode,
        "difficulty": env.difficulty,
        **actions,
        **task.source(env),
        "version": __version__,
    }
