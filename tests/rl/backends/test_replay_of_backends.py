"""What a backend's replay holds and makes targets of, against the truth of scripted environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.backends.base import LibraryTrainer
from tests.rl.backends.truth import GAMES, Transition, play_scripts, read, scripted_trainer, transitions

LIBRARIES = {"sb3": "stable_baselines3", "tianshou": "tianshou"}
GAMMA = 0.99


@pytest.fixture(params=LIBRARIES)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    play_scripts(monkeypatch)
    name: str = request.param
    return name


def stored(trainer: LibraryTrainer, i: int) -> list[Transition]:
    """What the replay holds of environment i, in order."""
    arrays, rows = trainer.algorithm.arrays(), trainer.algorithm.filled()
    if "dones" in arrays:
        ended, cut = arrays["dones"] > 0, arrays["timeouts"] > 0
        terminated, truncated = ended & ~cut, ended & cut
    else:
        terminated, truncated = arrays["terminated"], arrays["truncated"]
    return [
        Transition(
            read(arrays["observations"][t, i]),
            float(arrays["rewards"][t, i]),
            bool(terminated[t, i]),
            bool(truncated[t, i]),
            read(arrays["next_observations"][t, i]),
        )
        for t in range(rows)
    ]


def test_it_holds_every_transition_and_nothing_else(backend: str, tmp_path: Path) -> None:
    trainer = scripted_trainer(tmp_path / "run", backend)
    for _ in range(60):
        trainer.advance()
    assert trainer.algorithm.stored() == 60 * len(GAMES)
    for i, games in enumerate(GAMES):
        assert stored(trainer, i) == transitions(games, 60)
    actions = trainer.algorithm.arrays()["actions"][:60].reshape(60, len(GAMES))
    pool: Any = trainer.segment.envs._pool
    sent, truth = iter(pool.received), [transitions(games, 60) for games in GAMES]
    for t in range(60):
        np.testing.assert_array_equal(actions[t], next(sent))
        if any(games[t].terminated or games[t].truncated for games in truth):
            next(sent)  # of the resets
    trainer.close()


def test_environments_made_anew_cut_the_episodes_that_run(backend: str, tmp_path: Path) -> None:
    trainer = scripted_trainer(tmp_path / "run", backend, segment_steps=1_000)
    while trainer.segment.number < 1:
        trainer.advance()
    played = trainer.step // len(GAMES)
    for _ in range(9):
        trainer.advance()
    kept = trainer.algorithm.filled()
    assert kept == 200  # replay_size 600
    for i, games in enumerate(GAMES):
        first = transitions(games, played)
        last = first[-1]
        first[-1] = Transition(last.before, last.reward, last.terminated, not last.terminated, last.after)
        everything = first + transitions(games, 9, run=1)
        ring = [everything[t] for t in range(len(everything) - kept, len(everything))]
        start = len(everything) % kept
        assert stored(trainer, i) == ring[-start:] + ring[:-start] if start else ring
    trainer.close()


def n_step(of: list[Transition], t: int, n: int) -> tuple[float, float, Transition]:
    """Sum of up to n rewards from transition t on, the discount behind them, the transition that ends them."""
    total, discount = 0.0, 1.0
    for one in of[t : t + n]:
        total += discount * one.reward
        discount *= GAMMA
        if one.terminated or one.truncated:
            break
    return total, 0.0 if one.terminated else discount, one


def value(newest: tuple[int, int, int]) -> float:
    """What the target network is to say of an observation with this newest frame."""
    run, number, frame = newest
    return 100.0 * run + 10.0 * number + frame


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_targets_stop_at_ends_and_cuts(backend: str, tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """R + gamma^m V(s'), over lost lives, ends, limits, and the cut between two segments; the last ones of the replay
    are bootstrapped earlier."""
    trainer = scripted_trainer(tmp_path / "run", backend, n_step=n, segment_steps=1_000)
    while trainer.segment.number < 1:
        trainer.advance()
    for _ in range(20):
        trainer.advance()
    rows = trainer.algorithm.filled()
    # In the order of time: the ring's oldest row is where the next one goes.
    oldest = (trainer.step // len(GAMES)) % rows
    order = [(oldest + t) % rows for t in range(rows)]
    for i in range(len(GAMES)):
        ring = stored(trainer, i)
        truth = [ring[row] for row in order]
        assert {one.before[0][0] for one in truth} == {0, 1}  # the cut is among them
        targets = targets_of(trainer.algorithm, i, order, monkeypatch)
        for t in range(rows):
            total, discount, last = n_step(truth, t, n)
            assert targets[t] == pytest.approx(total + discount * value(last.after[-1]), rel=1e-5), (i, t)
    trainer.close()


def targets_of(algorithm: Any, i: int, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The targets that the library computes for rows of environment i, where the target network gives `value`."""

    def values(observations: Any) -> torch.Tensor:
        return torch.tensor([value(read(one)[-1]) for one in np.asarray(observations)], dtype=torch.float64)

    if hasattr(algorithm, "_dqn"):  # Tianshou
        replay, dqn = algorithm._replay, algorithm._dqn
        monkeypatch.setattr(dqn, "_target_q", lambda buffer, indices: values(buffer[indices].obs_next))
        indices = np.array(rows) + replay._offset[i]
        targets: list[float] = dqn._preprocess_batch(replay[indices], replay, indices).returns.flatten().tolist()
        return targets
    replay = algorithm._model.replay_buffer
    monkeypatch.setattr(np.random, "randint", lambda low, high=None, size=None: np.full(size, i))
    batch = replay._get_samples(np.array(rows))
    monkeypatch.undo()
    discounts = getattr(batch, "discounts", None)
    discount = GAMMA if discounts is None else discounts.double()
    target = batch.rewards.double() + (1 - batch.dones.double()) * discount * values(batch.next_observations)[:, None]
    whole: list[float] = target.flatten().tolist()
    return whole
