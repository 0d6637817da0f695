"""Games that an agent plays, moment by moment: the evaluator's own games, seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl import tasks
from rl.agent import Agent
from rl.evaluate import Tell, play_games
from rl.step import Environments, Step
from rl.tasks import EnvConfig
from rl.view.screens import Screens, make_screens


@dataclass(frozen=True)
class Moment:
    """What is seen before an action of a game, or at its end.

    Attributes:
        game: its number, from 1.
        step: actions played so far.
        score: so far.
        picture: (height, width, 3) uint8.
        observation: what the network sees (stack, ...).
        values: of the actions (A,).
        action: that is played now; None: the game is over.
    """

    game: int
    step: int
    score: float
    picture: NDArray[np.uint8]
    observation: NDArray[Any]
    values: NDArray[np.float32]
    action: int | None

    @property
    def is_random(self) -> bool:
        """Whether the action is another one than the greedy one."""
        return self.action is not None and self.values[self.action] < self.values.max()


@dataclass(frozen=True)
class _Packed:
    """A moment with its pictures compressed: whole games of them fit in memory."""

    moment: dict[str, Any]
    arrays: dict[str, tuple[bytes, tuple[int, ...], np.dtype[Any]]]

    @classmethod
    def of(cls, moment: Moment) -> _Packed:
        values = dict(vars(moment))
        arrays = {name: values.pop(name) for name in ("picture", "observation")}
        packed = {name: (zlib.compress(a.tobytes(), 1), a.shape, a.dtype) for name, a in arrays.items()}
        return cls(values, packed)

    def unpacked(self) -> Moment:
        arrays: dict[str, Any] = {
            name: np.frombuffer(zlib.decompress(data), dtype).reshape(shape)
            for name, (data, shape, dtype) in self.arrays.items()
        }
        return Moment(**self.moment, **arrays)


class Film:
    """Games of an agent, as `rl.evaluate.evaluate` plays them: the same environments, seeds, no-ops and random actions.

    Args:
        agent: who plays.
        game, env: what, as of `evaluate`.
        games: how many, at most as many as environments are evaluated together.
        seed, epsilon: as of `evaluate`.

    Attributes:
        scores: of the games, in their order; None: not over yet.
    """

    def __init__(
        self, agent: Agent, game: str, env: EnvConfig, *, games: int = 1, seed: int = 1, epsilon: float | None = None
    ) -> None:
        self._agent, self._env, self._seed = agent, env, seed
        self._task = tasks.find(game)
        self.games = games
        protocol = self._task.family.protocol(env.protocol)
        self.epsilon = protocol.eval_epsilon if epsilon is None else epsilon
        self.scores: list[float | None] = [None] * games

    def play(self, show: Callable[[Moment], None], tell: Tell = lambda done, total: None) -> None:
        """Play the games and show them one after another. (They are played side by side; while one is shown, the
        others' moments are kept.)"""
        self._show = show
        self._kept: list[list[_Packed]] = [[] for _ in range(self.games)]
        self._running, self._steps = np.zeros(self.games), np.zeros(self.games, np.int64)
        self._resets = np.zeros(self.games, np.bool_)  # the next action is ignored
        self._screens: Screens | None = None
        rng = np.random.default_rng(self._seed)
        try:
            play_games(self._act, self._make, self.games, self.epsilon, rng, self.games, self._watch, tell)
        finally:
            if self._screens is not None:
                self._screens.close()
        for kept in self._kept[1:]:
            for packed in kept:
                show(packed.unpacked())

    def _make(self, num_envs: int) -> Environments:
        self._screens = make_screens(self._task, self._env, num_envs=num_envs, seed=self._seed)
        self._pictures: NDArray[np.uint8] | None = None
        return self._task.make(self._env, num_envs=num_envs, seed=self._seed, training=False)

    def _act(self, observation: NDArray[Any], epsilon: float, rng: np.random.Generator) -> NDArray[np.int64]:
        assert self._screens is not None
        if self._pictures is None:
            self._pictures = self._screens.reset(observation)
        self._actions = self._agent.act(observation, epsilon, rng)
        self._values = self._agent.values(observation)
        for i, score in enumerate(self.scores):
            if score is None and not self._resets[i]:
                self._take(i, observation[i], self._values[i], int(self._actions[i]))
        return self._actions

    def _watch(self, step: Step, counts: NDArray[np.bool_]) -> None:
        assert self._screens is not None
        self._pictures = self._screens.step(self._actions, step)
        self._running += step.score
        self._steps += ~step.ignored
        self._resets = (step.terminated | step.truncated | step.game_over) & ~step.ignored
        for i in np.flatnonzero(step.game_over & counts).tolist():
            self.scores[i] = float(self._running[i])
            self._take(i, step.observation[i], self._values[i], None)

    def _take(self, i: int, observation: NDArray[Any], values: NDArray[np.float32], action: int | None) -> None:
        assert self._pictures is not None
        score = float(self._running[i])
        moment = Moment(i + 1, int(self._steps[i]), score, self._pictures[i], observation, values, action)
        if i == 0:
            self._show(moment)
        else:
            self._kept[i].append(_Packed.of(moment))
