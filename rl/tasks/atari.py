"""Atari environments stepped together by EnvPool, with its boundaries between episodes made explicit.

EnvPool (https://envpool.readthedocs.io) resets in the *next* step: the step after `terminated | truncated` ignores its
action and returns the first observation of the next episode with reward 0. With episodic life a lost life is such an
end, too, although the game, and with it the stack of frames, goes on. `AtariEnvs.step` says of every environment which
of all this happened, so that replay and returns need no guesses.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.cli.errors import UserError
from rl.step import Step, checked_actions, environment_seeds
from rl.tasks.protocols import FRAME_SKIP, AtariProtocol


@functools.cache
def names() -> tuple[str, ...]:
    """Names ("SpaceInvaders") of all games in EnvPool's registry, sorted."""
    from envpool.registration import registry  # importing EnvPool takes a second: not before it is needed

    atari = (env_id for env_id, (module, *_) in registry.specs.items() if module == "envpool.atari")
    return tuple(sorted(env_id.removesuffix("-v5") for env_id in atari))


class AtariEnvs:
    """N environments behind EnvPool's Gymnasium interface.

    Args:
        pool: EnvPool or anything with its `reset() -> observation, info` and
            `step(actions) -> observation, reward, terminated, truncated, info` (info: `reward`, `lives`, `terminated`),
            `observation_space.shape` (stack, H, W) and `action_space.n`. It must return fresh arrays in every step.
        num_envs: N.
        episodic_life: the pool ends an episode when a life is lost.
        reward_scale: factor on the reward to learn from, after EnvPool's clip.
    """

    def __init__(self, pool: Any, num_envs: int, *, episodic_life: bool, reward_scale: float = 1.0) -> None:
        self._pool = pool
        self._episodic_life = episodic_life
        self._reward_scale = np.float32(reward_scale)
        self.num_envs = num_envs
        self.num_actions = int(pool.action_space.n)
        self.stack, *frame_shape = pool.observation_space.shape
        self.frame_shape: tuple[int, ...] = tuple(frame_shape)
        self._observation: NDArray[np.uint8] | None = None  # of the previous step; None before reset()
        self._lives = np.zeros(num_envs, np.int32)
        self._episode_over = np.zeros(num_envs, np.bool_)  # in the previous step, so this one is a reset
        self._game_over = np.zeros(num_envs, np.bool_)

    def reset(self) -> NDArray[np.uint8]:
        """Start a new game in every environment; returns the observations (N, stack, H, W)."""
        observation, info = self._pool.reset()
        self._observation = observation
        self._lives = info["lives"]
        self._episode_over = np.zeros(self.num_envs, np.bool_)
        self._game_over = np.zeros(self.num_envs, np.bool_)
        return self._observation

    def step(self, actions: ArrayLike) -> Step:
        """Step all environments.

        Args:
            actions: integers (N,) in [0, num_actions).

        Raises:
            ValueError: actions of another shape, type or range (EnvPool would read past the end of its action table).
        """
        if self._observation is None:
            raise RuntimeError("reset() comes before step()")
        played = checked_actions(actions, self.num_envs, self.num_actions)
        observation, reward, terminated, truncated, info = self._pool.step(played)
        lives = info["lives"]
        ignored = self._episode_over
        # EnvPool reports a game or a life that ends at the very step limit as truncated only. There is nothing to
        # bootstrap from after an end, so here the end wins.
        game_ended = (info["terminated"] != 0) & ~ignored
        ended = game_ended
        if self._episodic_life:
            ended = ended | ((lives > 0) & (lives < self._lives))
        episode_over = (terminated | truncated) & ~ignored
        step = Step(
            observation=observation,
            reward=np.where(ignored, np.float32(0), reward) * self._reward_scale,
            score=np.where(ignored, np.float32(0), info["reward"]),
            terminated=episode_over & (terminated | ended),
            truncated=episode_over & ~ended & truncated,
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
        self._episode_over = episode_over
        self._game_over = step.game_over & ~ignored
        return step

    def close(self) -> None:
        """Free the environments and their threads. (EnvPool's own `close` does not; dropping the pool does.)"""
        self._pool = None


def make_envs(
    game: str,
    protocol: AtariProtocol,
    *,
    num_envs: int,
    seed: int,
    training: bool,
    height: int = 84,
    width: int = 84,
    stack: int = 4,
    threads: int = 0,
    reward_clip: bool = True,
    reward_scale: float = 1.0,
    mode: int | None = None,
    difficulty: int | None = None,
) -> AtariEnvs:
    """EnvPool environments of an Atari game: grey frames, maximum of the last two of four, `stack` of them.

    Args:
        game: its canonical name.
        seed: of the no-ops and of sticky actions. The same seed and actions give the same frames, whatever `threads`.
        training: lost lives end episodes where the protocol says so; evaluation counts whole games.
        threads: EnvPool's worker threads; 0: EnvPool chooses.
        reward_clip: learn from the reward's sign.
        reward_scale: factor on the reward to learn from, after the clip.
        mode, difficulty: the game's flavour (Machado et al., 2018); None: the game's default.

    Raises:
        UserError: the game has no such mode or difficulty.
        ValueError: not the canonical name of an Atari game.
    """
    import envpool  # importing it takes a second: not before it is needed

    if game not in names():
        raise ValueError(f"{game!r} is not the name of an Atari game: rl.tasks.find takes any spelling of any task")
    # Where EnvPool presses FIRE, an agent never learns to. It does so after a lost life only with `episodic_life`, so
    # evaluation keeps that (as Stable-Baselines3 and CleanRL do) and still plays and scores whole games.
    episodic_life = protocol.episodic_life and (training or protocol.fire_reset)
    try:
        pool = envpool.make_gymnasium(
            f"{game}-v5",
            num_envs=num_envs,
            num_threads=threads,
            seed=environment_seeds(seed, num_envs),
            img_height=height,
            img_width=width,
            stack_num=stack,
            frame_skip=FRAME_SKIP,
            reward_clip=reward_clip,
            episodic_life=episodic_life,
            noop_max=protocol.noop_max,
            use_fire_reset=protocol.fire_reset,
            repeat_action_probability=protocol.repeat_action_probability,
            full_action_space=protocol.full_action_space,
            max_episode_steps=protocol.max_episode_steps,
            mode=-1 if mode is None else mode,
            difficulty=-1 if difficulty is None else difficulty,
        )
    except RuntimeError as error:
        if "mode requested" in str(error):
            raise UserError(f"{game} has no mode {mode}; leave the mode out to play the default") from error
        if "difficulty requested" in str(error):
            raise UserError(f"{game} has no difficulty {difficulty}; leave it out to play the default") from error
        raise
    return AtariEnvs(pool, num_envs, episodic_life=episodic_life, reward_scale=reward_scale)
