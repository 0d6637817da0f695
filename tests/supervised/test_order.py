from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervised.order import BatchOrder, Order, ShuffledOrder, pieces, share


def epochs(order: Order, number: int) -> list[list[int]]:
    """The samples of each epoch, as its updates give them."""
    found: list[list[int]] = [[] for _ in range(number)]
    for k in range(number * order.updates_per_epoch):
        update = order.update(k)
        found[update.epoch] += update.indices.tolist()
    return found


@given(size=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 9))
def test_every_sample_comes_at_most_once_an_epoch_and_all_but_the_last_few(size: int, batch: int, seed: int) -> None:
    order = ShuffledOrder(size, batch, seed)
    for samples in epochs(order, 3):
        assert len(samples) == len(set(samples)) == size - size % min(batch, size)
    assert order.samples(2 * order.updates_per_epoch) == 2 * (size - size % min(batch, size))


def test_epochs_have_orders_of_their_own_and_runs_of_another_seed_others() -> None:
    one, other = epochs(ShuffledOrder(40, 10, 1), 2)
    assert one != other
    assert sorted(one) == sorted(other)
    assert epochs(ShuffledOrder(40, 10, 2), 1)[0] != one


@given(start=st.integers(0, 40), seed=st.integers(0, 3))
def test_an_order_can_be_entered_anywhere(start: int, seed: int) -> None:
    """A resume asks for the updates from the one that comes next: they are those of the uninterrupted run."""
    batches = [np.arange(k, k + 3) for k in range(0, 21, 3)]
    for make in (lambda: ShuffledOrder(21, 3, seed), lambda: BatchOrder(batches, range(7), seed)):
        whole, entered = make(), make()
        expected = [whole.update(k).indices.tolist() for k in range(45)][start:]
        assert [entered.update(k).indices.tolist() for k in range(start, 45)] == expected


def test_batches_come_whole_each_once_an_epoch_with_their_items() -> None:
    batches = [np.array(batch) for batch in ([0, 1, 2], [3], [4, 5])]
    order = BatchOrder(batches, [30, 10, 20], seed=3)
    assert [sorted(samples) for samples in epochs(order, 4)] == [[0, 1, 2, 3, 4, 5]] * 4
    for k in range(12):
        update = order.update(k)
        assert update.items == 10 * len(update.indices)
    counts = np.cumsum([len(order.update(k).indices) for k in range(12)])
    assert [order.samples(k + 1) for k in range(12)] == counts.tolist()
    assert order.samples(0) == 0


@given(size=st.integers(1, 50), ranks=st.integers(1, 7), count=st.integers(1, 6))
def test_processes_and_passes_take_each_sample_once(size: int, ranks: int, count: int) -> None:
    indices = np.random.default_rng(size).permutation(size)
    shares = [share(indices, rank, ranks) for rank in range(ranks)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    parts = [part for one in shares for part in pieces(one, count)]
    assert len(parts) == ranks * count
    assert sorted(np.concatenate(parts).tolist()) == sorted(indices.tolist())


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    order = ShuffledOrder(5, 100, 0)
    assert order.updates_per_epoch == 1
    assert order.update(0).items == 5
    with pytest.raises(ZeroDivisionError):
        ShuffledOrder(0, 10, 0)
