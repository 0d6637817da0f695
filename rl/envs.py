"""Atari environments stepped together by EnvPool, with its boundaries between episodes made explicit.

EnvPool (https://envpool.readthedocs.io) resets in the *next* step: the step after `terminated | truncated` ignores its
action and returns the first observation of the next episode with reward 0. With episodic life a lost life is such an
end, too, although the game, and with it the stack of frames, goes on. `AtariEnvs.step` says of every environment which
of all this happened, so that replay and returns need no guesses.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import UserError
from rl import games
from rl.config import EnvConfig
from rl.protocols import FRAME_SKIP, PROTOCOLS, Protocol


@dataclass(frozen=True)
class Step:
    """What one step of N environments returned; every array has N rows.

    Attributes:
        observation: uint8 (N, stack, H, W), newest frame last.
        reward: float32, the reward to learn from (its sign, where rewards are clipped).
        score: float32, the true reward.
        terminated: the learning episode ended in this step, by a lost life or the game's end: no bootstrap.
        truncated: the step limit cut the game in this step, and it had not ended: bootstrap from `observation`.
        game_over: a game ended or was cut in this step: its score is complete.
        ignored: an automatic reset: the action was ignored. Not a transition; reward and score are 0.
        new_game: `observation` starts a game: its stack holds `stack` copies of one frame (only where ignored).
        lives: int32, lives left.
    """

    observation: NDArray[np.uint8]
    reward: NDArray[np.float32]
    score: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    game_over: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    new_game: NDArray[np.bool_]
    lives: NDArray[np.int32]


class AtariEnvs:
    """N environments behind EnvPool's Gymnasium interface.

    Args:
        pool: EnvPool or anything with its `reset() -> observation, info` and
            `step(actions) -> observation, reward, terminated, truncated, info` (info: `reward`, `lives`, `terminated`),
            `observation_space.shape` (stack, H, W) and `action_space.n`. It must return fresh arrays in every step.
        num_envs: N.
        episodic_life: the pool ends an episode when a life is lost.
    """

    def __init__(self, pool: Any, num_envs: int, *, episodic_life: bool) -> None:
        self._pool = pool
        self._episodic_life = episodic_life
        self.num_envs = num_envs
        self.num_actions = int(pool.action_space.n)
        self.stack, *frame_shape = pool.observation_space.shape
        self.frame_shape: tuple[int, int] = (frame_shape[0], frame_shape[1])
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
        observation, reward, terminated, truncated, info = self._pool.step(self._checked(actions))
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
            reward=np.where(ignored, np.float32(0), reward),
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

    def _checked(self, actions: ArrayLike) -> NDArray[np.int32]:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"actions must be {self.num_envs} integers, got {array.dtype} of shape {array.shape}")
        if array.min() < 0 or array.max() >= self.num_actions:
            raise ValueError(f"actions must be in [0, {self.num_actions}), got {array.tolist()}")
        return array.astype(np.int32)


def make_envs(
    game: str,
    protocol: Protocol,
    *,
    num_envs: int,
    seed: int,
    training: bool,
    height: int = 84,
    width: int = 84,
    stack: int = 4,
    threads: int = 0,
    reward_clip: bool = True,
    mode: int | None = None,
    difficulty: int | None = None,
) -> AtariEnvs:
    """EnvPool environments of an Atari game: grey frames, maximum of the last two of four, `stack` of them.

    Args:
        game: any spelling that `games.resolve` takes.
        seed: of the no-ops and of sticky actions. The same seed and actions give the same frames, whatever `threads`.
        training: lost lives end episodes where the protocol says so; evaluation counts whole games.
        threads: EnvPool's worker threads; 0: EnvPool chooses.
        reward_clip: learn from the reward's sign.
        mode, difficulty: the game's flavour (Machado et al., 2018); None: the game's default.

    Raises:
        UserError: unknown game, mode or difficulty.
    """
    import envpool  # importing it takes a second: not before it is needed

    game = games.resolve(game)
    # Where EnvPool presses FIRE, an agent never learns to. It does so after a lost life only with `episodic_life`, so
    # evaluation keeps that (as Stable-Baselines3 and CleanRL do) and still plays and scores whole games.
    episodic_life = protocol.episodic_life and (training or protocol.fire_reset)
    # EnvPool would give environment i the seed `seed + i`: neighbouring seeds would share most environments.
    seeds = 1 + np.random.SeedSequence(seed).generate_state(num_envs) % (2**31 - 2)
    try:
        pool = envpool.make_gymnasium(
            f"{game}-v5",
            num_envs=num_envs,
            num_threads=threads,
            seed=seeds,
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
    return AtariEnvs(pool, num_envs, episodic_life=episodic_life)


def configured_envs(game: str, env: EnvConfig, *, num_envs: int, seed: int, training: bool) -> AtariEnvs:
    """`make_envs` with the rules and frames of a configuration; `num_envs` in place of the configuration's own."""
    return make_envs(
        game,
        PROTOCOLS[env.protocol],
        num_envs=num_envs,
        seed=seed,
        training=training,
        height=env.height,
        width=env.width,
        stack=env.stack,
        threads=env.threads,
        reward_clip=env.reward_clip,
        mode=env.mode,
        difficulty=env.difficulty,
    )


class EpisodeTracker:
    """Scores of finished games: true rewards summed from a game's start to its end or cut, over lost lives.

    Attributes:
        scores: of the latest `window` finished games, oldest first.
        finished: number of games finished so far.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.scores: deque[float] = deque(maxlen=window)
        self.finished = 0
        self._running = np.zeros(num_envs)

    def add(self, step: Step) -> list[float]:
        """Take in one step; returns the scores of the games that it finished, in the environments' order."""
        self._running += step.score
        finished: list[float] = self._running[step.game_over].tolist()
        self._running[step.game_over] = 0.0
        self.scores.extend(finished)
        self.finished += len(finished)
        return finished

    def cut(self) -> None:
        """Forget the games in flight: their environments are re-created."""
        self._running[:] = 0.0

    def recent_mean(self) -> float:
        """Mean of `scores`; NaN as long as no game is finished."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {"scores": list(self.scores), "finished": self.finished, "running": self._running.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.scores = deque(state["scores"], maxlen=self.scores.maxlen)
        self.finished = state["finished"]
        self._running = np.array(state["running"], np.float64)
