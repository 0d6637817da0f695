"""An actor that fills a replay and writes down what it saw, and what the replay must therefore hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl.replay.ring import Batch, FrameReplay, Layout
from rl.tasks.atari import AtariEnvs
from tests.rl.tasks.scripted_env import FRAME_SHAPE, Game, ScriptedPool

GAMMA = 0.9


@dataclass
class Seen:
    """One step of one environment as the actor saw it."""

    time: int  # slot in an endless ring
    observation: NDArray[np.uint8]
    action: int
    reward: float
    terminated: bool
    truncated: bool
    ignored: bool
    next_observation: NDArray[np.uint8]


@dataclass
class Expected:
    observation: NDArray[np.uint8]
    reward: float
    next_observation: NDArray[np.uint8]
    discount: float


class Actor:
    """Plays, fills a replay and writes down what it saw; every action is a number of its own, by which it is known."""

    def __init__(self, replay: FrameReplay, num_envs: int) -> None:
        self.replay = replay
        self.log: list[list[Seen]] = [[] for _ in range(num_envs)]
        self.time = -1
        self.actions = 0

    def start(self, envs: AtariEnvs) -> None:
        self.envs = envs
        self.observation = envs.reset()
        self.replay.start(self.observation)
        self.time += 1

    def step(self, played: NDArray[np.int64] | None = None) -> None:
        """Step with the given actions, or those by which the transitions are known in the replay."""
        n = self.envs.num_envs
        known = self.actions + np.arange(n)
        self.actions += n
        step = self.envs.step(known if played is None else played)
        self.replay.add(known, step)
        for i in range(n):
            ends = bool(step.terminated[i]), bool(step.truncated[i]), bool(step.ignored[i])
            seen = self.observation[i], int(known[i]), float(step.reward[i]), *ends, step.observation[i]
            self.log[i].append(Seen(self.time, *seen))
        self.observation = step.observation
        self.time += 1

    def cut(self) -> None:
        """Running episodes end: what is left of them is only bootstrapped from."""
        self.replay.cut()
        for log in self.log:
            if log and log[-1].time == self.time - 1 and not (log[-1].terminated or log[-1].ignored):
                log[-1].truncated = True

    def expected(self, n_step: int, gamma: float, slots: int, stack: int) -> dict[int, Expected]:
        """Every valid transition by its action, straight from the definition."""
        oldest = max(0, self.time - slots + 1)
        first = oldest + stack - 1 if oldest > 0 else 0
        transitions = {}
        for log in self.log:
            for k, seen in enumerate(log):
                if seen.ignored or seen.time < first:
                    continue
                reward, m, complete, bootstrap = 0.0, 0, False, True
                for later in log[k : k + n_step]:
                    reward += gamma**m * later.reward
                    m += 1
                    if later.terminated or later.truncated or m == n_step:
                        complete, bootstrap = True, not later.terminated
                        break
                if complete:
                    discount = gamma**m if bootstrap else 0.0
                    transitions[seen.action] = Expected(seen.observation, reward, later.next_observation, discount)
        return transitions


def check(batch: Batch, expected: dict[int, Expected]) -> set[int]:
    """Every sampled transition is the expected one; returns the actions sampled."""
    actions, first = np.unique(batch.action.numpy(), return_index=True)
    for action, i in zip(actions.tolist(), first, strict=True):
        assert action in expected, "a transition that is none"
        want = expected[action]
        np.testing.assert_array_equal(batch.observation[i].numpy(), want.observation)
        np.testing.assert_array_equal(batch.next_observation[i].numpy(), want.next_observation)
        np.testing.assert_allclose(batch.reward[i].item(), want.reward, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i].item(), want.discount, rtol=1e-6)
    return set(actions.tolist())


def check_all(actor: Actor) -> None:
    """The valid transitions are exactly the expected ones."""
    replay = actor.replay
    layout = replay.layout
    slots = layout.slots * layout.num_envs // len(actor.log)
    expected = actor.expected(layout.n_step, layout.gamma, slots, layout.stack)
    assert len(replay) == len(expected)
    assert bool(len(replay)) == bool(expected)
    if expected:
        rng = np.random.default_rng(0)
        sampled = check(replay.sample(30 * len(expected), rng), expected)
        assert len(expected) - len(sampled) <= 1, "each is missed with probability e^-30"


def scripted(
    games: list[list[Game]],
    *,
    capacity: int = 1000,
    stack: int = 3,
    n_step: int = 1,
    steps: int = 0,
    episodic_life: bool = True,
) -> Actor:
    replay = FrameReplay(Layout(capacity, len(games), FRAME_SHAPE, stack, n_step, GAMMA))
    actor = Actor(replay, len(games))
    pool = ScriptedPool(games, stack=stack, episodic_life=episodic_life)
    actor.start(AtariEnvs(pool, len(games), episodic_life=episodic_life))
    for _ in range(steps):
        actor.step()
    return actor


def fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Batch)


def same(one: Batch, other: Batch) -> None:
    for field in fields():
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
