"""Prioritized replay against the paper's formulas, written with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl.replay.device_ring import DeviceReplay
from rl.replay.prioritized import SMALLEST, Prioritized
from rl.replay.ring import FrameReplay, Layout, WeightedBatch
from rl.replay.sum_tree import SumTree
from rl.tasks.atari import AtariEnvs
from tests.rl.replay.replay_oracle import GAMMA, Actor, same
from tests.rl.tasks.scripted_env import FRAME_SHAPE, ScriptedPool, game

BATCH = 8
Kind = type[FrameReplay]
kinds = pytest.mark.parametrize("kind", [FrameReplay, DeviceReplay])


# The tree ------------------------------------------------------------------------------------------------------------

priorities = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
writes = st.lists(st.dictionaries(st.integers(0, 10**9), priorities, min_size=1, max_size=40), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.sampled_from([1, 2, 31, 32, 33, 1000, 1024, 1025, 40_000]), writes=writes, seed=st.integers(0, 99))
def test_the_tree_is_a_running_sum(size: int, writes: list[dict[int, float]], seed: int) -> None:
    tree, expected = SumTree(size), np.zeros(size)
    for write in writes:
        rows = {row % size: value for row, value in write.items()}
        expected[list(rows)] = list(rows.values())
        tree.set(torch.tensor(list(rows)), torch.tensor(list(rows.values()), dtype=torch.float64))
    np.testing.assert_array_equal(tree.leaves.numpy(), expected)
    total = float(tree.total)
    assert total == pytest.approx(expected.sum(), rel=1e-12)
    if total == 0:
        return
    fractions = np.append(np.random.default_rng(seed).random(50), [0.0, 1.0 - 2**-53])
    found = tree.find(torch.from_numpy(fractions * total)).numpy()
    assert (expected[found] > 0).all(), "a leaf of 0 is never found"
    upper = np.cumsum(expected)
    rounding = 1e-9 * total
    assert (upper[found] >= fractions * total - rounding).all()
    assert (upper[found] - expected[found] <= fractions * total + rounding).all()


def test_sums_do_not_depend_on_the_order_of_writes() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random(5_000))
    one, other = SumTree(5_000), SumTree(5_000)
    one.set(torch.arange(5_000), values)
    for rows in np.array_split(rng.permutation(5_000), 100):
        other.set(torch.from_numpy(rows), torch.rand(len(rows), dtype=torch.float64))
        other.set(torch.from_numpy(rows), values[rows])
    assert torch.equal(one.flat, other.flat)


# The replay ----------------------------------------------------------------------------------------------------------


def playing(kind: Kind, steps: int, *, alpha: float = 0.6, capacity: int = 60, n_step: int = 2) -> Actor:
    layout = Layout(capacity, 2, FRAME_SHAPE, 3, n_step, GAMMA)
    replay = kind(layout, "cpu", Prioritized(layout.slots * 2, alpha, BATCH))
    actor = Actor(replay, 2)
    games = [[game([1, 2, 3, 4], lives_lost=[1]), game([5, 6], limit=True)], [game([1] * 9)]]
    actor.start(AtariEnvs(ScriptedPool(games, stack=3), 2, episodic_life=True))
    for _ in range(steps):
        actor.step()
    return actor


def known(replay: FrameReplay) -> Prioritized:
    assert replay.priorities is not None
    return replay.priorities


def leaves(replay: FrameReplay) -> NDArray[np.float64]:
    return known(replay).tree.leaves.numpy().copy()


@kinds
def test_probabilities_are_those_of_equation_1(kind: Kind) -> None:
    """p = |error| + epsilon; new transitions have the largest p so far; invalid ones none; over the ring's end."""
    actor, alpha, rng = playing(kind, 0), 0.6, np.random.default_rng(3)
    replay = actor.replay
    p, largest = np.zeros(60), 1.0
    for t in range(90):
        actor.step()
        valid = replay._valid.reshape(-1)
        p = np.where(valid, np.where(p > 0, p, largest), 0.0)
        np.testing.assert_allclose(leaves(replay), np.where(p > 0, p**alpha, 0.0), rtol=1e-12)
        if len(replay) and t % 3 == 0:
            rows = rng.permutation(np.flatnonzero(valid))[:5]
            errors = rng.normal(size=len(rows)).astype(np.float32) * 3
            known(replay).update(torch.from_numpy(rows), torch.from_numpy(errors))
            p[rows] = np.abs(errors.astype(np.float64)) + SMALLEST
            largest = max(largest, p[rows].max())
    assert largest > 3
    assert (p > 0).sum() == len(replay) > 30


@kinds
def test_overwritten_transitions_are_never_drawn_nor_revived(kind: Kind) -> None:
    actor = playing(kind, 25)
    replay = actor.replay
    rows = torch.from_numpy(np.flatnonzero(replay._valid.reshape(-1)))
    for _ in range(12):  # while an update is under way, slots are taken
        actor.step()
    gone = ~torch.from_numpy(replay._valid.reshape(-1))[rows]
    assert gone.any()
    known(replay).update(rows, torch.full((len(rows),), 1e6))
    assert (leaves(replay)[rows[gone].numpy()] == 0).all()
    for seed in range(20):
        batch = replay.sample(BATCH * 10, np.random.default_rng(seed))
        assert isinstance(batch, WeightedBatch)
        assert replay._valid.reshape(-1)[batch.rows.numpy()].all()
        same_rows = replay.transitions(batch.rows.numpy())
        same(same_rows, type(same_rows)(**{name: getattr(batch, name) for name in vars(same_rows)}))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_draws_have_these_probabilities_and_are_stratified(alpha: float) -> None:
    replay = playing(FrameReplay, 40, alpha=alpha).replay
    rows = np.flatnonzero(replay._valid.reshape(-1))
    errors = np.linspace(0.1, 3, len(rows))
    known(replay).update(torch.from_numpy(rows), torch.from_numpy(errors))
    probability = (errors + SMALLEST) ** alpha / ((errors + SMALLEST) ** alpha).sum()
    batches = 4_000
    drawn = known(replay).draw(replay._valid.reshape(-1), BATCH * batches, np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=60)[rows]
    expected = probability * BATCH * batches
    assert counts.sum() == BATCH * batches
    # Stratified draws vary less than independent ones, for which this is chi-square with len(rows) - 1.
    assert ((counts - expected) ** 2 / expected).sum() < len(rows) + 4 * np.sqrt(2 * len(rows))
    upper = np.cumsum(probability)
    for batch in drawn.reshape(batches, BATCH)[:200]:
        place = np.searchsorted(rows, batch)
        stratum = np.arange(BATCH)
        assert (upper[place] >= stratum / BATCH - 1e-9).all()
        assert (upper[place] - probability[place] <= (stratum + 1) / BATCH + 1e-9).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_are_the_papers(beta: float) -> None:
    """w_i = (N P(i))^-beta / max_j w_j, the largest of each batch."""
    replay = playing(FrameReplay, 40).replay
    valid = np.flatnonzero(replay._valid.reshape(-1))
    known(replay).update(torch.from_numpy(valid), torch.from_numpy(np.geomspace(0.01, 5, len(valid))))
    probability = leaves(replay) / leaves(replay).sum()
    rows = np.random.default_rng(1).choice(valid, (3, BATCH))
    w = (len(replay) * probability[rows]) ** -beta
    expected = w / w.max(1, keepdims=True)
    found = known(replay).weights(torch.from_numpy(rows), beta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        known(replay).weights(torch.from_numpy(rows), torch.tensor(beta)).numpy(), expected, 1e-5
    )


def test_an_error_that_is_not_finite_counts_as_the_largest() -> None:
    replay = playing(FrameReplay, 40, alpha=1.0).replay
    rows = torch.from_numpy(np.flatnonzero(replay._valid.reshape(-1))[:4])
    known(replay).update(rows, torch.tensor([2.0, torch.nan, torch.inf, 0.0]))
    assert leaves(replay)[rows.numpy()].tolist() == pytest.approx([2, 1, 1, SMALLEST], rel=1e-5)
    assert float(known(replay).largest) == pytest.approx(2, rel=1e-5)


@kinds
@pytest.mark.parametrize("steps", [7, 70], ids=["filling", "full"])
def test_saved_and_loaded_goes_on_alike(tmp_path: Path, kind: Kind, steps: int) -> None:
    actor = playing(kind, steps)
    rows = torch.from_numpy(np.flatnonzero(actor.replay._valid.reshape(-1)))
    known(actor.replay).update(rows, torch.rand(len(rows), generator=torch.Generator().manual_seed(0)) * 7)
    actor.replay.save(tmp_path)
    other = playing(kind, 33).replay  # what it held is forgotten
    other.load(tmp_path)
    assert torch.equal(known(other).tree.flat, known(actor.replay).tree.flat)
    for k in range(20):
        step = actor.envs.step(np.array([k, k]))
        for replay in (actor.replay, other):
            replay.add(np.array([k, k]), step)
        assert torch.equal(known(other).tree.flat, known(actor.replay).tree.flat)
        one, two = (replay.sample(2 * BATCH, np.random.default_rng(k)) for replay in (actor.replay, other))
        same(one, two)
    (tmp_path / "replay-priorities.npy").unlink()
    with pytest.raises(ValueError, match="no priorities"):
        other.load(tmp_path)


def test_memory_is_what_preflight_counts() -> None:
    assert SumTree(1_000_000).flat.nbytes <= 9e6


# Learning ----------------------------------------------------------------------------------------------------------


def cliffwalk(alpha: float, limit: int, states: int = 8) -> int:
    """Updates, at most `limit`, until the values of the Blind Cliffwalk (section 3.1 there) are known to 1e-3.

    In state s the right action leads on, the wrong one ends the episode; only the last right one is rewarded. The
    memory is what all sequences of actions show: state s half as often as the one before it.
    """
    seen = np.repeat(np.arange(states), 2 ** np.arange(states)[::-1])
    state, right = np.tile(seen, 2), np.arange(2 * len(seen)) < len(seen)
    gamma = 1 - 1 / states
    true = np.stack((np.zeros(states), gamma ** np.arange(states)[::-1]), 1)
    rng = np.random.default_rng(0)
    q = rng.normal(scale=0.1, size=(states + 1, 2))
    q[states] = 0
    replay = Prioritized(len(state), alpha, 1)
    replay.changed(torch.arange(len(state)), torch.ones(len(state), dtype=torch.bool))
    for update in range(limit):
        (row,) = replay.draw(np.ones(1, np.bool_), 1, rng)
        s, a = state[row], int(right[row])
        last = s == states - 1
        target = float(last) if a and last else gamma * q[s + 1].max() if a else 0.0
        error = target - q[s, a]
        q[s, a] += 0.25 * error
        replay.update(torch.tensor([row]), torch.tensor([error]))
        if update % 20 == 0 and ((q[:states] - true) ** 2).mean() < 1e-3:
            return update
    return limit


def test_rare_rewards_are_learned_with_fewer_updates() -> None:
    """As the paper's figure 1 has it: uniform draws need several times as many."""
    needed = cliffwalk(alpha=1.0, limit=2_000)
    assert needed < 2_000
    assert cliffwalk(alpha=0.0, limit=3 * needed) == 3 * needed
