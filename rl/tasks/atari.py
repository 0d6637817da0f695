"""Atari environments stepped together by EnvPool, with its boundaries between episodes made explicit.

With episodic life EnvPool ends an episode at a lost life, too, although the game, and with it the stack of frames, goes
on. `Environments.step` says of every environment what happened, so that replay and returns need no guesses.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.cli.errors import UserError
from rl.step import Answer, Environments, Step, environment_seeds
from rl.tasks.protocols import FRAME_SKIP, AtariProtocol
from rl.tasks.task import EnvConfig


@functools.cache
def names() -> tuple[str, ...]:
    """Names ("SpaceInvaders") of all games in EnvPool's registry, sorted."""
    from envpool.registration import registry  # importing EnvPool takes a second: not before it is needed

    atari = (env_id for env_id, (module, *_) in registry.specs.items() if module == "envpool.atari")
    return tuple(sorted(env_id.removesuffix("-v5") for env_id in atari))


class AtariEnvs(Environments):
    """N Atari games. Of a pool's info it reads `reward`, `lives` and `terminated` (the game's end).

    Args:
        episodic_life: the pool ends an episode when a life is lost.
        pool, num_envs, reward_scale: see `Environments`.
    """

    def __init__(self, pool: Any, num_envs: int, *, episodic_life: bool, reward_scale: float = 1.0) -> None:
        super().__init__(pool, num_envs, reward_scale)
        self._episodic_life = episodic_life

    def _started(self, observation: NDArray[Any], info: Mapping[str, Any]) -> NDArray[Any]:
        self._observation, self._lives = observation, info["lives"]  # of the previous step
        self._game_over = np.zeros(self.num_envs, np.bool_)  # in it
        return observation

    def _result(self, ignored: NDArray[np.bool_], over: NDArray[np.bool_], answer: Answer) -> Step:
        observation, reward, terminated, truncated, info = answer
        lives = info["lives"]
        # EnvPool reports a game or a life that ends at the very step limit as truncated only. There is nothing to
        # bootstrap from after an end, so here the end wins.
        game_ended = (info["terminated"] != 0) & ~ignored
        ended = game_ended
        if self._episodic_life:
            ended = ended | ((lives > 0) & (lives < self._lives))
        step = Step(
            observation=observation,
            reward=np.where(ignored, np.float32(0), reward) * self._reward_scale,
            score=np.where(ignored, np.float32(0), info["reward"]),
            terminated=over & (terminated | ended),
            truncated=over & ~ended & truncated,
            game_over=game_ended | (truncated & ~ignored),
            ignored=ignored,
            new_game=ignored & self._game_over,
            lives=lives,
        )
        # The no-ops after a lost life can lose the last one and start another game within the reset. Then the stack is
        # refilled without notice.
        for i in np.flatnonzero(ignored & ~self._game_over):
            if not np.array_equal(observation[i, :-1], self._observation[i, 1:]):
                step.new_game[i] = step.game_over[i] = True
        self._observation, self._lives = observation, lives
        self._game_over = step.game_over & ~ignored
        return step


def make_envs(
    game: str, protocol: AtariProtocol, env: EnvConfig, *, num_envs: int, seed: int, training: bool
) -> AtariEnvs:
    """EnvPool environments of an Atari game, with the options of `env` other than its protocol and number: grey frames,
    maximum of the last two of four. See `Task.make`.

    Raises:
        ValueError: not the canonical name of an Atari game.
        UserError: the game has no such mode or difficulty (Machado et al., 2018).
    """
    if env.source == "ale":
        from rl.tasks import ale

        games = ale.make_pool(game, protocol, env, num_envs=num_envs, seed=seed)
        return AtariEnvs(games, num_envs, episodic_life=False, reward_scale=env.reward_scale)
    pool = make_pool(game, protocol, env, num_envs=num_envs, seed=seed, training=training)
    episodic_life = _episodic_life(protocol, training)
    return AtariEnvs(pool, num_envs, episodic_life=episodic_life, reward_scale=env.reward_scale)


def make_pool(
    game: str, protocol: AtariProtocol, env: EnvConfig, *, num_envs: int, seed: int, training: bool, **picture: Any
) -> Any:
    """EnvPool's pool behind `make_envs`; `picture`: options of its frames in place of the configuration's. With the
    same seed and actions the same games are played, whatever is made of their frames."""
    import envpool  # importing it takes a second: not before it is needed

    if game not in names():
        raise ValueError(f"{game!r} is not the name of an Atari game: rl.tasks.find takes any spelling of any task")
    frames = {"img_height": env.height, "img_width": env.width, "stack_num": env.stack}
    try:
        return envpool.make_gymnasium(
            f"{game}-v5",
            num_envs=num_envs,
            num_threads=env.threads,
            seed=environment_seeds(seed, num_envs),
            frame_skip=FRAME_SKIP,
            reward_clip=env.reward_clip,
            episodic_life=_episodic_life(protocol, training),
            noop_max=protocol.noop_max,
            use_fire_reset=protocol.fire_reset,
            repeat_action_probability=protocol.repeat_action_probability,
            full_action_space=protocol.full_action_space or env.full_actions,
            max_episode_steps=protocol.max_episode_steps,
            mode=-1 if env.mode is None else env.mode,
            difficulty=-1 if env.difficulty is None else env.difficulty,
            **(frames | picture),
        )
    except RuntimeError as error:
        if "mode requested" in str(error):
            raise UserError(f"{game} has no mode {env.mode}; leave the mode out to play the default") from error
        if "difficulty requested" in str(error):
            raise UserError(f"{game} has no difficulty {env.difficulty}; leave it out to play the default") from error
        raise


def _episodic_life(protocol: AtariProtocol, training: bool) -> bool:
    """Whether the pool ends an episode at a lost life. Where EnvPool presses FIRE, an agent never learns to. It does so
    after a lost life only with `episodic_life`, so evaluation keeps that (as Stable-Baselines3 and CleanRL do) and
    still plays and scores whole games."""
    return protocol.episodic_life and (training or protocol.fire_reset)
